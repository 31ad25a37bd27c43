"""The weights that a training starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medkd.data import Preprocessing, Split
from medkd.engines import SavedModel, prepare_network
from medkd.engines.saved_model import load_tensors
from medkd.errors import UserError
from medkd.networks import create_network, network_definition

NETWORKS = {
    "unet_s1": {"channels": [4, 8]},
    "unet_tiny": {"channels": [4, 8, 8]},
    "multitask_unet": {"channels": [4, 8, 8]},
    # Their last layers are transposed convolutions.
    "enet": {},
    "erfnet": {},
    "monai.networks.nets.UNet": {"spatial_dims": 2, "channels": [4, 8], "strides": [2]},
}


def start(folder: Path, name: str, outputs: int, **arguments: object) -> dict[str, torch.Tensor]:
    network = create_network(name, in_channels=3, out_channels=outputs, **arguments)
    labels = {value: f"label {value}" for value in range(max(2, outputs))}
    SavedModel(network_definition(network), Preprocessing(size=32), labels).save(folder, network.state_dict())
    return load_tensors(folder / "model.pt")


@pytest.mark.parametrize(("before", "after"), [(14, 1), (1, 3), (3, 4), (1, 1)])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_start_of_other_labels_gives_all_but_the_layer_of_the_labels(name, before, after, tmp_path):
    theirs = start(tmp_path, name, before, **NETWORKS[name])
    network = create_network(name, in_channels=3, out_channels=after, **NETWORKS[name])
    drawn = {key: value.clone() for key, value in network.state_dict().items()}
    started = prepare_network(network, "cpu", tmp_path).state_dict()
    own = {key for key in started if theirs[key].shape != started[key].shape}
    assert bool(own) == (before != after) and len(own) <= 8
    assert all(after in started[key].shape and torch.equal(started[key], drawn[key]) for key in own)
    assert all(torch.equal(started[key], theirs[key]) for key in started.keys() - own)


def test_a_start_that_knows_a_test_case_is_refused(tmp_path):
    start(tmp_path, "unet_s1", 14, channels=[4, 8])
    split = Split(["a", "b"], ["a"], ["c"], ["d"])
    for trained, known in ((["a", "b", "e"], None), (["a", "c"], "c"), (["d"], "d")):
        Split(trained, trained, [], []).write(tmp_path / "splits.json")
        network = create_network("unet_s1", out_channels=1, channels=[4, 8])
        if known is None:
            prepare_network(network, "cpu", tmp_path, split=split)
            continue
        with pytest.raises(UserError, match=f"has learned from {known}, which would be validated or tested on"):
            prepare_network(network, "cpu", tmp_path, split=split)


@pytest.mark.parametrize("channels", [[4, 16], [8, 8], [4, 8, 8]])
def test_a_start_of_another_network_is_refused(channels, tmp_path):
    start(tmp_path, "unet_s1", 14, channels=[4, 8])
    with pytest.raises(UserError, match="holds the weights of another network than"):
        prepare_network(create_network("unet_s1", out_channels=1, channels=channels), "cpu", tmp_path)
