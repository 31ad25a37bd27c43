"""The mean of several models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medkd.data import Preprocessing
from medkd.engines import SavedModel, average_models, load_model
from medkd.errors import UserError
from medkd.networks import create_network
from medkd.run_folder import SPLIT_FILE

MODEL = SavedModel({"name": "unet_tiny", "channels": [4, 6]}, Preprocessing(size=32), {0: "background", 1: "spleen"})


def write_run(folder: Path, seed: int, model: SavedModel = MODEL, split: str = "{}") -> Path:
    torch.manual_seed(seed)
    network = create_network(**model.network)
    network(torch.randn(2, 3, 16, 16))  # so that the statistics of batch norm differ too
    model.save(folder, network.state_dict())
    (folder / SPLIT_FILE).write_text(split)
    return folder


def test_every_weight_and_statistic_is_the_mean(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed) for seed in (0, 1, 2)]
    average_models(runs, tmp_path / "mean")
    states = [load_model(run).state_dict() for run in runs]
    mean = load_model(tmp_path / "mean").state_dict()
    for name, value in mean.items():
        expected = sum(state[name].double() for state in states) / 3
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(mean["stem.1.running_mean"], states[0]["stem.1.running_mean"])
    assert SavedModel.read(tmp_path / "mean") == MODEL
    assert (tmp_path / "mean" / SPLIT_FILE).read_text() == "{}"


@pytest.mark.parametrize(
    "other",
    [
        {"model": SavedModel({"name": "unet_tiny", "channels": [4, 8]}, MODEL.preprocessing, MODEL.labels)},
        {"model": SavedModel(MODEL.network, Preprocessing(size=64), MODEL.labels)},
        {"split": '{"test": ["a"]}'},
    ],
    ids=["network", "pre-processing", "split"],
)
def test_runs_that_are_not_alike_are_refused(other, tmp_path):
    runs = [write_run(tmp_path / "a", 0), write_run(tmp_path / "b", 1, **other)]
    with pytest.raises(UserError, match="average like runs"):
        average_models(runs, tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_nothing_has_no_mean(tmp_path):
    with pytest.raises(UserError, match="no model to average"):
        average_models([], tmp_path / "mean")
