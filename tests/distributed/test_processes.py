"""Counting processes, choosing devices, and starting where torchrun has not."""

from __future__ import annotations

import pytest
import torch

from medkd.distributed import (
    is_main_process,
    local_device,
    process_count,
    process_rank,
    processes,
    start_processes,
    stop_processes,
)
from medkd.errors import UserError


def own_place() -> tuple[int, int, bool]:
    return process_count(), process_rank(), is_main_process()


def test_processes_know_their_place(in_two_processes):
    assert own_place() == (1, 0, True)
    assert in_two_processes(own_place) == [(2, 0, True), (2, 1, False)]


@pytest.mark.parametrize(("gpus", "number", "device"), [(0, "1", "cpu"), (2, "1", "cuda:1"), (2, None, "cuda:0")])
def test_every_process_has_the_gpu_of_its_number(gpus, number, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if number is not None:
        monkeypatch.setenv("LOCAL_RANK", number)
    assert local_device() == torch.device(device)


def test_more_processes_than_gpus_are_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match=r"process 3 of this machine finds 2 GPU.*--nproc_per_node"):
        local_device()


def test_without_torchrun_it_is_told(monkeypatch):
    for name in processes.ENVIRONMENT:
        monkeypatch.setenv(name, "0")
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(UserError, match=r"WORLD_SIZE is not set.*torchrun"):
        start_processes("cpu")


def test_stopping_what_never_started_does_nothing():
    stop_processes()
    assert process_count() == 1
