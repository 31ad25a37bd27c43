"""Models on disk: what comes back, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from medkd.data import Preprocessing
from medkd.engines import (
    SavedModel,
    learning_rate_schedule,
    load_model,
    load_teacher,
    run_split_file,
    saved_network,
    trained_or_shipped,
)
from medkd.engines.saved_model import load_tensors, model_split_file, save_tensors
from medkd.errors import UserError
from medkd.networks import create_network, network_definition
from medkd.run_folder import WEIGHTS_FILE

LABELS = {0: "background", 1: "spleen"}


@pytest.fixture
def run(tmp_path):
    network = create_network("unet_s1", channels=(4, 6))
    SavedModel(network_definition(network), Preprocessing(size=32), LABELS).write_description(tmp_path)
    save_tensors(tmp_path / WEIGHTS_FILE, network.state_dict())
    return tmp_path, network


def test_round_trip(run):
    folder, network = run
    model = SavedModel.read(folder)
    assert model.labels == LABELS and model.preprocessing == Preprocessing(size=32)
    loaded = load_model(folder)
    assert not loaded.training
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(loaded(x), network.eval()(x))


def test_a_model_that_others_trained_can_be_saved_and_read(tmp_path):
    definition = {
        "name": "monai.networks.nets.UNet", "spatial_dims": 2, "in_channels": 1, "out_channels": 2,
        "channels": [4, 8], "strides": [2],
    }  # fmt: skip
    model = SavedModel(definition, Preprocessing(size=32, channels="single"), LABELS)
    network = create_network(**definition)
    model.save(tmp_path, network.state_dict())
    assert SavedModel.read(tmp_path) == model
    x = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(load_model(tmp_path)(x), network.eval()(x))
    with pytest.raises(UserError, match="do not fit"):
        model.save(tmp_path / "other", create_network("unet_s2").state_dict())
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("flips", [True, False])
def test_whether_it_was_trained_on_flipped_slices_is_kept(flips, tmp_path):
    SavedModel({"name": "unet_s1"}, Preprocessing(size=32), LABELS, flips).write_description(tmp_path)
    assert SavedModel.read(tmp_path).flips == flips


@pytest.mark.parametrize("compact", [("spleen",), ["spleen"], "spleen"])
def test_which_labels_are_compact_is_kept(compact, tmp_path):
    SavedModel({"name": "unet_s1"}, Preprocessing(size=32), LABELS, compact=compact).write_description(tmp_path)
    assert SavedModel.read(tmp_path).compact == ("spleen",)
    assert SavedModel.read(tmp_path).compact_values == [1]


@pytest.mark.parametrize("name", ["liver", "background"])
def test_only_a_label_is_compact(name):
    with pytest.raises(UserError, match=f"compact has '{name}', which is no label: choose of spleen"):
        SavedModel({"name": "unet_s1"}, Preprocessing(size=32), LABELS, compact=(name,))


def test_a_description_without_flips_is_what_it_was_before_there_was_such_a_word():
    """So that a stopped training of an older version goes on."""
    assert SavedModel({"name": "unet_s1"}, Preprocessing(size=32), LABELS).to_dict().keys() == {
        "network", "preprocessing", "labels",
    }  # fmt: skip


def test_a_bundle_is_read_from_its_models_folder(run, tmp_path_factory):
    folder, network = run
    bundle = tmp_path_factory.mktemp("bundle")
    folder.rename(bundle / "models")
    assert SavedModel.read(bundle) == SavedModel.read(bundle / "models")
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(load_model(bundle)(x), network.eval()(x))
    assert model_split_file(bundle) is None
    with pytest.raises(UserError, match="--split_file"):
        run_split_file(bundle)
    (bundle / "models" / "splits.json").write_text("{}")
    assert model_split_file(bundle) == run_split_file(bundle) == bundle / "models" / "splits.json"


def test_a_bundle_uses_what_was_trained_in_it_before_what_it_ships(run, tmp_path_factory):
    folder, _ = run
    bundle = tmp_path_factory.mktemp("bundle")
    assert trained_or_shipped(bundle / "eval", bundle) == str(bundle / "models")
    folder.rename(bundle / "eval")
    assert trained_or_shipped(bundle / "eval", bundle) == str(bundle / "eval")


def test_a_described_network_can_be_built_with_other_arguments(run):
    folder, network = run
    same, narrower = saved_network(folder), saved_network(folder, channels=(2, 3))
    assert {name: w.shape for name, w in same.state_dict().items()} == {
        name: w.shape for name, w in network.state_dict().items()
    }
    assert next(narrower.parameters()).shape[0] == 2


def test_bad_folders_are_told(run, tmp_path):
    folder, _ = run
    with pytest.raises(UserError, match="holds no trained model"):
        SavedModel.read(tmp_path / "nowhere")
    weights = folder / WEIGHTS_FILE
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(UserError, match="missing"):
        load_model(folder)
    save_tensors(weights, create_network("unet_s2").state_dict())
    with pytest.raises(UserError, match="another network than UNet"):
        load_model(folder)
    (folder / "model.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        load_model(folder)


def test_a_description_cannot_name_anything_but_networks(run):
    folder, _ = run
    path = folder / "model.json"
    content = json.loads(path.read_text())
    content["network"] = {"name": "os.system", "command": "true"}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no network is called"):
        load_model(folder)


def test_weights_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("code ran",))

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="damaged or no checkpoint"):
        load_tensors(tmp_path / "evil.pt")


def test_a_teacher_of_other_labels_is_refused(run):
    folder, _ = run
    assert load_teacher(folder, LABELS) is not None
    with pytest.raises(UserError, match="must agree"):
        load_teacher(folder, {0: "background", 1: "liver", 2: "spleen"})


@pytest.mark.parametrize(("name", "expected"), [("constant", [1.0, 1.0, 1.0]), ("cosine", [1.0, 0.5005, 0.001])])
def test_schedules(name, expected):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = learning_rate_schedule(optimizer, name, epochs=2)
    rates = []
    for _ in expected:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx(expected)


def test_an_unknown_schedule_is_told():
    with pytest.raises(UserError, match="constant or cosine"):
        learning_rate_schedule(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), "step", 3)
