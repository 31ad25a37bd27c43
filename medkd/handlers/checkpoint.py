"""Keeping a training safe: the best model for use, the last state for resuming."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from medkd.data.split import Split
from medkd.distributed import gather_batch, is_main_process, process_count
from medkd.engines.saved_model import SavedModel, load_tensors, save_tensors
from medkd.errors import UserError
from medkd.run_folder import CHECKPOINT_FILE, DESCRIPTION_FILE, SPLIT_FILE, WEIGHTS_FILE

NO_BEST: dict[str, float] = {"epoch": 0, "value": -1.0}


class RunCheckpointHandler:
    """Writes the best ``model.pt`` with its ``model.json``, and after every epoch ``checkpoint.pt``; resumes from it.

    MONAI's ``CheckpointSaver`` keeps the best metric only in the file of the best model, so a resumed run could
    overwrite a better model with a worse one; here it is part of the last checkpoint, with the curves.

    Attach it behind validation and history. Of several processes the main one writes, and all read.

    Args:
        folder: of the run; ``checkpoint.pt`` lies here.
        model: description to write beside the weights.
        split: which cases were trained, validated and left for the test; written to ``splits.json``, so that nobody
            tests the model, or a student of it, on what it has seen.
        state: what a resume needs, by name: network, optimizer, projectors, history ..., each with ``state_dict`` and
            ``load_state_dict``; ``network`` is also what ``model.pt`` holds. The trainer is added.
        validator: engine that gives the metric.
        metric: name of the metric, larger is better.
        model_folder: where the model goes, with its description and split; the run's folder by default.
    """

    def __init__(
        self,
        folder: str | Path,
        model: SavedModel,
        split: Split,
        state: Mapping[str, Any],
        validator: Engine | None = None,
        metric: str = "val_dice",
        model_folder: str | Path | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.model_folder = self.folder if model_folder is None else Path(model_folder)
        self.model = model
        self.split = split
        self.state = dict(state)
        self.validator = validator
        self.metric = metric
        self.best = dict(NO_BEST)
        self._fresh_value: float | None = None

    def attach(self, engine: Engine) -> None:
        """Hang the handler on a trainer."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._save)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        if self.validator is not None:
            self.validator.add_event_handler(Events.COMPLETED, self._note_value)

    def _start(self, engine: Any) -> None:
        # MONAI makes the scaler of mixed precision when the run starts.
        if getattr(engine, "scaler", None) is not None:
            self.state["scaler"] = engine.scaler
        path = self.folder / CHECKPOINT_FILE
        if path.is_file():
            self._resume(engine, path)
        if process_count() > 1:
            epochs = gather_batch(torch.tensor([engine.state.epoch], device=engine.state.device))
            if len(set(epochs.tolist())) > 1:
                raise UserError(f"not all processes find {path}: put the folder where all machines see it.")

    def _resume(self, engine: Any, path: Path) -> None:
        content = load_tensors(path)
        try:
            if content["recipe"] != self._recipe(engine):
                raise ValueError("another recipe")
            for name, holder in self.state.items():
                holder.load_state_dict(content[name])
            self.best = content["best"]
            engine.state.epoch = content["trainer"]["epoch"]
            engine.state.iteration = content["trainer"]["iteration"]
            engine.logger.info(f"{path}: {engine.state.epoch} of {engine.state.max_epochs} epochs are done.")
            if not (self.model_folder / WEIGHTS_FILE).is_file():
                self.best = dict(NO_BEST)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path} is of another recipe: choose another folder for this run, or delete that one."
            ) from error

    def _recipe(self, engine: Any) -> str:
        """What cannot change while a training goes on: the model, its cases, the optimiser, what a teacher adds."""
        optimizer = self.state.get("optimizer")
        content = {
            "model": self.model.to_dict(),
            "split": asdict(self.split),
            "optimizer": optimizer and {"name": type(optimizer).__name__, **optimizer.defaults},
            "terms": getattr(engine, "terms", {}),
        }
        return json.dumps(content, sort_keys=True, default=str)

    def _note_value(self, validator: Engine) -> None:
        self._fresh_value = float(validator.state.metrics[self.metric])

    def _save(self, engine: Engine) -> None:
        value, self._fresh_value = self._fresh_value, None
        if value is not None and value > self.best["value"]:
            self.best = {"epoch": engine.state.epoch, "value": value}
            self._save_model()
        if not is_main_process():
            return
        content = {name: holder.state_dict() for name, holder in self.state.items()}
        progress = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        content |= {"trainer": progress, "best": self.best, "recipe": self._recipe(engine)}
        save_tensors(self.folder / CHECKPOINT_FILE, content)

    def _complete(self, engine: Engine) -> None:
        # Without any validation the last state is the model.
        if self.best["epoch"] == 0:
            self._save_model()

    def _save_model(self) -> None:
        if not is_main_process():
            return
        description = self.model_folder / DESCRIPTION_FILE
        if description.is_file() and SavedModel.read(self.model_folder) != self.model:
            description.unlink()  # of the weights that are replaced here: no moment may pair the two
        save_tensors(self.model_folder / WEIGHTS_FILE, self.state["network"].state_dict())
        self.model.write_description(self.model_folder)
        self.split.write(self.model_folder / SPLIT_FILE)
