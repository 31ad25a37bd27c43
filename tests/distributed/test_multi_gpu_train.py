"""The recipes under torchrun with two processes, against one process with twice their batch size."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigWorkflow

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.distributed import process_count
from medkd.engines.saved_model import load_tensors
from medkd.inference import Segmenter
from medkd.recipes import run_recipe

BATCH = 4
FILES = {"checkpoint.pt", "history.json", "model.json", "model.pt", "splits.json", "tensorboard"}
CONFIGS = bundle_folder(STUDENT) / "configs"
TWO_PROCESSES = CONFIGS / "multi_gpu_train.yaml"

# Contrast at three places, score maps, two memory banks, a discriminator. Momentum instead of an optimiser that divides
# by the size of a gradient: that raises the rounding left of a gradient of 0, which biases before batch norms have.
MIX = """
optimizer: {_target_: torch.optim.SGD, params: '$list(@network.parameters()) + [p for p in @projectors.parameters()
  if p.requires_grad]', lr: '@learning_rate', momentum: 0.9}
loss::bce_weight: 1.0
weights: {segmentation: 1.0, pmd: 0.2, encoder: 0.1, bottleneck: 0.1, decoder: 0.1, class_guided: 0.02, crd: 0.02,
  holistic: 0.01}
+distillation:
- _target_: medkd.handlers.DistillationHandler
  name: class_guided
  weight: '@weights::class_guided'
  student_tap: bottleneck
  teacher_tap: bottleneck
  loss:
    _target_: medkd.losses.ClassGuidedContrastiveLoss
    student_channels: $tap_channels(@network, 'bottleneck')
    teacher_channels: $tap_channels(@teacher, 'bottleneck')
- _target_: medkd.handlers.DistillationHandler
  name: crd
  weight: '@weights::crd'
  student_tap: bottleneck
  teacher_tap: bottleneck
  loss:
    _target_: medkd.losses.ContrastiveRepresentationLoss
    student_channels: $tap_channels(@network, 'bottleneck')
    teacher_channels: $tap_channels(@teacher, 'bottleneck')
- _target_: medkd.handlers.DistillationHandler
  name: holistic
  weight: '@weights::holistic'
  loss:
    _target_: medkd.losses.HolisticAdversarialLoss
    out_channels: '@out_channels'
"""
# The last process dies in the third step of the second epoch.
DEATH = """
+imports:
- $import os
- $from ignite.engine import Events
- $from medkd.distributed import process_count
- $from medkd.distributed import process_rank
+initialize:
- "$@train::trainer.add_event_handler(Events.ITERATION_COMPLETED(once=6),
  lambda: process_rank() == process_count() - 1 and os.kill(os.getpid(), 9))"
"""


def train(files: list[Path], options: dict[str, Any], out: Path) -> Path:
    """Train in this process, and in the others of its group if there are any."""
    together: dict[str, Any] = {}
    if process_count() > 1:
        files, together = [*files, TWO_PROCESSES], {"initialize": ["$torch.manual_seed(@seed)"]}
    workflow = ConfigWorkflow(
        [str(file) for file in files],
        meta_file=str(CONFIGS / "metadata.json"),
        logging_file=False,
        output_dir=str(out),
        **options | together,
        batch_size=BATCH // process_count(),
    )
    workflow.initialize()
    workflow.run()
    return out


def torchrun(files: list[Path], options: dict[str, Any], out: Path) -> subprocess.CompletedProcess[str]:
    """Train in two processes by the documented command."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words += ["-m", "monai.bundle", "run", "--config_file", str([str(file) for file in files])]
    words += ["--meta_file", str(CONFIGS / "metadata.json"), "--output_dir", str(out)]
    for name, value in (options | {"batch_size": BATCH // 2}).items():
        words += [f"--{name}", str(value)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)


def history(run: Path) -> list[dict[str, Any]]:
    rows = json.loads((run / "history.json").read_text())
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def compare(run: Path, expected: Path) -> None:
    """Equal curves; weights and banks as equal as the curves."""
    for ours, theirs in zip(history(run), history(expected), strict=True):
        for part in ("weighted", "gradient"):
            assert ours.pop(part, {}) == pytest.approx(theirs.pop(part, {}), rel=1e-3, abs=1e-4)
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-4)
    ours, theirs = load_tensors(run / "checkpoint.pt"), load_tensors(expected / "checkpoint.pt")
    assert ours["trainer"] == theirs["trainer"] and ours["trainer"]["iteration"] >= 10
    for part in ("network", "projectors"):
        for name, value in theirs.get(part, {}).items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(ours[part][name], value, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def options(tiny_task, tmp_path_factory) -> dict[str, Any]:
    """Of every run here. The volumes are prepared once."""
    return {
        "dataset_dir": str(tiny_task),
        "cache_dir": str(tmp_path_factory.mktemp("cache")),
        "network_def::channels": [4, 8],
        "epochs": 4,
        "learning_rate": 0.1,
    }


@pytest.fixture(scope="module")
def teacher(options, tmp_path_factory) -> Path:
    overrides = options | {"size": 32, "epochs": 2, "learning_rate": 0.01, "batch_size": 4}
    return run_recipe(TEACHER, "train", overrides, tmp_path_factory.mktemp("runs") / "teacher")


def test_a_student_that_began_in_one_process_goes_on_in_two(options, tmp_path):
    changes = {"size": 32, "loss::bce_weight": 1.0, "optimizer::_target_": "torch.optim.SGD", "learning_rate": 0.3}
    options = options | changes | {"optimizer::momentum": 0.9}
    files = [CONFIGS / "train.yaml"]
    one, two = train(files, options, tmp_path / "one"), tmp_path / "two"
    train(files, options | {"epochs": 1}, two)
    done = torchrun([*files, TWO_PROCESSES], options, two)
    assert done.returncode == 0, done.stderr
    compare(two, one)
    assert {path.name for path in two.iterdir()} == FILES
    assert done.stderr.count("training unet_s1: 100%") == 1, "one bar"
    assert len({round(row["val_dice"], 3) for row in history(one)}) > 2, "a curve that says something"


def test_a_distillation_in_two_processes_dies_and_goes_on_in_two_and_in_one(
    options, teacher, tmp_path, in_two_processes
):
    mix, death = tmp_path / "mix.yaml", tmp_path / "death.yaml"
    mix.write_text(MIX)
    death.write_text(DEATH)
    options = options | {"teacher_run": str(teacher)}
    files = [CONFIGS / "distill.yaml", mix]
    one, two, back = train(files, options, tmp_path / "one"), tmp_path / "two", tmp_path / "back"
    killed = torchrun([*files, TWO_PROCESSES, death], options, two)
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr and len(history(two)) == 1, killed.stderr
    shutil.copytree(two, back)
    in_two_processes(train, files, options, two)
    compare(two, one)
    compare(train(files, options, back), one)
    assert Segmenter.load(two, "torch").model == Segmenter.load(one, "torch").model
