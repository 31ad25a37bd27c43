"""A network as TorchScript, for ``torch.jit.load`` in Python and C++ and for MONAI."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch
from monai.data import load_net_with_metadata, save_net_with_metadata
from torch import nn

from medkd.engines.saved_model import SavedModel
from medkd.export.agreement import Predictor
from medkd.export.description import network_name, random_slices


def write_torchscript(network: nn.Module, model: SavedModel, path: Path) -> None:
    """Write a network as ``torch.jit.script`` sees it, or a trace at the size of the pre-processing if it cannot.

    The metadata hold the content of ``model.json`` and, as ``spatial_shape``, the size of a trace; it is None for a
    scripted network, which is as free in its size as the network itself.

    Args:
        network: in evaluation mode, on the CPU.
        model: what it is.
        path: the file.
    """
    size = model.preprocessing.size
    sample = random_slices(model.preprocessing.in_channels, size, size)
    with warnings.catch_warnings(), torch.no_grad():
        # The tracer warns of every size that it fixes, and torch of TorchScript's age.
        warnings.simplefilter("ignore")
        module = script(network, sample)
        shape = None
        if module is None:
            module, shape = torch.jit.trace(network, sample), [size, size]
    stream = io.BytesIO()
    meta = {"name": network_name(model), "spatial_shape": shape, **model.to_dict()}
    save_net_with_metadata(module, stream, meta_values=meta)
    path.write_bytes(stream.getvalue())


def load_torchscript(path: Path) -> Predictor:
    """The network of a file, on the CPU."""
    network, _, _ = load_net_with_metadata(str(path), map_location=torch.device("cpu"))
    return network


def script(network: nn.Module, sample: torch.Tensor) -> torch.jit.ScriptModule | None:
    """A network as ``torch.jit.script`` sees it; None where that does not understand it."""
    try:
        module = torch.jit.script(network)
        module(sample)
    except Exception:  # the compiler has no common class for what it does not understand
        return None
    return module
