"""The curves of a run, one row an epoch."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys

from medkd.distributed import is_main_process
from medkd.errors import UserError
from medkd.files import write_json
from medkd.run_folder import TERM_FIGURES


class HistoryHandler:
    """Keeps the mean loss and terms of each epoch, validation metrics and seconds, in ``history.json``.

    A row has the mean of every term under its name, and where a :class:`~medkd.engines.DistillationTrainer` gives them,
    by the same names, its share of the total loss in ``weighted`` and the norm of that share's gradient in
    ``gradient``, which is taken in the first step of the epoch.

    Attach it behind the validation. Values stay on the device until the epoch ends, so logging never waits for it.
    Every one of several processes keeps the rows, the main one writes them.

    Args:
        path: the JSON file, a list of rows.
        validator: engine whose metrics of the same epoch join the row.
    """

    def __init__(self, path: str | Path, validator: Engine | None = None) -> None:
        self.path = Path(path)
        self.validator = validator
        self.rows: list[dict[str, Any]] = []
        self._values: dict[tuple[str, ...], list[torch.Tensor]] = {}
        self._validated = False
        self._started = 0.0

    def attach(self, engine: Engine) -> None:
        """Hang the handler on a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._mark_validated)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`."""
        self.rows = list(state["rows"])

    def _start(self, engine: Engine) -> None:
        self._values = {}
        self._validated = False
        self._started = time.perf_counter()

    def _add(self, engine: Engine) -> None:
        output: Any = engine.state.output
        figures: dict[tuple[str, ...], Any] = {("loss",): output[CommonKeys.LOSS]}
        figures |= {(name,): value for name, value in output.get("terms", {}).items()}
        figures |= {(of, name): value for of in TERM_FIGURES for name, value in output.get(of, {}).items()}
        for key, value in figures.items():
            self._values.setdefault(key, []).append(value.detach().float())

    def _mark_validated(self, validator: Engine) -> None:
        self._validated = True

    def _finish(self, engine: Engine) -> None:
        state: Any = engine.state
        row: dict[str, Any] = {"epoch": state.epoch}
        for (*of, name), values in self._values.items():
            (row.setdefault(of[0], {}) if of else row)[name] = float(torch.stack(values).mean())
        # Where MONAI's TensorBoard and MLflow handlers look.
        state.metrics |= {f"epoch_{name}": value for name, value in row.items() if isinstance(value, float)}
        if not math.isfinite(row["loss"]):
            raise UserError(f"the loss is {row['loss']} in epoch {row['epoch']}: lower --learning_rate.")
        if self._validated and self.validator is not None:
            row |= {name: float(value) for name, value in self.validator.state.metrics.items()}
        row["seconds"] = round(time.perf_counter() - self._started, 3)
        self.rows.append(row)
        if is_main_process():
            write_json(self.path, self.rows)
