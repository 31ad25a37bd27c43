"""The shifts of the robustness benchmark, on a scan small enough to be worked out by hand."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from medkd.data import volume_from_array

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def shifts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("shifts")


@pytest.fixture
def scan(shifts: ModuleType) -> Any:
    """A body of 40 HU in air of -125 HU, with a spleen of 120 HU at its left and a bone; 2 x 2 x 4 mm."""
    image = np.full((40, 32, 20), -125.0, np.float32)
    image[8:32, 8:24] = 40
    image[18:22, 10:12] = 275
    spleen = np.zeros(image.shape, bool)
    spleen[10:16, 12:20, 6:14] = True
    image[spleen] = 120
    return shifts.LabelledScan(image, spleen, (2.0, 2.0, 4.0))


def shift(shifts: ModuleType, name: str) -> Any:
    return next(members[name] for members in shifts.SHIFTS.values() if name in members)


def test_every_shift_gives_a_scan_with_its_spleen_or_none(shifts: ModuleType, scan: Any) -> None:
    for group, members in shifts.SHIFTS.items():
        for name, change in members.items():
            shifted = change(scan)
            assert shifted.image.shape == shifted.spleen.shape, name
            assert shifted.spleen.dtype == bool and np.isfinite(shifted.image).all(), name
            assert shifted.spleen.any() == (group != "no spleen"), name
            assert shifted.volume().spacing == pytest.approx(shifted.spacing), name
    assert scan.image[0, 0, 0] == -125 and scan.image[12, 14, 8] == 120, "the scan itself stays as it is"


@pytest.mark.parametrize(
    ("name", "spacing"),
    [
        ("pixels 2 times as wide", (4.0, 4.0, 4.0)),
        ("slices 2 times as thick", (2.0, 2.0, 8.0)),
        ("slices 3 times as thin", (2.0, 2.0, 4 / 3)),
        ("field of view 40 % wider", (2.0, 2.0, 4.0)),
        ("arms down", (2.0, 2.0, 4.0)),
    ],
)
def test_the_spleen_keeps_its_volume_and_its_intensity(shifts: ModuleType, scan: Any, name: str, spacing: Any) -> None:
    shifted = shift(shifts, name)(scan)
    assert shifted.spacing == pytest.approx(spacing)
    volumes = [float(one.spleen.sum() * np.prod(one.spacing)) for one in (scan, shifted)]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.05)
    # Slices that were interpolated lose a little at both ends.
    assert shifted.image[shifted.spleen].mean() == pytest.approx(120, abs=4)


@pytest.mark.parametrize(
    ("name", "air", "body", "spleen", "bone"),
    [
        ("full range of HU", -1000, 40, 120, 975),
        ("20 HU brighter", -125, 60, 140, 295),
        ("half of the contrast", -125, 40, 80, 157.5),
    ],
)
def test_intensities(shifts: ModuleType, scan: Any, name: str, air: float, body: float, spleen: float, bone: float):
    image = shift(shifts, name)(scan).image
    assert [image[0, 0, 0], image[25, 15, 3], image[12, 14, 8], image[20, 10, 8]] == [air, body, spleen, bone]


def test_coverage(shifts: ModuleType, scan: Any) -> None:
    assert scan.extent() == (6, 14)
    slices = {name: shift(shifts, name)(scan) for group in ("coverage", "no spleen") for name in shifts.SHIFTS[group]}
    assert {name: part.image.shape[2] for name, part in slices.items()} == {
        "lower half of the spleen": 4, "upper half of the spleen": 4, "5 slices through the spleen": 5,
        "1 slice through the spleen": 1, "below the spleen": 1, "above the spleen": 5, "spleen replaced by fat": 20,
    }  # fmt: skip
    taken_out = slices["spleen replaced by fat"].image
    assert abs(taken_out[scan.spleen].mean() + 90) < 3
    assert (taken_out != scan.image).sum() > scan.spleen.sum()


def test_arms_lie_beside_the_body(shifts: ModuleType, scan: Any) -> None:
    shifted = shift(shifts, "arms down")(replace(scan, spacing=(8.0, 8.0, 4.0)))
    left, low = ((n - m) // 2 for n, m in zip(shifted.image.shape[:2], scan.image.shape[:2], strict=True))
    inside = shifted.image[left : left + 40, low : low + 32]
    changed = inside != scan.image
    assert not changed[8:32].any() and (shifted.image == 700).any()


@pytest.mark.parametrize("flip", [1, -1])
def test_a_labelled_scan_is_in_ras_order(shifts: ModuleType, flip: int) -> None:
    image = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([flip * 1.5, 2.0, 3.0, 1.0])
    scan = shifts.LabelledScan.of(volume_from_array(image, affine), volume_from_array((image > 20).astype(int), affine))
    np.testing.assert_array_equal(scan.image, image[::flip])
    np.testing.assert_array_equal(scan.spleen, image[::flip] > 20)
    assert scan.spacing == (1.5, 2.0, 3.0)


def test_the_table(shifts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    robustness = importlib.import_module("robustness")

    def cases(*figures: tuple[float, float]) -> dict[str, Any]:
        return {f"case {i}": {"dice": dice, "ml": ml, "reference_ml": 100.0} for i, (dice, ml) in enumerate(figures)}

    def entry(group: str, *figures: tuple[float, float]) -> dict[str, Any]:
        return {"group": group, "student": cases(*figures), "teacher": cases(*figures)}

    results = {
        "part": "test",
        "shifts": {
            "as it is": entry("", (0.9, 90.0), (0.8, 80.0)),
            "noise": entry("intensities", (0.7, 70.0), (0.4, 40.0)),
            "below the spleen": entry("no spleen", (0.0, 3.0), (1.0, 0.0)),
        },
        "elsewhere": {name: {"dice": 0.5, "ml": 50.0, "reference_ml": 100.0} for name in ("student", "teacher")},
    }
    lines = robustness.tables(results)
    assert "| as it is | 0.850 | 0.800 |  | 0.850 | 0.800 |  |" in lines
    assert "| noise | 0.550 | 0.400 | \N{MINUS SIGN}0.300 | 0.550 | 0.400 | \N{MINUS SIGN}0.300 |" in lines
    assert "| below the spleen | 1 of 2 | 1.5 | 3.0 | 1 of 2 | 1.5 | 3.0 |" in lines
