"""Getting a network ready to train."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from medkd.data.split import Split
from medkd.distributed import process_count, synchronize_batch_norm
from medkd.engines.saved_model import SavedModel, load_weights, model_folder, model_split_file
from medkd.errors import UserError
from medkd.networks.layout import channels_last
from medkd.run_folder import WEIGHTS_FILE


def _check_unseen(run: str | Path, split: Split) -> None:
    file = model_split_file(run)
    if file is None:
        return
    seen = set(json.loads(file.read_text(encoding="utf-8")).get("teacher_train", ())) & {*split.val, *split.test}
    if seen:
        raise UserError(
            f"{run} has learned from {', '.join(sorted(seen)[:3])}, which would be validated or tested on: give the "
            f"split of that run (--split_file {file}), or delete that file if its cases are others of the same names."
        )


def prepare_network(
    network: nn.Module,
    device: str | torch.device,
    initial_run: str | Path | None = None,
    compile: bool = False,
    split: Split | None = None,
) -> nn.Module:
    """Move a network to a device in channels-last order, which convolutions run fastest in.

    Where several processes train, its batch norms take their statistics over the batches of all.

    Args:
        network: as built.
        device: where it will be trained.
        compile: translate it with ``torch.compile`` at its first pass; its weights keep their names.
        initial_run: run folder whose ``model.pt`` gives the first weights, for example a pre-training. A model of
            another number of labels gives all but the layer that tells the labels apart, which starts anew.
        split: of the cases to train; the first weights may not know those to validate and to test.

    Raises:
        UserError: the folder of the first weights holds no model, or one of another network, or one that has learned
            from a case of another part of the split.
    """
    if initial_run is not None:
        if split is not None:
            _check_unseen(initial_run, split)
        outputs = SavedModel.read(initial_run).network.get("out_channels", 1)
        load_weights(network, model_folder(initial_run) / WEIGHTS_FILE, outputs)
    network = channels_last(network.to(device))
    if process_count() > 1:
        network = synchronize_batch_norm(network)
    if compile:
        network.compile()
    return network
