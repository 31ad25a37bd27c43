"""Every method on real multi-class tasks: hippocampus in MRI, thirteen organs in CT."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from medkd.bundle import STUDENT, TEACHER
from medkd.methods import describe_method, method_names
from medkd.recipes import run_recipe

pytestmark = [pytest.mark.slow, pytest.mark.realdata]

# task file -> (number of outputs, what its scans need)
TASKS = {
    "Task04_Hippocampus": (3, {"size": 48, "window": None}),
    "btcv_spleen/dataset13.json": (14, {"size": 64}),
}
FEW_STEPS = {"epochs": 2, "train::trainer::epoch_length": 3, "val_interval": 2, "batch_size": 6}


@pytest.fixture(scope="module", params=TASKS)
def taught(request, real_data, tmp_path_factory) -> tuple[str, Path]:
    """A task and a teacher that has seen a little of it."""
    outputs, scans = TASKS[request.param]
    overrides = {
        "dataset_dir": str(real_data / request.param), "network_def::channels": [8, 16, 24], **scans, **FEW_STEPS,
    }  # fmt: skip
    run = run_recipe(TEACHER, "train", overrides, tmp_path_factory.mktemp("teacher") / "run")
    assert json.loads((run / "model.json").read_text())["network"]["out_channels"] == outputs
    return str(real_data / request.param), run


@pytest.mark.parametrize("method", method_names())
def test_method_trains(method, taught, tmp_path):
    task, teacher = taught
    overrides = {"dataset_dir": task, "teacher_run": str(teacher), **FEW_STEPS}
    run = run_recipe(STUDENT, "distill", overrides, tmp_path / "run", method)
    history = json.loads((run / "history.json").read_text())
    terms = {"segmentation", *(term["name"] for term in describe_method(method)["terms"])}
    for row in history:
        assert set(row["gradient"]) == set(row["weighted"]) == terms
        assert all(math.isfinite(row[name]) and math.isfinite(row["gradient"][name]) for name in terms)
        assert row["loss"] == pytest.approx(sum(row["weighted"].values()), rel=1e-4)
    reached = {name for name in terms if any(row["gradient"][name] > 0 for row in history)}
    assert reached == terms, "each term moves the student"
