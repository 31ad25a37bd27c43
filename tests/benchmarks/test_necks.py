"""benchmarks/necks.py: labels are cut and counted, and the page says what is stored."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from medkd.data import volume_from_array

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def necks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("necks")


def test_what_a_label_loses_is_counted(necks):
    """A cube of 9 voxels, a way one voxel deep, and a cube of 5, which is 3 deep: a neck of a third."""
    truth = np.zeros((24, 13, 13), np.uint8)
    truth[2:11, 2:11, 2:11] = truth[14:19, 4:9, 4:9] = 3
    truth[11:14, 6, 6] = 3
    truth[22, 1, 1] = 3  # a piece that is dropped before
    row = necks._uncut("organ", "task")
    for array in (truth, np.where(truth[::-1] == 3, 0, 3).astype(np.uint8), np.minimum(truth, 1)):
        necks._cut_label(row, volume_from_array(array, np.eye(4)), 3)
    # The second is one body all around, the third has no such label.
    assert row["volumes"] == 2
    assert row["changed"] == dict.fromkeys(row["changed"], 1)
    kept, lost = 9**3 + 1, 5**3 + 1
    assert row["lowest"]["0.6"] == pytest.approx(2 * kept / (2 * kept + lost), abs=0.002)


def test_the_page_is_that_of_the_stored_figures(necks):
    results, card = (json.loads(file.read_text(encoding="utf-8")) for file in (necks.RESULTS, necks.CARD))
    assert necks.page(results, card) == necks.PAGE.read_text(encoding="utf-8")


def test_what_the_page_says_of_the_spleen_holds(necks):
    """That it keeps every voxel up to 0.7, and that the labels that it names have necks."""
    rows = {row["label"]: row for row in json.loads(necks.RESULTS.read_text(encoding="utf-8"))["labels"]["found"]}
    assert all(rows["spleen"]["changed"][str(ratio)] == 0 for ratio in necks.RATIOS if ratio <= 0.7)
    for named in ("kidney", "stomach", "vena cava", "veins", "pancreas", "adrenal"):
        assert any(row["changed"]["0.6"] for label, row in rows.items() if named in label)
