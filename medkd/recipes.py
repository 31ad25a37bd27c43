"""Recipes: the bundle configs that train everything, run with overrides."""

from __future__ import annotations

import ast
import difflib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medkd.bundle import bundle_folder
from medkd.errors import UserError, first_line
from medkd.files import read_yaml, write_json
from medkd.methods import method_file
from medkd.run_folder import CHECKPOINT_FILE, RECIPE_FILE

# Overrides of the distillation recipe that make its control.
WITHOUT_DISTILLATION = {f"weights::{term}": 0.0 for term in ("pmd", "encoder", "bottleneck", "decoder")}


def run_recipe(
    bundle: str, config: str, overrides: Mapping[str, Any], out: str | Path, method: str | Path | None = None
) -> Path:
    """Train by a bundle config; the same as ``python -m monai.bundle run`` on it with the overrides.

    A run that was stopped goes on where it was when it is asked for again; a finished one is left as it is.

    Args:
        bundle: name of the bundle.
        config: name of the config, such as ``train``.
        overrides: config id (``epochs``, ``optimizer::lr``) to value.
        out: the run's folder.
        method: of distillation, a name or a YAML file; see :func:`medkd.methods.method_file`.

    Returns:
        The run's folder.

    Raises:
        UserError: an override names nothing in the config, the folder holds another run, or the data is unusable.
    """
    from monai.bundle import ConfigWorkflow

    out = Path(out)
    folder = bundle_folder(bundle)
    files = [folder / "configs" / f"{config}.yaml"]
    recipe = {"bundle": bundle, "config": config, "overrides": dict(overrides)}
    file = None if method is None else method_file(method)
    if file is not None:
        files.append(file)
        # The content of a user's file may change, a name stays what it is.
        recipe["method"] = str(method) if file.parent == files[0].parent else file.read_text("utf-8")
    check_overrides(files, overrides)
    is_new = not out.exists()
    _claim(out, recipe)
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        meta_file=str(folder / "configs" / "metadata.json"),
        logging_file=False,
        output_dir=str(out),
        bundle_root=str(folder),
        **overrides,
    )
    try:
        workflow.initialize()
        workflow.run()
    except Exception as error:
        raise _explain(error, [*overrides, *([f"--method {method}"] if method else [])]) from error
    finally:
        if is_new and not (out / CHECKPOINT_FILE).exists():
            shutil.rmtree(out, ignore_errors=True)
    return out


def check_overrides(config_files: Sequence[Path], overrides: Mapping[str, Any]) -> None:
    """Refuse overrides of what the configs, of which a later one replaces keys of an earlier one, do not have.

    Arguments of a component may be new (``optimizer::weight_decay``), since the config need not list them all.

    Raises:
        UserError: with the nearest name that exists.
    """
    known: dict[str, Any] = {}
    for file in config_files:
        known |= read_yaml(file)
    for name in overrides:
        parts = name.split("::")
        content: Any = known
        for depth, part in enumerate(parts):
            if isinstance(content, Mapping) and part not in content:
                if "_target_" in content and depth == len(parts) - 1:
                    break
                near = difflib.get_close_matches(part, [str(key) for key in content], n=1)
                hint = (
                    f"did you mean {'::'.join([*parts[:depth], near[0]])}?" if near else f"see {config_files[-1].name}."
                )
                raise UserError(f"the recipe has no option {name!r}: {hint}")
            content = content.get(part) if isinstance(content, Mapping) else None


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read ``--name value`` pairs as overrides; values are Python or YAML literals, else text.

    Raises:
        UserError: the words are not such pairs.
    """
    overrides: dict[str, Any] = {}
    pending = list(words)
    while pending:
        name = pending.pop(0)
        if not name.startswith("--") or len(name) == 2:
            raise UserError(f"{name!r} is not understood here: options of the recipe are given as --name value.")
        name, equals, value = name[2:].partition("=")
        if not equals:
            if not pending:
                raise UserError(f"--{name} needs a value: options of the recipe are given as --name value.")
            value = pending.pop(0)
        overrides[name] = _literal(value)
    return overrides


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, (bool, int, float, list, dict, type(None))) else text


def _claim(out: Path, recipe: dict[str, Any]) -> None:
    """Note the recipe in the run's folder, or refuse a folder that another recipe has trained in."""
    file = out / RECIPE_FILE
    recipe = json.loads(json.dumps(recipe, default=str))
    if file.is_file():
        if (out / CHECKPOINT_FILE).is_file() and json.loads(file.read_text(encoding="utf-8")) != recipe:
            raise UserError(f"{out} holds a run of another recipe: choose another --out, or delete the folder.")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is no run of medkd: choose another --out.")
    write_json(file, recipe)


def _explain(error: Exception, options: Sequence[str]) -> Exception:
    """What to raise for an error of a run: MONAI wraps what goes wrong while it builds a component."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, UserError):
            return link
    if len(chain) == 1 and not isinstance(error, ImportError):
        return error
    reason = first_line(chain[-1])
    return UserError(f"the recipe cannot be built ({reason}): check the options {', '.join(options) or 'it has'}.")
