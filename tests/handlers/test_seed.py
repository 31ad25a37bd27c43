"""The draws of a data loader's workers."""

from __future__ import annotations

import pytest
import torch
from monai.transforms import Randomizable
from torch.utils.data import DataLoader, Dataset

from medkd.handlers import seed, seed_worker


class Draws(Randomizable, Dataset):
    """Items that are random numbers, drawn as MONAI's transforms draw theirs."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> float:
        return float(self.R.uniform())


def drawn(rank: int, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setattr(seed, "process_rank", lambda: rank)
    torch.manual_seed(0)
    loader = DataLoader(Draws(), num_workers=2, worker_init_fn=seed_worker, multiprocessing_context="fork")
    return [float(value) for value in loader]


def test_workers_draw_apart_and_again_the_same(monkeypatch):
    first, again = drawn(0, monkeypatch), drawn(0, monkeypatch)
    assert first == again and len(set(first)) == 8


def test_workers_of_other_processes_draw_apart(monkeypatch):
    assert not set(drawn(0, monkeypatch)) & set(drawn(1, monkeypatch))
