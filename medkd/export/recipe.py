"""The recipe of a run as one config."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from medkd.bundle import bundle_folder
from medkd.engines.saved_model import model_folder
from medkd.errors import UserError
from medkd.methods import method_file, method_names
from medkd.run_folder import RECIPE_FILE

# Overrides that name the machine that trained, or places on it.
PLACES = {
    "bundle_root", "cache_dir", "ckpt_dir", "dataset_dir", "device", "images", "initial_run", "labels", "output_dir",
    "split_file", "teacher_run",
}  # fmt: skip
# In an expression; what is added to another string, such as @output_dir + '/masks', is no absolute path.
QUOTED_PATH = re.compile(r"""(?<![+\s])\s*['"]/[^'"]""")


def read_recipe(run: Path) -> dict[str, Any] | None:
    """The ``recipe.json`` of a run; None for a model that came another way.

    Raises:
        UserError: it cannot be read.
    """
    file = model_folder(run) / RECIPE_FILE
    if not file.is_file():
        return None
    try:
        recipe = json.loads(file.read_text(encoding="utf-8"))
        return {key: recipe[key] for key in ("bundle", "config", "overrides")} | {"method": recipe.get("method")}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error!r}): delete it to export without a recipe.") from error


def exported_recipes(bundle: Path) -> list[Path]:
    """The configs that an exported bundle was trained by; none for a run, and for a bundle that medkd ships."""
    configs = bundle / "configs"
    inference = configs / "inference.yaml"
    if not inference.is_file() or "locate_bundle('exported_" not in inference.read_text(encoding="utf-8"):
        return []
    files = [configs / f"{name}.yaml" for name in ("pretrain", "train", "distill")]
    return [file for file in files if file.is_file()]


def recipe_config(recipe: dict[str, Any]) -> dict[str, Any]:
    """Config, method and overrides merged, without places on the machine that trained."""
    file = bundle_folder(recipe["bundle"]) / "configs" / f"{recipe['config']}.yaml"
    parser = ConfigParser({**ConfigParser.load_config_file(file), **_method(recipe["method"])})
    parser.update({name: value for name, value in recipe["overrides"].items() if not _is_place(name, value)})
    return {key: value for key, value in parser.get().items() if key != parser.meta_key}


def method_name(recipe: dict[str, Any]) -> str | None:
    """What the method is called; None for a training without a teacher."""
    if recipe["config"] != "distill":
        return None
    return recipe_config(recipe).get("method", {}).get("name", "a mix of its own")


def _method(method: str | None) -> dict[str, Any]:
    """The keys that a method replaces; a recipe holds the name of one, or the content of the user's own file."""
    if method is None:
        return {}
    if method not in method_names():
        return {"method": {"name": "a mix of its own"}} | yaml.safe_load(method)
    file = method_file(method)
    return {} if file is None else ConfigParser.load_config_file(file)


def _is_place(name: str, value: Any) -> bool:
    return name in PLACES or _holds_path(value)


def _holds_path(value: Any) -> bool:
    if isinstance(value, dict):
        return _holds_path([*value, *value.values()])
    if isinstance(value, list):
        return any(_holds_path(part) for part in value)
    return isinstance(value, str) and (Path(value).is_absolute() or QUOTED_PATH.search(value) is not None)
