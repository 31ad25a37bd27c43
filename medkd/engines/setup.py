"""Getting a network ready to train."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from medkd.distributed import process_count, synchronize_batch_norm
from medkd.engines.saved_model import SavedModel, load_weights, model_folder
from medkd.networks.layout import channels_last
from medkd.run_folder import WEIGHTS_FILE


def prepare_network(
    network: nn.Module, device: str | torch.device, initial_run: str | Path | None = None, compile: bool = False
) -> nn.Module:
    """Move a network to a device in channels-last order, which convolutions run fastest in.

    Where several processes train, its batch norms take their statistics over the batches of all.

    Args:
        network: as built.
        device: where it will be trained.
        compile: translate it with ``torch.compile`` at its first pass; its weights keep their names.
        initial_run: run folder whose ``model.pt`` gives the first weights, for example a pre-training. A model of
            another number of labels gives all but the layer that tells the labels apart, which starts anew.

    Raises:
        UserError: the folder holds no model, or one of another network.
    """
    if initial_run is not None:
        outputs = SavedModel.read(initial_run).network.get("out_channels", 1)
        load_weights(network, model_folder(initial_run) / WEIGHTS_FILE, outputs)
    network = channels_last(network.to(device))
    if process_count() > 1:
        network = synchronize_batch_norm(network)
    if compile:
        network.compile()
    return network
