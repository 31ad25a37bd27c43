"""The recipe of a run as one config."""

from __future__ import annotations

import json

import pytest
import yaml

from medkd.bundle import STUDENT, bundle_folder
from medkd.errors import UserError
from medkd.export.recipe import method_name, read_recipe, recipe_config

OWN = "weights: {segmentation: 1.0}\ndistillation: []\n"


def config_of(name: str) -> dict:
    return yaml.safe_load((bundle_folder(STUDENT) / "configs" / f"{name}.yaml").read_text())


def test_method_and_overrides_are_merged_and_places_left_out(run):
    config = recipe_config(read_recipe(run))
    published, method = config_of("distill"), config_of("distill_emkd")
    assert list(config) == list(published)
    assert config["distillation"] == method["distillation"]
    assert config["weights"] == method["weights"] | {"pmd": 0.3}
    assert config["network_def"] == published["network_def"] | {"channels": [4, 8]}
    assert config["epochs"] == 3
    for key in ("dataset_dir", "teacher_run", "train", "optimizer"):
        assert config[key] == published[key], key


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("device", "cuda:3", False),
        ("train::volumes::cache", "/home/somebody/c", False),
        ("train::volumes::cache", "$'/home/somebody/c'", False),
        ("train::volumes::cache", '$Path( "/home/somebody") / "c"', False),
        ("train::volumes", {"cache": ["c", {"more": "$f'/home/{@seed}'"}]}, False),
        ("train::volumes", {"/home/somebody": 1}, False),
        ("train::handlers", ["a", ["/home/somebody"]], False),
        ("train::history", "$@output_dir + '/history'", True),
        ("train::history", '$@output_dir+"/history"', True),
        ("train::history", "$@output_dir.split('/')[-1]", True),
        ("epochs", "$120 / 2", True),
        ("train::volumes", {"cache": ["c", None, 3]}, True),
    ],
)
def test_overrides_that_name_the_machine_are_left_out(name, value, kept):
    config = recipe_config({"bundle": STUDENT, "config": "distill", "overrides": {name: value}, "method": None})
    found, published = config, config_of("distill")
    for key in name.split("::"):
        found, published = found[key], published[key]
    assert found == (value if kept else published) and value != published


@pytest.mark.parametrize(
    ("config", "method", "name"),
    [
        ("train", None, None),
        ("distill", None, "mtms"),
        ("distill", "mtms", "mtms"),
        ("distill", "kd", "kd"),
        ("distill", OWN, "a mix of its own"),
        ("distill", "method: {name: mine}\n" + OWN, "mine"),
    ],
)
def test_the_name_of_the_method(config, method, name):
    recipe = {"bundle": STUDENT, "config": config, "overrides": {}, "method": method}
    assert method_name(recipe) == name
    if method and "\n" in method:
        assert recipe_config(recipe)["distillation"] == []


def test_a_model_that_came_another_way_has_none(run):
    (run / "recipe.json").unlink()
    assert read_recipe(run) is None


@pytest.mark.parametrize("content", ["{", json.dumps({"bundle": STUDENT})])
def test_one_that_cannot_be_read_is_told(content, run):
    (run / "recipe.json").write_text(content)
    with pytest.raises(UserError, match=r"recipe\.json cannot be read"):
        read_recipe(run)
