"""Randomness that depends on the seed and the epoch alone, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch.utils.data import DataLoader, get_worker_info

from medkd.distributed import process_rank


class EpochSeedHandler:
    """Seeds Python, NumPy, torch, the shuffle and the augmentation at the start of every epoch.

    All processes of a training get the same seed, since all compute the same loss of the same batch; only the
    augmentation, which sees the slices of one process, has a seed for each.

    Args:
        seed: of the run.
        data_loader: of the training; a sampler with ``set_epoch`` is told the epoch.
    """

    def __init__(self, seed: int, data_loader: DataLoader) -> None:
        self.seed = seed
        self.data_loader = data_loader

    def attach(self, engine: Engine) -> None:
        """Hang the handler on a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        seed = _draw_seed(self.seed, engine.state.epoch)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        # Process 0 keeps the seed that a single process has: a trailing 0 changes nothing.
        set_rnd(self.data_loader.dataset, seed=_draw_seed(self.seed, engine.state.epoch, process_rank()))
        if hasattr(self.data_loader.sampler, "set_epoch"):
            self.data_loader.sampler.set_epoch(engine.state.epoch)


def seed_worker(worker: int) -> None:
    """The ``worker_init_fn`` of a data loader: its workers augment apart, and apart from those of other processes.

    Args:
        worker: its number, which torch has put into its seed.
    """
    own: Any = get_worker_info()
    set_rnd(own.dataset, seed=_draw_seed(own.seed, process_rank()))


def _draw_seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
