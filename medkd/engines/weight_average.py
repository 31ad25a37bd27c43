"""One model of several: the mean of their weights."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from medkd.engines.saved_model import SavedModel, model_split_file
from medkd.errors import UserError
from medkd.run_folder import SPLIT_FILE


def average_models(runs: Sequence[str | Path], out: str | Path) -> None:
    """Write the model whose weights are the mean of those of several runs.

    Meant for runs that differ in their seed, or in a term of the loss, and went on from the same weights: they lie so
    near each other that their mean is a network too, as a rule one that does better on new patients than they do on
    average. Of runs that began anew, each from weights of its own, the mean is worth nothing.

    Args:
        runs: folders of models that were described and split alike.
        out: folder to write ``model.json``, ``model.pt`` and, where the runs have it, ``splits.json`` to.

    Raises:
        UserError: there is no run, they are different models, or they learned from different cases.

    Reference: Wortsman et al. 2022, arXiv 2203.05482, the uniform soup.
    """
    if not runs:
        raise UserError("there is no model to average: give the folders of two runs or more.")
    models = [SavedModel.read(run) for run in runs]
    splits = [model_split_file(run) for run in runs]
    for run, model, split in zip(runs, models, splits, strict=True):
        if model != models[0] or _text(split) != _text(splits[0]):
            raise UserError(f"{run} and {runs[0]} differ in their network, pre-processing or split: average like runs.")
    weights = [model.load_network(run).state_dict() for model, run in zip(models, runs, strict=True)]
    models[0].save(out, {name: _mean([each[name] for each in weights]) for name in weights[0]})
    if splits[0] is not None:
        shutil.copyfile(splits[0], Path(out) / SPLIT_FILE)


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of the weights; a count, as batch norm keeps one of its batches, stays that of the first."""
    return torch.stack(list(tensors)).mean(dim=0) if tensors[0].is_floating_point() else tensors[0]


def _text(file: Path | None) -> str | None:
    return None if file is None else file.read_text(encoding="utf-8")
