"""Exporting a trained network: write, load again, compare, and only then keep it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from medkd.data.decathlon import Case, DecathlonTask
from medkd.engines.saved_model import SavedModel, model_split_file, saved_network
from medkd.errors import UserError
from medkd.export.agreement import THRESHOLD, Agreement, Predictor, compare
from medkd.export.bundle import load_bundle, write_bundle, write_readme
from medkd.export.onnx import load_onnx, write_onnx
from medkd.export.recipe import exported_recipes, read_recipe
from medkd.export.staging import check_free, staged
from medkd.export.torchscript import load_torchscript, write_torchscript
from medkd.networks import count_parameters

# Each loaded as its user would load it.
FORMATS: dict[str, Callable[[Path], Predictor]] = {
    "bundle": load_bundle,
    "onnx": load_onnx,
    "torchscript": load_torchscript,
}


def export_model(run: str | Path, format: str, out: str | Path, data: str | Path | None = None) -> Agreement:
    """Write the segmentation network of a run alone, compared with the trained one on real slices.

    Args:
        run: folder of a run, or a bundle.
        format: ``bundle``, ``onnx`` or ``torchscript``.
        out: the file, or for a bundle the folder, to write; it must not exist.
        data: task folder with the slices; the one the model was trained on by default, if it is still there.

    Returns:
        How far what was written agrees with the trained network.

    Raises:
        UserError: the run holds no usable model, ``out`` exists or cannot be written, no slices are found, or the two
            networks disagree; nothing is written then.
    """
    run, out = Path(run), Path(out)
    if format not in FORMATS:
        raise UserError(f"the format {format!r} is not known: choose one of {', '.join(FORMATS)}.")
    check_free(out, folder=format == "bundle")
    model = SavedModel.read(run)
    if model.network.get("spatial_dims", 2) != 2:
        raise UserError(f"the network of {run} takes volumes: only networks that take slices can be exported.")
    network = model.load_network(run)
    recipe = read_recipe(run)
    cases = _cases(run, recipe, data)
    with staged(out) as path:
        _write(format, network, model, path, recipe)
        agreement = compare(network, FORMATS[format](path), model, cases)
        if not agreement.lowest_dice >= THRESHOLD:
            raise UserError(
                f"{out} was not written, since it would not do what the trained network does ({agreement}; each Dice "
                f"must be {THRESHOLD} or more): choose another format."
            )
        if format == "bundle":
            for file in exported_recipes(run) if recipe is None else []:
                shutil.copyfile(file, path / "configs" / file.name)
            write_readme(network, model, path, recipe, agreement)
    return agreement


def format_export(run: str | Path, format: str, out: str | Path, agreement: Agreement) -> str:
    """What was exported, for the terminal."""
    out = Path(out)
    files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    parameters = count_parameters(saved_network(run))
    written = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
    return f"{out}: {format}, {parameters:,} parameters, {written}\nas the trained network: {agreement}"


def _write(format: str, network: nn.Module, model: SavedModel, path: Path, recipe: dict[str, Any] | None) -> None:
    if format == "bundle":
        write_bundle(network, model, path, recipe)
    elif format == "onnx":
        write_onnx(network, model, path)
    else:
        write_torchscript(network, model, path)


def _cases(run: Path, recipe: dict[str, Any] | None, data: str | Path | None) -> list[Case]:
    """What to compare on: cases that the model was not trained on, if its split is one of this data."""
    if data is None:
        trained_on = (recipe or {"overrides": {}})["overrides"].get("dataset_dir")
        if trained_on is None or not (Path(trained_on) / "dataset.json").is_file():
            where = "its data is not known" if trained_on is None else f"its data is no longer in {trained_on}"
            raise UserError(
                f"the export of {run} is compared on real slices, but {where}: give a task folder by --data."
            )
        data = trained_on
    task = DecathlonTask.load(data)
    file = model_split_file(run)
    if file is None:
        return task.cases
    try:
        split = task.split(file=file)
    except UserError:
        return task.cases
    return task.select([*split.val, *split.test])
