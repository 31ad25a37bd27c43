from __future__ import annotations

import base64
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from medkd.inference import cohort_report
from medkd.inference.cohort_report import write_cohort_report

SHA256 = "0123456789abcdef" * 4
# Not real pictures: the page does not look into them.
PNG = b"\x89PNG\r\n\x1a\n not a real one"


def done(name: str, labels: dict[str, dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """A row of a scan; its labels are as usual, but for their figures."""
    figures = {"volume_ml": 203.06, "voxels": 22567, "length_mm": 98.0, "mean_hu": -110.24, "sd_hu": 21.0}
    figures |= {"touches_border": False, "components": 3}
    labels = {label: figures | own for label, own in ({"spleen": {}} if labels is None else labels).items()}
    measurements = {"labels": labels, "model": "unet_s1", "model_sha256": SHA256, "backend": "openvino"}
    measurements |= {"seconds": 1.0, "peak_mb": 412}
    return {
        "name": name,
        "scan": f"{name}.nii.gz",
        "state": "done",
        "seconds": 1.94,
        "error": None,
        "mask": f"{name}_seg.nii.gz",
        "preview": None,
        "dicom_seg": None,
        "measurements": measurements,
        "key": "1",
    } | changes


def failed(name: str, error: str = "it is truncated: copy it again.") -> dict[str, Any]:
    nothing = {"mask": None, "measurements": None}
    return done(name, state="failed", error=error, seconds=0.2) | nothing


class Page(HTMLParser):
    """What a reader finds in a page: rows of the table of scans, names of its columns, all text, all elements."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.columns: list[str] = []
        self.rows: list[list[str]] = []
        self.states: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str | None, str] = {}
        self.text = ""
        self._open: list[str] = []
        self._in_scans = False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.elements.append((tag, attributes))
        self._open.append(tag)
        self._in_scans = self._in_scans or attributes.get("id") == "scans"
        if self._in_scans and tag == "tr" and "tbody" in self._open:
            self.rows.append([])
            self.states.append(attributes["data-state"] or "")
        if self._in_scans and tag in ("th", "td"):
            (self.rows[-1] if "tbody" in self._open else self.columns).append("")
        if tag in ("img", "meta", "input"):
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self._in_scans = self._in_scans and tag != "table"

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[self.elements[-1][1].get("id")] = data
        elif "style" not in self._open:
            self.text += data
        if self._in_scans and ("th" in self._open or "td" in self._open):
            (self.rows[-1] if "tbody" in self._open else self.columns)[-1] += data


def page_of(rows: list[dict[str, Any]], out: Path) -> Page:
    path = write_cohort_report(rows, out)
    assert path == out / "report.html"
    assert [file.name for file in out.iterdir() if file.name.startswith(".")] == []
    return Page(path)


def test_a_line_for_each_scan_and_label(tmp_path: Path) -> None:
    labels = {"spleen": {}, "gallbladder": {"volume_ml": 0.037, "mean_hu": 8.0, "touches_border": True}}
    page = page_of([done("sub-01/ct", labels), failed("sub-02/ct")], tmp_path)
    assert page.columns == [
        *("Scan", "Label", "Volume, ml", "Length, mm", "Mean HU", "SD HU", "Touches border", "Components"),
        *("Seconds", "Peak MB", "Flags"),
    ]
    assert page.rows == [
        ["sub-01/ct", "spleen", "203.1", "98.0", "−110.2", "21.0", "no", "3", "1.9", "412", "–"],
        [
            *("sub-01/ct", "gallbladder", "0.04", "98.0", "8.0", "21.0", "yes", "3", "1.9", "412"),
            "touches border (may be cut off)",
        ],
        ["sub-02/ct", *"––––––", "–", "0.20", "–", "Failed it is truncated: copy it again."],
    ]
    assert page.states == ["fine", "flagged", "failed"]


def test_uncertainty_has_a_column_only_where_it_was_asked_for(tmp_path: Path) -> None:
    rows = [done("a", {"spleen": {"uncertainty": 0.083}}), done("b"), done("c", {"spleen": {"uncertainty": None}})]
    page = page_of(rows, tmp_path)
    place = page.columns.index("Uncertainty")
    assert [row[place] for row in page.rows] == ["0.08", "–", "–"]
    assert "Uncertainty" not in page_of([done("b")], tmp_path).columns


def test_an_empty_mask_has_no_hu(tmp_path: Path) -> None:
    nothing = {"volume_ml": 0.0, "length_mm": 0.0, "mean_hu": None, "sd_hu": None, "components": 0}
    page = page_of([done("a", {"spleen": nothing})], tmp_path)
    assert page.rows == [["a", "spleen", "0.0", "0.0", "–", "–", "no", "0", "1.9", "412", "nothing found"]]


def test_the_summary(tmp_path: Path) -> None:
    rows = [done(f"scan {number}", seconds=1800.0 + number) for number in range(3)] + [failed("bad")]
    rows[1] = done("scan 1", {"a": {"components": 6}, "b": {"touches_border": True}}, seconds=1801.0)
    rows[2]["measurements"] = rows[2]["measurements"] | {"peak_mb": 1412}
    page = page_of(rows, tmp_path)
    assert "3done1failed1flagged" in page.text
    assert "unet_s1 0123456789ab" in page.text and SHA256 not in page.text
    # 1800 + 1801 + 1802 + 0.2 s; the median of the four is 1800.5 s.
    assert "1:30:03, 1800.5 s for the median scan" in page.text
    assert "at most 1,412 MB" in page.text
    assert "For research use." in page.text and "no one has checked them" in page.text
    assert "More than one model" not in page.text


def test_masks_of_two_models_are_told_apart(tmp_path: Path) -> None:
    other = done("b")
    other["measurements"] = other["measurements"] | {"model_sha256": "f" * 64, "backend": "torch"}
    page = page_of([done("a"), other], tmp_path)
    assert "unet_s1 0123456789ab, unet_s1 ffffffffffff" in page.text
    assert "openvino, torch" in page.text
    assert "More than one model drew these masks" in page.text


def test_outliers_of_a_cohort_are_flagged_with_what_is_usual(tmp_path: Path) -> None:
    # As worked out in test_outliers.py: 100 ± 5.19.
    volumes = [98, 99, 99, 100, 100, 101, 101, 102, 106]
    rows = [done(f"scan {volume} {i}", {"liver": {"volume_ml": float(volume)}}) for i, volume in enumerate(volumes)]
    page = page_of(rows, tmp_path)
    flagged = {row[0]: row[-1] for row in page.rows if row[-1] != "–"}
    assert flagged == {"scan 106 8": "volume high (usual 94.8 to 105.2)"}
    # The rule stands in the page, and so do the figures it rests on.
    assert "0.6745 × (value − median) / MAD, is beyond ±3.5" in page.text
    assert "100.0 94.8 to 105.2" in page.text


def test_an_empty_cohort(tmp_path: Path) -> None:
    page = page_of([], tmp_path)
    assert "There are no scans." in page.text
    assert (page.rows, page.columns) == ([], [])


def test_a_cohort_that_failed_altogether(tmp_path: Path) -> None:
    page = page_of([failed("a", "no."), failed("b", "not at all.")], tmp_path)
    assert "0done2failed0flagged" in page.text
    assert [row[-1] for row in page.rows] == ["Failed no.", "Failed not at all."]


def test_a_scan_without_labels_and_one_without_time(tmp_path: Path) -> None:
    page = page_of([done("a", {}), failed("b") | {"seconds": None}], tmp_path)
    assert page.rows == [
        ["a", *"–––––––", "1.9", "412", "–"],
        ["b", *"–––––––––", "Failed it is truncated: copy it again."],
    ]


NASTY = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '" onclick="alert(1)" x=\'',
    "a & b &lt; &amp;quot;",
    "--> <!-- ]]>",
    "Milz_größe_脾臓_\u202egnp.exe",
    "{{x}} ${x} `x` \\ %3C",
]


@pytest.mark.parametrize("nasty", NASTY)
def test_names_and_sentences_are_shown_as_they_are(nasty: str, tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(PNG)
    row = done(nasty, {nasty: {"components": 6}}, preview="p.png")
    row["measurements"] = row["measurements"] | {"model": nasty, "backend": nasty}
    page = page_of([row, failed("~", nasty)], tmp_path)
    harmless = page_of([done("a", {"b": {"components": 6}}, preview="p.png"), failed("~")], tmp_path)
    # Text and attributes read back as they were, and no element or attribute came of them.
    assert page.rows[0][:2] == [nasty, nasty]
    assert page.rows[1][-1] == f"Failed {nasty}"
    assert page.text.count(nasty) == 6
    assert ("button", {"type": "button", "aria-label": f"Preview of {nasty}"}) in page.elements
    assert [(tag, list(of)) for tag, of in page.elements] == [(tag, list(of)) for tag, of in harmless.elements]


def test_a_name_that_is_no_unicode(tmp_path: Path) -> None:
    name = b"scan_\xff".decode("utf-8", "surrogateescape")
    assert page_of([done(name)], tmp_path).rows[0][0] == "scan_?"


def test_the_last_row_of_a_name_counts_and_the_order_of_rows_does_not(tmp_path: Path) -> None:
    rows = [done(f"scan {number}") for number in (10, 9, 2, 1)] + [failed("scan 02")]
    page = page_of([failed("scan 9"), *rows], tmp_path)
    assert [row[0] for row in page.rows] == ["scan 1", "scan 02", "scan 2", "scan 9", "scan 10"]
    assert page.states == ["fine", "failed", "fine", "fine", "fine"]
    random.Random(1).shuffle(rows)
    assert page_of(rows, tmp_path).source == page.source


def test_previews_are_part_of_the_page(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    (out / "sub" / "a_preview.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(b"not of this cohort")
    rows = [
        done("a", {"spleen": {}, "liver": {}}, preview="sub/a_preview.png"),
        done("lost", preview="lost.png"),
        done("none"),
        done("outside", preview="../secret.png"),
        failed("z"),
    ]
    page = page_of(rows, out)
    encoded = {name: text for name, text in page.scripts.items() if name}
    assert {name: base64.b64decode(text) for name, text in encoded.items()} == {"preview-0": PNG}
    opening = [of["aria-label"] for tag, of in page.elements if tag == "button" and "aria-label" in of]
    assert opening == ["Preview of a", "Preview of a"]


def test_previews_that_are_too_large_stay_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort_report, "MOST_PREVIEW_BYTES", 2 * len(PNG))
    names = ["a b.png", "ü?#%.png", "javascript:x.png"]
    for name in names:
        (tmp_path / name).write_bytes(PNG)
    small = page_of([done(name, preview=name) for name in names[:2]], tmp_path)
    assert len([name for name in small.scripts if name]) == 2 and "keep it in its folder" not in small.text
    page = page_of([done(name, preview=name) for name in names], tmp_path)
    assert [name for name in page.scripts if name] == []
    files = [of["data-file"] for tag, of in page.elements if tag == "tr" and "data-file" in of]
    assert sorted(map(str, files)) == ["%C3%BC%3F%23%25.png", "a%20b.png", "javascript%3Ax.png"]
    assert "keep it in its folder" in page.text


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    page = page_of([done("a"), failed("b")], tmp_path)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page.source.replace("// ", ""))
    assert not [tag for tag, of in page.elements if tag in ("link", "iframe", "object", "base") or "src" in of]
    policies = [of["content"] or "" for _, of in page.elements if of.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1
    rules = dict(rule.split(" ", 1) for rule in policies[0].split("; "))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    assert "unsafe" not in policies[0]
