"""What a reviewer of the Model Zoo looks for in a bundle's folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.utils.module import instantiate

import medkd
from medkd.bundle import STUDENT, TEACHER, bundle_folder, locate_bundle
from medkd.data import read_image
from medkd.data.phantom import make_phantom
from medkd.engines import load_model
from medkd.errors import UserError
from medkd.networks import count_parameters

FILES = [
    "LICENSE",
    "configs/metadata.json",
    "configs/train.yaml",
    "configs/distill.yaml",
    "configs/evaluate.yaml",
    "configs/inference.yaml",
    "configs/multi_gpu_train.yaml",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
    "models/model.pt",
    "models/model.json",
]
LARGEST = 25e6


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_there(file, bundle):
    assert (bundle / file).stat().st_size > 0


def test_no_file_is_larger_than_a_repository_takes(bundle):
    assert max(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) < LARGEST


def test_the_metadata_names_this_version_and_what_is_installed(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["medkd"] == medkd.__version__
    assert metadata["monai_version"] == "1.6.1"
    assert torch.__version__.startswith(metadata["pytorch_version"])


def test_the_weights_are_the_network_that_is_described(bundle):
    network = load_model(bundle)
    form = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    with torch.inference_mode():
        logits = network(torch.zeros(1, form["inputs"]["image"]["num_channels"], 64, 64))
    assert logits.shape == (1, form["outputs"]["pred"]["num_channels"], 64, 64)
    if bundle.name == STUDENT:
        assert count_parameters(network) == 56_417


def targets(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        yield from [content["_target_"]] if "_target_" in content else []
        content = list(content.values())
    if isinstance(content, list):
        for item in content:
            yield from targets(item)


def test_every_component_is_one_of_an_installed_package(bundle):
    found = {
        target
        for file in (bundle / "configs").glob("*.yaml")
        for target in targets(yaml.safe_load(file.read_text(encoding="utf-8")))
    }
    assert len(found) > 20
    for target in found:
        assert target.split(".")[0] in ("medkd", "monai", "torch"), target
        assert callable(instantiate(target, "callable")), target


OVERRIDABLE = [
    "bundle_root", "ckpt_dir", "output_dir", "dataset_dir", "images", "labels", "device", "network_def", "network",
    "train::trainer", "train::dataset", "train::handlers", "train::dataloader", "train::inferer", "validate::evaluator",
    "validate::dataset", "validate::handlers", "validate::inferer", "validate::postprocessing", "validate::key_metric",
]  # fmt: skip


@pytest.mark.parametrize("config", ["train", "distill"])
@pytest.mark.parametrize("name", OVERRIDABLE)
def test_the_names_of_the_zoo_can_be_overridden(name, config, bundle):
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / f"{config}.yaml"))
    assert name in parser


def test_the_license_is_the_projects(bundle):
    assert (bundle / "LICENSE").read_text() == (Path(medkd.__file__).parent.parent / "LICENSE").read_text()


def test_the_sample_is_a_phantom(bundle):
    hu, _, affine = make_phantom(1, shape=(96, 96, 24))
    sample = read_image(bundle / "sample" / "imagesTs" / "phantom.nii.gz")
    assert np.array_equal(sample.array, hu.astype(np.float32))
    assert np.allclose(sample.affine, affine)


def test_the_readme_gives_the_figures_that_are_stored(bundle):
    """Every Dice of the page's performance section is one of the table of students or of the model card."""
    results = Path(medkd.__file__).parent.parent / "docs" / "results"
    figures = []
    for runs in json.loads((results / "student_table.json").read_text())["runs"].values():
        figures.append(mean(case["labels"]["spleen"]["dice"] for run in runs for case in run["cases"]))
    cases = json.loads((results / "model_card.json").read_text())["cases"]
    for model in ("student", "teacher"):
        for key in ("dice", "dice_of_largest_piece", "dice_without_postprocessing"):
            dice = [case[model][key] for case in cases]
            figures += [*dice, mean(dice)]
    section = (bundle / "docs" / "README.md").read_text().split("## Performance")[1].split("\n## ")[0]
    quoted = set(re.findall(r"\b0\.\d{3}\b", section))
    assert len(quoted) >= 5 and quoted <= {f"{figure:.3f}" for figure in figures}
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    shipped = mean(case["teacher" if bundle.name == TEACHER else "student"]["dice"] for case in cases)
    assert metadata["eval_metrics"] == {"mean_dice": round(shipped, 3)}


@pytest.mark.parametrize(
    ("words", "root"),
    [
        (["run", "--config_file", "{b}/configs/train.yaml"], "b (it's mine)"),
        (["run", "--config_file={b}/configs/train.yaml"], "b (it's mine)"),
        (["run", "--config-file", "{b}/configs/train.yaml"], "b (it's mine)"),
        (["run", "--config_file", '["{b}/configs/train.yaml", "{b}/configs/evaluate.yaml"]'], "b (it's mine)"),
        (["run", "--config_file", "{b}/configs/train.yaml,{b}/configs/evaluate.yaml"], "b (it's mine)"),
        (["run", "--args_file", "args.json"], "b (it's mine)"),
        (["pytest"], None),
    ],
)
def test_a_bundle_is_found_by_the_config_of_the_command(words, root, monkeypatch, tmp_path):
    configs = tmp_path / "b (it's mine)" / "configs"
    configs.mkdir(parents=True)
    for name in ("train.yaml", "evaluate.yaml", "metadata.json"):
        (configs / name).touch()
    (tmp_path / "args.json").write_text(json.dumps({"config_file": str(configs / "train.yaml")}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [word.format(b="b (it's mine)") for word in words])
    expected = bundle_folder(TEACHER) if root is None else tmp_path / root
    assert Path(locate_bundle(TEACHER)) == expected.resolve()


def test_in_the_folder_of_the_configs_too(bundle, monkeypatch):
    monkeypatch.chdir(bundle / "configs")
    monkeypatch.setattr("sys.argv", ["run", "--config_file", "train.yaml"])
    assert Path(locate_bundle(TEACHER)) == bundle.resolve()


def test_a_config_outside_of_any_bundle_is_told(tmp_path, monkeypatch):
    (tmp_path / "loose.yaml").touch()
    monkeypatch.setattr("sys.argv", ["run", "--config_file", str(tmp_path / "loose.yaml")])
    with pytest.raises(UserError, match=r"loose.yaml lies in no bundle: give bundle_root"):
        locate_bundle(TEACHER)


def test_from_python_the_working_folder_counts_if_it_is_that_bundle(monkeypatch, bundle):
    monkeypatch.setattr("sys.argv", ["python"])
    monkeypatch.chdir(bundle)
    assert locate_bundle(bundle.name) == "."
    other = TEACHER if bundle.name == STUDENT else STUDENT
    assert locate_bundle(other) == str(bundle_folder(other))
