"""The methods that only studies use: what each is made of, and that each trains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ignite.engine import Events

import medkd.study
from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.engines import DistillationTrainer
from medkd.engines.saved_model import load_tensors
from medkd.methods import describe_method, method_file
from medkd.recipes import WITHOUT_DISTILLATION, run_recipe

FOLDER = Path(medkd.study.__file__).parent / "studies" / "methods"
SCALES = ("encoder", "bottleneck", "decoder")
# Loss of the prediction maps and loss of the features.
LOSSES = {
    "mtms_mse": ("PredictionMapLoss", "HintLoss"),
    "mtms_fixed_projectors": ("PredictionMapLoss", "FixedProjectorsLoss"),
    "mtms_redrawn_projectors": ("PredictionMapLoss", "RedrawnProjectorsLoss"),
    "mtms_one_channel_pmd": ("OneChannelPredictionMapLoss", "ContrastiveFeatureLoss"),
}
every_method = pytest.mark.parametrize("name", LOSSES)


def file_of(name: str) -> Path:
    return FOLDER / f"{name}.yaml"


def terms_of(file: Path) -> dict[str, dict[str, Any]]:
    return {term["name"]: term for term in yaml.safe_load(file.read_text())["distillation"]}


def test_there_are_these_methods() -> None:
    assert {file.stem for file in FOLDER.iterdir()} == set(LOSSES)


@every_method
def test_a_method_is_that_of_the_recipe_but_for_its_losses(name: str) -> None:
    method_file(file_of(name))
    description = describe_method(file_of(name))
    of_maps, of_features = LOSSES[name]
    assert description["name"] == name and description["paper"] and description["segmentation_weight"] == 0.4
    assert {(term["name"], term["loss"], term["weight"]) for term in description["terms"]} == {
        ("pmd", of_maps, 0.2), ("encoder", of_features, 0.1), ("bottleneck", of_features, 0.2),
        ("decoder", of_features, 0.1),
    }  # fmt: skip
    recipe = terms_of(bundle_folder(STUDENT) / "configs" / "distill.yaml")
    for term_name, term in terms_of(file_of(name)).items():
        theirs = recipe[term_name]
        assert {key: term[key] for key in term if key != "loss"} == {
            key: theirs[key] for key in theirs if key != "loss"
        }
        ours, theirs = dict(term["loss"]), dict(theirs["loss"])
        assert ours.pop("granularity", None) == {
            "FixedProjectorsLoss": "image", "RedrawnProjectorsLoss": "image", "ContrastiveFeatureLoss": "@granularity"
        }.get(ours["_target_"].rpartition(".")[2])  # fmt: skip
        theirs.pop("granularity", None)
        assert ours | {"_target_": ""} == theirs | {"_target_": ""}


@pytest.fixture(scope="module")
def overrides(tiny_task: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    common = {"dataset_dir": str(tiny_task), "network_def::channels": [4, 8], "epochs": 1, "batch_size": 4}
    out = tmp_path_factory.mktemp("runs") / "teacher"
    teacher = run_recipe(TEACHER, "train", common | {"size": 32, "network_def::channels": [8, 16, 32]}, out)
    return common | {"teacher_run": str(teacher), "learning_rate": 0.001}


def history(run: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in json.loads((run / "history.json").read_text())
    ]


def projectors(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(run / "checkpoint.pt")["projectors"]


@every_method
def test_a_method_trains_with_all_its_terms(name: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    run = run_recipe(STUDENT, "distill", overrides, tmp_path / "run", file_of(name))
    (row,) = history(run)
    assert set(row["gradient"]) == {"segmentation", "pmd", *SCALES}
    silent = {"pmd"} if name == "mtms_one_channel_pmd" else set()
    assert {term for term, norm in row["gradient"].items() if norm == 0} == silent
    assert {term for term in ("pmd", *SCALES) if row[term] == 0} == silent
    weighted = (
        0.4 * row["segmentation"] + 0.2 * (row["pmd"] + row["bottleneck"]) + 0.1 * (row["encoder"] + row["decoder"])
    )
    assert row["loss"] == pytest.approx(weighted, rel=1e-4)


@every_method
def test_terms_without_weight_are_left_out(name: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    weights = {"weights::pmd": 0.0, "weights::encoder": 0.0, "weights::decoder": 0.0}
    run = run_recipe(STUDENT, "distill", overrides | weights, tmp_path / "run", file_of(name))
    (row,) = history(run)
    assert set(row["gradient"]) == {"segmentation", "bottleneck"} and not {"pmd", "encoder", "decoder"} & set(row)
    assert {key.split(".")[0] for key in projectors(run)} == {"bottleneck"}


def test_without_its_terms_every_method_is_the_same_control(overrides: dict[str, Any], tmp_path: Path) -> None:
    control = overrides | WITHOUT_DISTILLATION
    curves = [
        history(run_recipe(STUDENT, "distill", control, tmp_path / str(method), method and file_of(method)))
        for method in (None, "mtms_mse", "mtms_redrawn_projectors")
    ]
    assert curves[0] == curves[1] == curves[2]


@pytest.mark.parametrize(("name", "stay"), [("mtms_fixed_projectors", True), ("mtms_redrawn_projectors", False)])
def test_projectors_are_not_trained(name: str, stay: bool, overrides: dict[str, Any], tmp_path: Path) -> None:
    runs = [
        run_recipe(STUDENT, "distill", overrides | {"epochs": epochs}, tmp_path / str(epochs), file_of(name))
        for epochs in (1, 2)
    ]
    before, after = map(projectors, runs)
    assert set(before) == set(after) and any(".teacher_projector." in key for key in before)
    assert all(torch.equal(before[key], after[key]) == stay for key in before)
    trained = load_tensors(runs[1] / "checkpoint.pt")["optimizer"]["param_groups"][0]["params"]
    without = run_recipe(STUDENT, "distill", overrides | WITHOUT_DISTILLATION, tmp_path / "control")
    assert trained == load_tensors(without / "checkpoint.pt")["optimizer"]["param_groups"][0]["params"]


@pytest.mark.parametrize("name", ["mtms_fixed_projectors", "mtms_redrawn_projectors"])
def test_a_killed_run_resumes_with_the_same_projectors(
    name: str, overrides: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = overrides | {"epochs": 3}
    whole = run_recipe(STUDENT, "distill", overrides, tmp_path / "whole", file_of(name))
    steps = load_tensors(whole / "checkpoint.pt")["trainer"]["iteration"] // 3
    original = DistillationTrainer.__init__

    def dying(self: DistillationTrainer, **arguments: Any) -> None:
        original(self, **arguments)

        @self.on(Events.ITERATION_COMPLETED(once=steps + 1))
        def die(engine: DistillationTrainer) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DistillationTrainer, "__init__", dying)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(STUDENT, "distill", overrides, tmp_path / "killed", file_of(name))
    assert len(history(tmp_path / "killed")) == 1
    killed = run_recipe(STUDENT, "distill", overrides, tmp_path / "killed", file_of(name))
    assert history(killed) == history(whole)
    assert all(torch.equal(tensor, projectors(whole)[key]) for key, tensor in projectors(killed).items())
