"""The page of a study: what it shows, that it says the same as the tables, and that it needs nothing else."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from typing import Any

import matplotlib
import numpy as np
import pytest

from medkd.study import wording
from medkd.study.html_report import html_report
from medkd.study.pictures import Picture
from medkd.study.tables import study_tables

HOSTILE = "<script>alert('x')</script>&\"$\\frac{1"
NO_END = {"meta", "img", "br"}


class Page(HTMLParser):
    """Collects tags, attributes and text, by section too, and fails on tags that are not closed in order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.sections: list[list[str]] = [[]]
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in NO_END:
            self.open.append(tag)
        if tag == "section":
            self.sections.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.sections[-1].append(data)

    @property
    def words(self) -> str:
        return " | ".join(map(_joined, self.sections))

    def section(self, heading: str) -> str:
        (found,) = (words for words in map(_joined, self.sections) if words.startswith(heading))
        return found

    def count(self, tag: str, **attributes: str) -> int:
        return sum(name == tag and attributes.items() <= own.items() for name, own in self.tags)


def _joined(pieces: list[str]) -> str:
    return " ".join(" ".join(pieces).split())


def make_picture(name: str = "volume_3", title: str = "S1, control") -> Picture:
    truth = np.zeros((30, 40), dtype=bool)
    truth[10:20, 20:30] = True
    masks = {f"Student alone: {title}": np.roll(truth, 1, axis=1)}
    return Picture(name, "median case, slice 4", np.linspace(0, 1, 1200).reshape(30, 40), truth, masks)


@pytest.fixture
def results(small_results: dict[str, Any]) -> dict[str, Any]:
    """A study that is nearly done: one row lacks a seed, one has failed."""
    small_results["study"]["pictures"] = {"teacher": "big", "student": "control", "distilled": "b"}
    late = {**small_results["study"]["runs"][3], "name": "late", "title": "B + E + D"}
    small_results["study"]["runs"].append(late)
    table = small_results["study"]["tables"][0]
    table["rows"].append("late")
    table["distilled"].append("late")
    small_results["published"]["late"] = {"dice": 0.744}
    del small_results["runs"]["pmd"][1]
    small_results["failed"] = {"late-0": "the loss is not a number: choose a smaller learning rate."}
    small_results["missing"] = ["late-1", "pmd-1"]
    return small_results


def test_needs_nothing_from_outside(results: dict[str, Any]) -> None:
    content = html_report(results, [make_picture()])
    page = Page(content)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed"}
    attributes = [pair for _, own in page.tags for pair in own.items()]
    references = [value for name, value in attributes if name in ("src", "href", "xlink:href")]
    references += re.findall(r"url\(([^)]*)\)", content)
    ids = {value for name, value in attributes if name == "id"}
    assert {"#table-1", "#reading", "#scaled"} < set(references)
    for reference in references:
        assert reference.startswith("data:image/png;base64,") or reference.removeprefix("#") in ids
    assert "//" not in re.sub(r'src="[^"]*"', "", content)
    assert not any(name.startswith("on") for name, _ in attributes)


def test_figures_stand_beside_the_published_ones(results: dict[str, Any]) -> None:
    words = Page(html_report(results, [])).section("KD(T1, S1)")
    for row in (
        "Run Dice Against the control Pooled slices Published",
        "Dice Gain over S1 alone Dice Gain over S1 alone",
        "S1 alone 0.500 ± 0.000 −0.120 ± 0.028 [−0.140, −0.100] 0.094 worse 0.510 – 0.715 –",
        "S1, control 0.620 ± 0.028 – – control 0.630 +0.120 – –",
        "B 0.730 ± 0.042 +0.110 ± 0.014 [+0.100, +0.120] 0.094 better 0.740 +0.230 0.763 +0.048",
        "B + E + D (0 of 2 seeds) – – – – – – 0.744 +0.029",
        # What is folded away: seeds, IoU, recall, precision, and the published ones.
        "B 2 0.500 0.700 0.800 57,297 213 0.617 0.704 0.833",
        "Thesis, Table 4.4. Control: S1, control. A note.",
    ):
        assert row in words


def test_says_the_same_as_the_tables(results: dict[str, Any]) -> None:
    page = Page(html_report(results, []))
    (table,) = study_tables(results)
    words = page.section("KD(T1, S1)")
    for row in table.rows:
        assert f"{wording.row_title(row)} {wording.figure(row.dice, row.seed_deviation)}" in words
        # In the table and in the forest plot.
        assert row.gain is None or words.count(wording.interval(row)) >= 2
    for sentence in (*wording.findings(table), *wording.anova(table), wording.unfinished(table)):
        assert sentence in words
    assert wording.findings(table)[0] in _joined(page.sections[0])
    assert wording.progress(results) in _joined(page.sections[0])
    for paragraph in wording.reading(results, [table]):
        assert paragraph in page.section("How to read the tables")


def test_forest_plot_has_a_mark_for_every_gain(results: dict[str, Any]) -> None:
    page = Page(html_report(results, []))
    legend = 1
    assert page.count("svg", **{"class": "own"}) == 3 + 2 * legend  # S1 alone, B, PMD
    assert page.count("svg", **{"class": "theirs"}) == 3 + legend  # B, PMD, the row that is not finished
    assert "B + E + D not finished" in page.section("KD(T1, S1)")


