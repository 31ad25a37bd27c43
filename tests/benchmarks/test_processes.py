"""Two processes against one: the stored figures follow from their curves, and the page shows the stored ones."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "cluster.md"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("processes_page")


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "results" / "processes.json").read_text(encoding="utf-8"))


def curves(loss: list[float], dice: list[float]) -> dict[str, list[float]]:
    return {"loss": loss, "val_dice": dice}


def test_differences_by_hand(page):
    one = curves([1.0] * 12, [0.5] * 12)
    near = curves([1.0] * 9 + [0.9375, 1.25, 1.0], [0.5] * 11 + [0.25])
    found = page.summarize({"one": one, "near": near, "same": one})
    assert found == {
        "near": {"loss_first_steps": 0.0625, "loss": 0.25, "first_step_above": 10, "dice": 0.25},
        "same": {"loss_first_steps": 0.0, "loss": 0.0, "first_step_above": None, "dice": 0.0},
    }


def test_runs_of_different_length_are_not_compared(page):
    with pytest.raises(ValueError, match="argument 2 is longer"):
        page.summarize({"one": curves([1.0] * 3, [0.5] * 3), "two": curves([1.0] * 2, [0.5] * 3)})


def test_a_table_by_hand_replaces_the_one_of_the_page(page, tmp_path):
    near = {"loss_first_steps": 3.4e-6, "loss": 0.0214, "first_step_above": 12, "dice": 0.05}
    same = {"loss_first_steps": 0.0, "loss": 0.0, "first_step_above": None, "dice": 2e-12}
    arms = {"a": {"name": "A", "differences": {"two_processes": near, "two_threads": same}}}
    file = tmp_path / "page.md"
    file.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write_table(file, {"steps": 12, "arms": arms})
    assert file.read_text().splitlines() == [
        "before",
        page.BEGIN,
        "| recipe | against one process | loss, steps 1 to 10 | loss, all 12 | first step above 1e-4 | Dice |",
        "| --- | --- | --- | --- | --- | --- |",
        "| A | two processes | 3e-6 | 0.021 | 12 | 0.05 |",
        "| A | one, two threads | 0 | 0 | none | 2e-12 |",
        page.END,
        "after",
    ]


def test_the_page_shows_the_stored_figures(page, stored):
    assert f"{page.BEGIN}\n{page.table(stored)}\n{page.END}" in PAGE.read_text(encoding="utf-8")


def test_the_stored_differences_follow_from_the_stored_curves(stored):
    for arm in stored["arms"].values():
        runs = dict(arm["runs"])
        one = runs.pop("one")
        assert set(arm["differences"]) == set(runs) == {"two_processes", "two_threads"}
        for way, run in runs.items():
            loss, dice = (np.abs(np.subtract(run[figure], one[figure])) for figure in ("loss", "val_dice"))
            assert len(loss) == len(dice) == stored["steps"] >= 15
            above = np.flatnonzero(loss > 1e-4)
            assert arm["differences"][way] == {
                "loss_first_steps": loss[:10].max(),
                "loss": loss.max(),
                "first_step_above": above[0] + 1 if len(above) else None,
                "dice": dice.max(),
            }


def test_the_stored_runs_are_those_of_the_command(page, stored):
    command = importlib.import_module("processes")
    for key, arm in command.ARMS.items():
        row = stored["arms"][key]
        assert {name: row[name] for name in arm._fields} == json.loads(json.dumps(arm._asdict()))
        for way, (processes, threads) in command.WAYS.items():
            run = row["runs"][way]
            assert (run["processes"], run["threads"]) == (processes, threads)
            assert run["batch_size"] * processes == stored["batch"]
    assert set(stored["arms"]) == set(command.ARMS)
    assert stored["machine"]["torch"]


@pytest.mark.parametrize(
    ("arms", "first_steps_above"),
    [
        (("teacher", "train", "momentum", "float64", "crd_float64"), {None}),
        (("distill", "frozen", "all_scales", "crd"), {2, 3}),
    ],
)
def test_what_the_page_says_of_the_table_holds(stored, arms, first_steps_above):
    found = [way for arm in arms for way in stored["arms"][arm]["differences"].values()]
    assert {way["first_step_above"] for way in found} == first_steps_above


def test_ten_steps_in_float64_are_equal_as_the_page_says(stored):
    for arm in ("float64", "crd_float64"):
        assert [way["loss_first_steps"] for way in stored["arms"][arm]["differences"].values()] == [0.0, 0.0]
