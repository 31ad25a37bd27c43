"""A network as a MONAI bundle of its own."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser
from torch import nn

import medkd
from medkd.bundle import STUDENT, bundle_folder
from medkd.engines.saved_model import SavedModel, load_weights
from medkd.export.agreement import Agreement, Predictor
from medkd.export.description import (
    input_channel_names,
    is_free_in_size,
    network_name,
    organs,
    output_channel_names,
    random_slices,
)
from medkd.export.readme import DATA_LICENSE, readme
from medkd.export.recipe import exported_recipes, recipe_config
from medkd.export.torchscript import script
from medkd.files import write_json
from medkd.networks import count_parameters
from medkd.run_folder import WEIGHTS_FILE

VERSION = "0.1.0"


def write_bundle(network: nn.Module, model: SavedModel, path: Path, recipe: dict[str, Any] | None = None) -> None:
    """Write a bundle folder, but for its ``docs/README.md``; see :func:`write_readme`.

    Args:
        network: in evaluation mode, on the CPU.
        model: what it is.
        path: the folder.
        recipe: see :func:`medkd.export.recipe.read_recipe`; it becomes the config it was trained by.
    """
    template = bundle_folder(recipe["bundle"] if recipe else STUDENT)
    configs = path / "configs"
    configs.mkdir(parents=True)
    shutil.copyfile(template / "LICENSE", path / "LICENSE")
    shutil.copyfile(template / "configs" / "logging.conf", configs / "logging.conf")
    for name in ("inference.yaml", "evaluate.yaml"):
        text = (template / "configs" / name).read_text(encoding="utf-8")
        (configs / name).write_text(_own_root(text, model), encoding="utf-8")
    write_json(configs / "metadata.json", _metadata(network, model, template))
    if recipe:
        text = yaml.safe_dump(recipe_config(recipe), sort_keys=False, width=120, allow_unicode=True)
        (configs / f"{recipe['config']}.yaml").write_text(_own_root(text, model), encoding="utf-8")
    model.save(path / "models", network.state_dict())
    (path / "docs").mkdir()
    (path / "docs" / "data_license.txt").write_text(DATA_LICENSE, encoding="utf-8")


def write_readme(
    network: nn.Module, model: SavedModel, path: Path, recipe: dict[str, Any] | None, agreement: Agreement
) -> None:
    """Write the bundle's ``docs/README.md``, which states how far the bundle agrees with the trained network."""
    size = model.preprocessing.size
    is_scriptable = script(network, random_slices(model.preprocessing.in_channels, size, size)) is not None
    configs = [file.name for file in exported_recipes(path)]
    text = readme(model, count_parameters(network), recipe, configs, agreement, is_scriptable)
    (path / "docs" / "README.md").write_text(text, encoding="utf-8")


def load_bundle(path: Path) -> Predictor:
    """The network of a bundle as its ``inference.yaml`` builds it, with its weights, on the CPU."""
    parser = ConfigParser()
    parser.read_config(path / "configs" / "inference.yaml")
    parser["bundle_root"] = str(path)
    network = parser.get_parsed_content("network_def")
    load_weights(network, path / "models" / WEIGHTS_FILE)
    return network.eval()


def _own_root(text: str, model: SavedModel) -> str:
    """A config of the template that never falls back on the template's weights, or on its sample of scans."""
    text = re.sub(r"locate_bundle\((['\"]+)[^'\"]*", rf"locate_bundle(\g<1>exported_{network_name(model)}", text)
    return re.sub(
        r"^dataset_dir: \$@bundle_root.*$", "dataset_dir: scans # of scans, or a Decathlon folder", text, flags=re.M
    )


def _metadata(network: nn.Module, model: SavedModel, template: Path) -> dict[str, Any]:
    name, parameters = network_name(model), count_parameters(network)
    schema = ConfigParser.load_config_file(template / "configs" / "metadata.json")["schema"]
    return {
        "schema": schema,
        "version": VERSION,
        "changelog": {VERSION: "exported by medkd"},
        "monai_version": monai.__version__,
        "pytorch_version": torch.__version__.partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {
            "medkd": medkd.__version__,
            "pytorch-ignite": version("pytorch-ignite"),
            "nibabel": version("nibabel"),
        },
        "name": f"{name} for {organs(model)}",
        "task": f"Segmentation of {organs(model)}",
        "description": f"{name}, {parameters:,} parameters, segments {organs(model)} slice by slice",
        "authors": "to be filled in by who trained it",
        "copyright": "to be filled in by who trained it",
        "network_data_format": _data_format(network, model),
    }


def _data_format(network: nn.Module, model: SavedModel) -> dict[str, Any]:
    size, in_channels = model.preprocessing.size, model.preprocessing.in_channels
    with torch.inference_mode():
        channels = network(random_slices(in_channels, size, size)).shape[1]
    side = f"{getattr(network, 'multiple', size)}*n" if is_free_in_size(network, model.preprocessing) else size
    common = {"type": "image", "spatial_shape": [side, side], "dtype": "float32", "is_patch_data": False}
    # A window is one of Hounsfield units; without one the model knows no unit.
    kind = ("hounsfield", "CT") if model.preprocessing.window else ("magnitude", "n/a")
    image = {"format": kind[0], "modality": kind[1], "num_channels": in_channels, "value_range": [0, 1]}
    pred = {"format": "segmentation", "num_channels": channels, "value_range": []}
    return {
        "inputs": {"image": common | image | _channel_def(input_channel_names(model.preprocessing))},
        "outputs": {"pred": common | pred | _channel_def(output_channel_names(model, channels))},
    }


def _channel_def(names: list[str]) -> dict[str, dict[str, str]]:
    return {"channel_def": {str(channel): name for channel, name in enumerate(names)}}
