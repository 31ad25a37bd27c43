"""Files, bars and random draws of several processes."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.transforms import RandFlip
from torch import nn

from medkd.data import Preprocessing, Split
from medkd.distributed import process_rank
from medkd.engines import SavedModel
from medkd.errors import UserError
from medkd.handlers import EpochSeedHandler, HistoryHandler, ProgressHandler, RunCheckpointHandler

MODEL = SavedModel({"name": "unet_s1"}, Preprocessing(size=32), {0: "background", 1: "spleen"})
SPLIT = Split(["a"], ["a"], ["b"], ["c"])


def run(folder: Path, epochs: int) -> tuple[list[str], list[dict[str, Any]], bool]:
    """A training of two steps an epoch: the files, rows and bar of this process, which has a folder of its own."""
    folder = folder / str(process_rank())
    folder.mkdir(exist_ok=True)
    engine: Any = Engine(lambda engine, batch: {"loss": torch.tensor(float(batch))})
    engine.state.metrics = {}
    engine.state.device = torch.device("cpu")
    history = HistoryHandler(folder / "history.json")
    progress = ProgressHandler("", history)
    state = {"network": nn.Linear(1, 1), "history": history}
    for handler in (history, progress, RunCheckpointHandler(folder, MODEL, SPLIT, state)):
        handler.attach(engine)
    engine.run([1, 3], max_epochs=epochs)
    return sorted(path.name for path in folder.iterdir()), history.rows, progress._bar is not None


def test_the_main_process_alone_writes_and_all_know_the_curve(in_two_processes, tmp_path):
    (files, rows, bar), (no_files, same_rows, no_bar) = in_two_processes(run, tmp_path, 2)
    assert files == ["checkpoint.pt", "history.json", "model.json", "model.pt", "splits.json"] and no_files == []
    assert [row["loss"] for row in rows] == [row["loss"] for row in same_rows] == [2, 2]
    assert bar and not no_bar


def run_on(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        run(folder, 3)
    return str(error.value)


def test_a_checkpoint_that_only_one_process_sees_is_told_to_both(in_two_processes, tmp_path):
    in_two_processes(run, tmp_path, 1)
    for sentence in in_two_processes(run_on, tmp_path):
        assert "not all processes find" in sentence


def draws() -> dict[str, float]:
    dataset = SimpleNamespace(transform=RandFlip(prob=0.5))
    handler = EpochSeedHandler(3, SimpleNamespace(dataset=dataset, sampler=None))
    handler(SimpleNamespace(state=SimpleNamespace(epoch=2)))
    return {
        "torch": float(torch.rand(())),
        "numpy": float(np.random.rand()),
        "python": random.random(),
        "augmentation": float(dataset.transform.R.rand()),
    }


def test_losses_draw_alike_and_augmentations_do_not(in_two_processes):
    state = torch.get_rng_state()
    alone = draws()
    torch.set_rng_state(state)
    first, second = in_two_processes(draws)
    assert first == alone
    assert {name for name in first if first[name] != second[name]} == {"augmentation"}
