"""A study whose figures can be worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medkd.study.job import FAILED_FILE, RESULT_FILE, claim, jobs_of
from medkd.study.plan import Run, Study, Table

OFFSETS = [-0.05, -0.03, -0.01, 0.01, 0.03, 0.05]
# Mean Dice of each run with seeds 0 and 1; every volume is its offset away from it.
DICE = {
    "big": (0.90, 0.92),
    "alone": (0.50, 0.50),
    "control": (0.60, 0.64),
    "b": (0.70, 0.76),
    "pmd": (0.62, 0.60),
}
MACHINE = {"processor": "Some CPU", "cores": 2, "threads": 1, "gpu": None, "python": "3.11.7"} | {
    "torch": "2.8.0",
    "monai": "1.6.1",
    "medkd": "0.1.0",
}


def make_run(run: str, seed: int, mean: float) -> dict[str, Any]:
    figures = {"iou": 0.5, "recall": 0.7, "precision": 0.8, "volume_ml": 210.0, "true_volume_ml": 200.0}
    history = [{"epoch": 1, "loss": 0.9, "seconds": 50.0}, {"epoch": 2, "loss": 0.8, "val_dice": mean, "seconds": 50.0}]
    big = run == "big"
    return {
        "run": run,
        "seed": seed,
        "network": {"name": "multitask_unet" if big else "unet_s1", "in_channels": 3},
        "parameters": 43_000_000 if big else 57_297,
        "macs": 16_000_000_000 if big else 213_000_000,
        "size": 64,
        "seconds": 100.0,
        "history": history,
        "cases": [
            {"name": f"volume_{number}", "labels": {"spleen": {"dice": mean + offset, **figures}}}
            for number, offset in enumerate(OFFSETS)
        ],
        "pooled": {"spleen": {"dice": mean + 0.01, "iou": 0.5, "recall": 0.7, "precision": 0.8}},
    }


@pytest.fixture
def small_study() -> Study:
    distill = {"bundle": "spleen_ct_student", "config": "distill", "teacher": "big"}
    return Study(
        name="hand",
        title="By hand",
        about="A teacher and what it teaches.",
        scale="small",
        scaled=("Ten epochs instead of 120.",),
        data="/home/someone/my data/btcv",
        phantom=None,
        label="spleen",
        seeds=(0, 1),
        threads=1,
        published="",
        pictures={},
        runs=(
            Run("big", "T1", "spleen_ct_teacher", "train", {"network_name": "multitask_unet"}),
            Run("alone", "S1 alone", "spleen_ct_student", "train", {"epochs": 10}),
            Run("control", "S1, control", **distill, overrides={"weights::pmd": 0.0}),
            Run("b", "B", **distill, method="/home/someone/studies/methods/own.yaml"),
            Run("pmd", "PMD", **distill, method="kd"),
        ),
        tables=(
            Table(
                title="KD(T1, S1)",
                source="Thesis, Table 4.4",
                note="A note.",
                control="control",
                published_control="alone",
                rows=("alone", "control", "b", "pmd"),
                distilled=("b", "pmd"),
            ),
        ),
        recipes={"recipes": {"distill": {"epochs": 10, "schedule": "cosine"}}, "networks": {}, "weights": {}},
    )


@pytest.fixture
def small_results(small_study: Study) -> dict[str, Any]:
    content = {
        "study": {**small_study.to_dict(), "data": "btcv"},
        "published": {
            "alone": {"dice": 0.715, "iou": 0.557, "recall": 0.685, "precision": 0.749},
            "b": {"dice": 0.763, "iou": 0.617, "recall": 0.704, "precision": 0.833},
            "pmd": {"dice": 0.703},
        },
        "runs": {name: [make_run(name, seed, mean) for seed, mean in enumerate(DICE[name])] for name in DICE},
        "failed": {},
        "missing": [],
        "latency": {"big": 0.5, "control": 0.0200, "b": 0.0204},
        "latency_threads": 1,
        "machine": MACHINE,
        "other_machines": [],
        "seconds": 1000.0,
        "split": {"train": 12, "student": 6, "val": 2, "test": 6},
    }
    return json.loads(json.dumps(content))


@pytest.fixture
def done_folder(tmp_path: Path, small_study: Study, small_results: dict[str, Any]) -> Path:
    """A folder in which all is done but one run that failed and one that has not run."""
    out = tmp_path / "study"
    for job in jobs_of(small_study, out):
        job.out.mkdir(parents=True)
        claim(job)
        result = {**small_results["runs"][job.run.name][job.seed], "machine": small_results["machine"]}
        for case in result["cases"]:
            case["labels"]["liver"] = case["labels"]["spleen"]
        result["history"][0]["pmd"] = 0.123
        if job.id == "pmd-0":
            error = f"cannot write {job.out}/model.pt or {small_study.data}/x or /tmp/other/y.nii: free some space."
            (job.out / FAILED_FILE).write_text(json.dumps({"error": error, "log": "somewhere"}))
        elif job.id != "pmd-1":
            (job.out / RESULT_FILE).write_text(json.dumps(result))
    return out
