"""A split by slices: what is left out of the training, and that it is what the evaluation looks at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

import medkd.data
from medkd.bundle import STUDENT, TEACHER
from medkd.data import (
    Case,
    Preprocessing,
    SliceDataset,
    SliceSampler,
    SliceSplitDataset,
    SliceVolume,
    held_out_slices,
    load_volumes,
)
from medkd.engines import SavedModel
from medkd.errors import UserError
from medkd.inference import Segmenter, evaluate
from medkd.inference.backends import TorchBackend
from medkd.recipes import run_recipe


@pytest.mark.parametrize(
    ("count", "share", "drawn"), [(1, 0.2, 1), (2, 0.2, 1), (6, 0.2, 1), (8, 0.2, 2), (100, 0.2, 20), (10, 0.5, 5)]
)
def test_a_share_of_the_slices_and_at_least_one(count: int, share: float, drawn: int) -> None:
    held_out = held_out_slices("spleen_6", count, share)
    assert held_out.shape == (count,) and held_out.dtype == bool and held_out.sum() == drawn


def test_the_draw_depends_on_each_argument_and_on_nothing_else() -> None:
    ways: list[tuple[Any, ...]] = [("a", 90), ("b", 90), ("a", 91), ("a", 90, 0.3), ("a", 90, 0.2, 1)]
    np.random.seed(1)
    first = [held_out_slices(*way).tolist() for way in ways]
    np.random.seed(2)
    assert [held_out_slices(*way).tolist() for way in ways] == first
    assert len({tuple(flags) for flags in first}) == len(ways)


def test_the_draw_never_changes() -> None:
    """Whatever the process or the version of numpy: runs that are finished were trained without these slices."""
    assert np.flatnonzero(held_out_slices("spleen_6", 30)).tolist() == [0, 3, 4, 15, 19, 23]


def test_every_slice_has_its_chance() -> None:
    often = np.sum([held_out_slices(f"case_{number}", 10) for number in range(2000)], axis=0)
    # 2 of 10: 400 times each, give or take four standard deviations.
    assert often.sum() == 4000 and np.abs(often - 400).max() < 4 * np.sqrt(2000 * 0.2 * 0.8)


@pytest.mark.parametrize(("count", "share"), [(0, 0.2), (10, 0.0), (10, 1.0), (10, -0.1)])
def test_a_share_that_makes_no_sense_is_refused(count: int, share: float) -> None:
    with pytest.raises(UserError, match="left out"):
        held_out_slices("a", count, share)


def volumes(lengths: dict[str, int], labelled: bool = True) -> list[SliceVolume]:
    """Slice k of the volume number v holds the value 100 v + k; every third slice has foreground."""
    made = []
    for number, (name, count) in enumerate(lengths.items()):
        ones, rows = np.ones((count, 4, 4)), np.arange(count)[:, None, None]
        image = (ones * (100 * number + rows)).astype(np.float16)
        made.append(SliceVolume(name, image, (ones * (rows % 3 == 0)).astype(np.uint8) if labelled else None))
    return made


def values(dataset: SliceDataset) -> list[int]:
    return [int(dataset[position]["image"][0, 0, 0]) for position in range(len(dataset))]


@pytest.mark.parametrize("labelled", [True, False])
def test_the_training_holds_all_slices_but_those_left_out(labelled: bool) -> None:
    dataset = SliceSplitDataset(volumes({"a": 12, "b": 7}, labelled), "single")
    left_out = [*np.flatnonzero(held_out_slices("a", 12)), *(100 + np.flatnonzero(held_out_slices("b", 7)))]
    assert len(left_out) == 2 + 1 and len(dataset) == 16
    expected = [value for value in (*range(12), *range(100, 107)) if value not in left_out]
    assert values(dataset) == expected
    assert dataset.foreground().tolist() == [not labelled or value % 100 % 3 == 0 for value in expected]


def test_the_sampler_draws_the_slices_that_are_left() -> None:
    dataset = SliceSplitDataset(volumes({"a": 30, "b": 30}), "single")
    shown = values(dataset)
    assert sorted(shown[position] for position in SliceSampler(dataset)) == shown
    with_foreground = [value for value in shown if value % 100 % 3 == 0]
    assert sorted(shown[position] for position in SliceSampler(dataset, empty_per_foreground=0.0)) == with_foreground
    items = [dataset[position] for position in SliceSampler(dataset, empty_per_foreground=0.0)]
    assert all(item["label"].any() for item in items)


def test_neighbours_may_be_slices_that_are_left_out() -> None:
    """The leak that the docstring tells of."""
    row = int(np.flatnonzero(held_out_slices("a", 12)[1:-1])[0]) + 1
    dataset = SliceSplitDataset(volumes({"a": 12}), "neighbours")
    items = {int(item["image"][1, 0, 0]): item["image"][:, 0, 0].tolist() for item in dataset}
    assert row not in items and items[row + 1][0] == row


class Bright(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x - 0.5) * 10


@pytest.mark.parametrize("axcodes", ["RAS", "LAS", "RPI", "SAL", "PIR", "ILA"])
def test_the_evaluation_looks_at_exactly_the_slices_that_are_left_out(axcodes: str, tmp_path: Path) -> None:
    """Those slices, of a scan stored in any order, are bright, and all else is dark."""
    held_out = held_out_slices("scan", 11)
    array = np.broadcast_to(100 * held_out, (16, 16, 11)).astype(np.int16)
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    orientations = nibabel.orientations
    turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(axcodes))
    files = [tmp_path / part / "scan.nii.gz" for part in ("image", "label")]
    for file, content in zip(files, (array, np.ones_like(array)), strict=True):
        file.parent.mkdir()
        nibabel.save(nibabel.Nifti1Image(content, affine).as_reoriented(turn), file)
    case, preprocessing = Case("scan", *files), Preprocessing(16, (0.0, 100.0), "single")
    trained_on = SliceSplitDataset(load_volumes([case], preprocessing, [0, 1], tmp_path), "single")
    assert len(trained_on) == 11 - 2 and not any(item["image"].any() for item in trained_on)
    labels = {0: "background", 1: "all"}
    segmenter = Segmenter(TorchBackend(Bright(), "cpu"), SavedModel({}, preprocessing, labels))
    report = evaluate(segmenter, [case], labels, held_out_slices)
    for figures in (report["mean"], report["pooled_slices"]):
        assert figures["all"] == {"dice": 1.0, "iou": 1.0, "precision": 1.0, "recall": 1.0}
    assert evaluate(segmenter, [case], labels)["mean"]["all"]["recall"] == pytest.approx(2 / 11)


@pytest.mark.parametrize(
    ("bundle", "config", "parts"),
    [
        (TEACHER, "train", ["test"]),
        (TEACHER, "train", ["student", "test"]),
        (STUDENT, "train", ["test"]),
        (STUDENT, "distill", ["test"]),
    ],
)
def test_a_recipe_trains_on_other_slices_of_the_test_volumes(
    bundle: str, config: str, parts: list[str], tiny_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on: list[SliceSplitDataset] = []

    class Recorded(SliceSplitDataset):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            trained_on.append(self)

    small: dict[str, Any] = {
        "dataset_dir": str(tiny_task), "network_def::channels": [4, 8], "epochs": 1, "batch_size": 2
    }  # fmt: skip
    own: dict[str, Any] = {"size": 32}
    if config == "distill":
        own = {"teacher_run": str(run_recipe(TEACHER, "train", small | own, tmp_path / "teacher"))}
    monkeypatch.setattr(medkd.data, "SliceSplitDataset", Recorded)
    same_patients = {
        "train::volumes::cases": f"$@task.select({' + '.join('@split.' + part for part in parts)})",
        "train::dataset::_target_": "medkd.data.SliceSplitDataset",
    }
    run = run_recipe(bundle, config, small | own | same_patients, tmp_path / "run")
    assert len(json.loads((run / "history.json").read_text())) == 1
    (dataset,) = trained_on
    names = {volume.name for volume, _ in dataset.index}
    assert names >= set(json.loads((run / "splits.json").read_text())["test"])
    assert (len(names) > 1) == (parts != ["test"])
    assert len(dataset) == sum(6 - held_out_slices(name, 6).sum() for name in names)