def test_networks_scale_and_making(results: dict[str, Any]) -> None:
    page = Page(html_report(results, []))
    networks = page.section("Networks")
    assert "multitask_unet 1 43,000,000 16,000 500.0 0.910 big" in networks
    # Of five runs one has nothing finished; the worst is S1 alone, the best B.
    assert "unet_s1 4 57,297 213 20.2 0.500 to 0.730 b" in networks
    assert "Dice against multiply-adds" in networks
    assert "Ten epochs instead of 120." in page.section("What was scaled down")
    assert "recipe distill epochs 10 schedule cosine" in page.section("What was scaled down")
    failed = page.section("Failed and missing runs")
    assert "late-0 failed: the loss is not a number: choose a smaller learning rate. Not run: late-1 , pmd-1" in failed
    made = page.section("How it was made")
    for fact in (
        "medkd study run hand.yaml --scale small --data btcv --out DIR",
        "btcv: 12 volumes",
        "Seeds 0, 1",
        "Some CPU",
        "PyTorch 2.8.0",
        "16 min 40 s",
    ):
        assert fact in made
    listed = made.partition("What every run was Run Title Recipe Network Teacher Method Overrides ")[2]
    assert listed.startswith("big T1 spleen_ct_teacher/train multitask_unet – – – alone S1 alone")
    assert "control S1, control spleen_ct_student/distill – big of the recipe weights::pmd 0.0 b B" in listed


def test_curves_are_means_with_every_seed_behind(results: dict[str, Any]) -> None:
    for number, run in enumerate(results["runs"]["b"]):
        run["history"] = [{"epoch": epoch, "val_dice": 0.1 * epoch + 0.2 * number} for epoch in (2, 4, 6)]
    content = html_report(results, [])
    chart = content[content.index("Dice on the validation volumes</b>") :].partition("</figure>")[0]
    paths = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="([^"]*stroke: #0072b2[^"]*)"', chart)
    heights = [[float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)] for path, _ in paths]
    assert len(heights) == 3
    low, high, mean = heights
    np.testing.assert_allclose(mean, (np.array(low) + high) / 2, atol=1e-3)
    widths = [float(width[1]) for _, style in paths if (width := re.search(r"stroke-width: ([\d.]+)", style))]
    assert widths == [0.8, 0.8, 1.6]
    assert "Student distilled: B" in Page(content).section("How training went")


def test_pictures_are_input_truth_and_models(results: dict[str, Any]) -> None:
    page = Page(html_report(results, [make_picture(), make_picture("volume_5")]))
    drawn = page.section("What the models drew")
    assert "volume_3 median case, slice 4 Input the slice Truth enlarged Student alone: S1, control Dice 0.900" in drawn
    assert page.count("img") == 2 * 3
    assert page.count("img", alt="Input, the slice") == 2


def test_works_without_pictures_published_figures_and_results(results: dict[str, Any]) -> None:
    results["published"] = {}
    results["study"]["scaled"], results["study"]["about"] = [], ""
    page = Page(html_report(results, []))
    assert "What the models drew" not in page.words
    assert "Published" not in page.section("KD(T1, S1)")
    assert page.count("svg", **{"class": "theirs"}) == 0
    results |= {"runs": {}, "latency": {}, "machine": None, "seconds": 0}
    page = Page(html_report(results, []))
    for row in ("S1 alone (0 of 2 seeds)", "B (0 of 2 seeds)", *wording.findings(study_tables(results)[0])):
        assert row in page.section("KD(T1, S1)")
    for heading in ("How training went", "Networks", "Dice gained"):
        assert heading not in page.words
    assert page.count("svg", **{"class": "own"}) == 0


def test_a_table_without_published_control_has_no_gains_over_it(results: dict[str, Any]) -> None:
    results["study"]["tables"][0]["published_control"] = ""
    words = Page(html_report(results, [])).section("KD(T1, S1)")
    assert "Gain over" not in words
    assert "B 0.730 ± 0.042 +0.110 ± 0.014 [+0.100, +0.120] 0.094 better 0.740 0.763 PMD" in words


def hostile(value: Any) -> Any:
    """The value with text that would do harm after every name that people give."""
    if isinstance(value, dict):
        named = ("title", "about", "source", "note", "caption", "processor", "torch")
        return {key: f"{item} {HOSTILE}" if key in named else hostile(item) for key, item in value.items()}
    return [hostile(item) for item in value] if isinstance(value, list) else value


def test_text_is_escaped(results: dict[str, Any]) -> None:
    results = hostile(results)
    results["study"]["scaled"].append(HOSTILE)
    results["study"]["recipes"]["recipes"][HOSTILE] = {HOSTILE: HOSTILE}
    results["study"]["data"] = HOSTILE
    results["study"]["runs"][0] |= {"overrides": {HOSTILE: HOSTILE}, "method": HOSTILE}
    results["failed"][HOSTILE] = HOSTILE
    results["missing"].append(HOSTILE)
    for run in results["runs"]["big"]:
        run["network"]["name"] = HOSTILE
    page = Page(html_report(results, [make_picture(HOSTILE, HOSTILE)]))
    assert page.count("script") == 0
    assert "onerror" not in {name for _, own in page.tags for name in own}
    assert page.words.count(HOSTILE) > 40
    for section in ("KD(T1, S1)", "What the models drew", "How training went", "Networks", "What was scaled down",
                    "Failed and missing runs", "How it was made"):  # fmt: skip
        assert HOSTILE in page.section(section)


def test_same_text_whatever_the_style_of_the_user(results: dict[str, Any]) -> None:
    first = html_report(copy.deepcopy(results), [make_picture()])
    rude: Any = {"savefig.bbox": "tight", "axes.facecolor": "black", "font.size": 20, "svg.fonttype": "path"}
    with matplotlib.rc_context(rude):
        assert html_report(results, [make_picture()]) == first
