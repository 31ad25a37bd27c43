from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from medkd.study.demo_report import write_report
from medkd.study.pictures import Picture

HOSTILE = "<script>alert('x')</script>&\"$\\frac{1"
DICE = {"teacher": [0.91, 0.95], "student": [0.80, 0.84], "distilled": [0.85, 0.87]}
NAMES = {"teacher": "Teacher T", "student": "Student alone A", "distilled": "Student distilled D"}


def make_summary(label: str = "spleen", case: str = "case_1") -> dict[str, Any]:
    models: dict[str, Any] = {}
    for key, dice in DICE.items():
        cases = [
            {
                "name": name,
                "labels": {
                    label: {"dice": value, "iou": 0.7, "precision": 0.8, "recall": 0.9, "volume_ml": 150.25}
                    | {"true_volume_ml": 160.75}
                },
            }
            for name, value in zip((case, "case_2"), dice, strict=True)
        ]
        history: list[dict[str, Any]] = [
            {"epoch": epoch, "loss": 1 / epoch, "val_dice": 0.2 * epoch, "seconds": 1.5} for epoch in (1, 2, 3)
        ]
        del history[1]["val_dice"]  # validated every second epoch
        if key != "teacher":
            history = [row | {"segmentation": 0.5} for row in history]
        models[key] = {
            "name": NAMES[key],
            "parameters": {"teacher": 1_200_000}.get(key, 48_000),
            "macs": {"teacher": 900_000_000}.get(key, 30_000_000),
            "mean": {label: {"dice": sum(dice) / 2, "iou": 0.711, "precision": 0.822, "recall": 0.933}},
            "standard_deviation": {label: {"dice": 0.0283, "iou": 0.012, "precision": 0.013, "recall": 0.014}},
            "cases": cases,
            "pooled_slices": {label: {"dice": 0.777, "iou": 0.6, "precision": 0.6, "recall": 0.6}},
            "history": history,
            "seconds": 125.0,
        }
    for row in models["distilled"]["history"]:
        row |= {"pmd": 0.01, "my_term": 3.0}
    models["teacher"]["psnr"] = 27.34
    return {
        "title": "A title",
        "description": "What was run.",
        "models": models,
        "scaled": ["Volumes are drawn."],
        "inference": {
            "scan": "scan.nii.gz",
            "mask": "masks/scan_seg.nii.gz",
            "volumes_ml": {label: 213.4},
            "seconds": 0.5,
        },
        "machine": dict.fromkeys(("processor", "cores", "threads", "python", "torch", "monai", "medkd"), "m-1")
        | {"gpu": None},
        "seed": 7,
        "seconds": 3725.0,
    }


def make_picture(case: str = "case_1") -> Picture:
    truth = np.zeros((30, 40), dtype=bool)
    truth[10:20, 20:30] = True
    masks = {name: np.roll(truth, shift, axis=1) for shift, name in enumerate(NAMES.values())}
    return Picture(case, "median case", np.linspace(0, 1, 1200).reshape(30, 40), truth, masks)


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails on tags that are not closed in order."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += " " + data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def read(folder: Path, summary: dict[str, Any], pictures: list[Picture]) -> tuple[str, Page]:
    write_report(folder / "report.html", summary, pictures)
    assert [file.name for file in folder.iterdir()] == ["report.html"]
    content = (folder / "report.html").read_text(encoding="utf-8")
    return content, Page(content)


def test_needs_nothing_from_outside(tmp_path: Path) -> None:
    content, page = read(tmp_path, make_summary(), [make_picture()])
    assert not page.tags & {"script", "link", "iframe", "object", "embed"}
    references = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    references += re.findall(r"url\(([^)]*)\)", content)
    ids = {value for name, value in page.attributes if name == "id"}
    assert len(references) > 10
    for reference in references:
        assert reference.startswith("data:image/png;base64,") or reference.removeprefix("#") in ids
    assert "//" not in re.sub(r'src="[^"]*"', "", content)
    assert "@import" not in content
    assert not any(name.startswith("on") for name, _ in page.attributes)


