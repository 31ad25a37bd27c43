"""Randomness that depends on the seed and the epoch alone, so that a resumed run equals an uninterrupted one."""

from __future__ import annotations

import random

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch.utils.data import DataLoader


class EpochSeedHandler:
    """Seeds Python, NumPy, torch, the shuffle and the augmentation at the start of every epoch.

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
        seed = int(np.random.SeedSequence((self.seed, engine.state.epoch)).generate_state(1)[0])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        set_rnd(self.data_loader.dataset, seed=seed)
        if hasattr(self.data_loader.sampler, "set_epoch"):
            self.data_loader.sampler.set_epoch(engine.state.epoch)
