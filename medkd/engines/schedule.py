"""How the learning rate changes over a training."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from medkd.errors import UserError


def learning_rate_schedule(optimizer: Optimizer, name: str, epochs: int) -> LambdaLR:
    """A schedule that is stepped once an epoch.

    Args:
        optimizer: whose learning rate is the first value.
        name: ``constant``, or ``cosine`` down to a thousandth.
        epochs: length of the training.

    Raises:
        UserError: the name is not known.
    """
    if name == "constant":
        return LambdaLR(optimizer, lambda epoch: 1.0)
    if name == "cosine":
        return LambdaLR(optimizer, lambda epoch: 0.001 + 0.999 * (1 + math.cos(math.pi * min(1.0, epoch / epochs))) / 2)
    raise UserError(f"no schedule is called {name!r}: choose constant or cosine.")