def test_shows_models_and_figures(tmp_path: Path) -> None:
    _, page = read(tmp_path, make_summary(), [make_picture()])
    for name in NAMES.values():
        # tile, two tables, header of the volumes, picture, legend, loss
        assert page.words.count(name) == 7
    for figure in (
        "Teacher T 1,200,000 1.0 × 900.0 1.0 × 2 min 05 s",
        "Student alone A 48,000 25.0 × 30.0 30.0 × 2 min 05 s",
        "Teacher T 0.930 ± 0.028 0.711 ± 0.012 0.822 ± 0.013 0.933 ± 0.014 0.777 27.3",
        "Student distilled D 0.860 ± 0.028 0.711 ± 0.012 0.822 ± 0.013 0.933 ± 0.014 0.777 –",
        "case_1 160.8 0.910 150.2 0.800 150.2 0.850 150.2 +0.050",
        "case_2 160.8 0.950 150.2 0.840 150.2 0.870 150.2 +0.030",
        "Distillation raised the student's Dice by 0.040.",
        "case_1 median case",
        "Teacher T Dice 1.000 on this slice",
        "Student distilled D Dice 0.800 on this slice",
        "Prediction maps (PMD)",
        "my_term",
        "spleen 213.4 ml",
        "masks/scan_seg.nii.gz",
        "Volumes are drawn.",
        "PyTorch m-1",
        "GPU none",
        "Seed 7",
        "1 h 02 min",
    ):
        assert figure in page.words


def test_loss_has_its_own_words(tmp_path: Path) -> None:
    summary = make_summary()
    models = summary["models"]
    models["student"], models["distilled"] = (
        models["distilled"] | {"name": NAMES["student"], "history": models["student"]["history"]},
        models["student"] | {"name": NAMES["distilled"], "history": models["distilled"]["history"]},
    )
    _, page = read(tmp_path, summary, [])
    assert "Distillation lowered the student's Dice by 0.040." in page.words
    assert "here distillation did harm" in page.words
    assert "case_1 160.8 0.910 150.2 0.850 150.2 0.800 150.2 −0.050" in page.words
    assert "raised" not in page.words


def test_one_volume_has_no_spread(tmp_path: Path) -> None:
    summary = make_summary()
    for model in summary["models"].values():
        del model["cases"][1]
    _, page = read(tmp_path, summary, [])
    assert "±" not in page.words
    assert "One volume cannot show" in page.words


def test_every_label_is_reported(tmp_path: Path) -> None:
    summary, other = make_summary(), make_summary("liver")
    for key, model in summary["models"].items():
        for figures in ("mean", "standard_deviation", "pooled_slices"):
            model[figures] |= other["models"][key][figures]
        for case, addition in zip(model["cases"], other["models"][key]["cases"], strict=True):
            case["labels"] |= addition["labels"]
    _, page = read(tmp_path, summary, [])
    for heading in ("Dice of the", "Accuracy:", "Dice and measured volume:"):
        assert f"{heading} spleen" in page.words
        assert f"{heading} liver" in page.words


def test_text_is_escaped(tmp_path: Path) -> None:
    summary = make_summary(label=HOSTILE, case=HOSTILE)
    for place in (summary, summary["machine"], summary["inference"], *summary["models"].values()):
        place |= {key: HOSTILE for key, value in place.items() if isinstance(value, str)}
    summary["scaled"] = [HOSTILE]
    for row in summary["models"]["distilled"]["history"]:
        row[HOSTILE] = 1.0
    picture = make_picture(HOSTILE)
    hostile = Picture(HOSTILE, HOSTILE, picture.image, picture.truth, {HOSTILE: picture.truth})
    _, page = read(tmp_path, summary, [hostile])
    assert "script" not in page.tags
    assert page.words.count(HOSTILE) > 40


def test_same_bytes_whatever_the_style_of_the_user(tmp_path: Path) -> None:
    write_report(tmp_path / "first.html", make_summary(), [make_picture()])
    rude: Any = {"savefig.bbox": "tight", "axes.facecolor": "black", "font.size": 20, "svg.fonttype": "path"}
    with matplotlib.rc_context(rude):
        write_report(tmp_path / "second.html", make_summary(), [make_picture()])
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


@pytest.mark.parametrize("rows", [1, 2])
def test_pictures_decode(tmp_path: Path, rows: int) -> None:
    content, _ = read(tmp_path, make_summary(), [make_picture()] * rows)
    pictures = re.findall(r'src="data:image/png;base64,([^"]*)"', content)
    sizes = [Image.open(io.BytesIO(base64.b64decode(picture, validate=True))).size for picture in pictures]
    # 480 pixels / 40 columns = 12 per voxel; the models are shown in a window of 18 x 18 voxels at 27 each
    assert sizes == [(480, 360), (486, 486), (486, 486), (486, 486)] * rows
