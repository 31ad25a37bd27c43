"""A progress bar over all epochs of a training."""

from __future__ import annotations

import sys
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

from medkd.distributed import is_main_process
from medkd.handlers.history import HistoryHandler


class ProgressHandler:
    """One bar for the whole training: epoch, loss and validation Dice of the last epoch, time left.

    Args:
        description: what is being trained.
        history: where the figures of the last epoch are read; attach it before this handler.
    """

    def __init__(self, description: str, history: HistoryHandler) -> None:
        self.description = description
        self.history = history
        self._bar: tqdm | None = None

    def attach(self, engine: Engine) -> None:
        """Hang the handler on a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._report)
        engine.add_event_handler(Events.COMPLETED, self._close)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _open(self, engine: Engine) -> None:
        if self._bar is None and is_main_process():
            state: Any = engine.state
            # A log file gets a line now and then, a terminal a bar that moves.
            pace = 0.2 if sys.stderr.isatty() else 10.0
            self._bar = tqdm(
                total=state.max_epochs * state.epoch_length,
                initial=(state.epoch - 1) * state.epoch_length,
                desc=self.description,
                unit="step",
                mininterval=pace,
                dynamic_ncols=True,
            )

    def _step(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.update()

    def _report(self, engine: Engine) -> None:
        if self._bar is not None and self.history.rows:
            row = self.history.rows[-1]
            figures = {"loss": f"{row['loss']:.3f}"}
            if "val_dice" in row:
                figures["dice"] = f"{row['val_dice']:.3f}"
            self._bar.set_postfix({"epoch": f"{row['epoch']}/{engine.state.max_epochs}", **figures}, refresh=False)

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()

    def _fail(self, engine: Engine, error: BaseException) -> None:
        self._close(engine)
        raise error
