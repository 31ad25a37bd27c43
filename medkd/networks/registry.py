"""Networks by name: what the command line, the bundles and any other code look up."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import monai.networks.nets
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medkd.errors import UserError

MONAI_NETWORKS = "monai.networks.nets."


@dataclass(frozen=True)
class NetworkEntry:
    """One network of the registry.

    Attributes:
        name: what users type.
        builder: makes the network from keyword arguments; all have defaults, those of the published network.
        role: ``teacher`` or ``student``, which decides the bundle whose recipe trains it.
        reference: paper that describes it.
        input_shape: ``(C, *spatial)`` at which multiply-adds are stated.
        difference: how the published parameter count differs from this network's, if it does.
    """

    name: str
    builder: Callable[..., nn.Module]
    role: str
    reference: str
    input_shape: tuple[int, ...] = (3, 256, 256)
    difference: str = ""


_REGISTRY: dict[str, NetworkEntry] = {}


def register_network(entry: NetworkEntry) -> None:
    """Make a network known under ``entry.name``; a name can be taken once."""
    if entry.name in _REGISTRY:
        raise UserError(f"network {entry.name!r} is registered already: choose another name.")
    _REGISTRY[entry.name] = entry


def network_names() -> list[str]:
    """The names of all registered networks."""
    return sorted(_REGISTRY)


def network_entry(name: str) -> NetworkEntry:
    """The entry of ``name``.

    Raises:
        UserError: the name is not known.
    """
    if name not in _REGISTRY:
        raise UserError(f"no network is called {name!r}: choose one of {', '.join(network_names())}.")
    return _REGISTRY[name]


def create_network(name: str, **arguments: Any) -> nn.Module:
    """Build a network by name.

    Args:
        name: of the registry, or a network of MONAI as ``monai.networks.nets.UNet``.
        arguments: replace the network's defaults (``in_channels``, ``channels`` ...).

    Raises:
        UserError: the name is not known, or the network does not take the arguments.
    """
    builder = _monai_network(name) if name.startswith(MONAI_NETWORKS) else network_entry(name).builder
    try:
        network = builder(**arguments)
    except UserError:
        raise
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise UserError(f"network {name!r} cannot be built with {sorted(arguments)}: {error}.") from error
    network.definition = {"name": name, **arguments}  # type: ignore[assignment]
    return network


def network_definition(network: nn.Module) -> dict[str, Any]:
    """The name and arguments :func:`create_network` built a network with, to build it again.

    Raises:
        UserError: it was built another way.
    """
    if not hasattr(network, "definition"):
        raise UserError(
            f"{type(network).__name__} was not built by medkd.networks.create_network: name it there "
            "(monai.networks.nets.UNet, say) so that the trained model can be loaded again."
        )
    return dict(network.definition)  # type: ignore[arg-type]


def _monai_network(name: str) -> Callable[..., nn.Module]:
    builder = getattr(monai.networks.nets, name.removeprefix(MONAI_NETWORKS), None)
    if not (inspect.isclass(builder) and issubclass(builder, nn.Module)):
        raise UserError(f"{name} is no network of MONAI: see the list in MONAI's documentation.")
    return builder


def reconstructs(network: nn.Module) -> bool:
    """Whether the network has a reconstruction decoder: ``forward(x, reconstruct=True)`` then returns a pair."""
    return "reconstruct" in inspect.signature(network.forward).parameters


def count_parameters(network: nn.Module) -> int:
    """How many trainable numbers the network has."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, input_shape: tuple[int, ...], **forward: Any) -> int:
    """Multiply-adds of one forward pass on an input ``(1, *input_shape)``; convolutions and matrix products count.

    Args:
        network: built on the ``meta`` device or any other.
        input_shape: ``(C, *spatial)``.
        forward: keyword arguments of the forward call.
    """
    device = next(network.parameters()).device
    counter = FlopCounterMode(display=False)
    training = network.training
    with counter, torch.no_grad():
        network.eval()(torch.zeros(1, *input_shape, device=device), **forward)
    network.train(training)
    return counter.get_total_flops() // 2


def describe_network(name: str) -> dict[str, Any]:
    """Facts on a registered network with its default arguments.

    Returns:
        ``name``, ``parameters``, ``macs`` (of everything the network can compute), ``input_shape``, ``reference``,
        ``difference``, ``taps``, ``role``; ``macs_segmentation`` where a reconstruction decoder can be left out.
    """
    entry = network_entry(name)
    with torch.device("meta"):
        network = entry.builder()
    forward = {"reconstruct": True} if reconstructs(network) else {}
    description = {
        "name": name,
        "role": entry.role,
        "parameters": count_parameters(network),
        "macs": count_macs(network, entry.input_shape, **forward),
        "input_shape": list(entry.input_shape),
        "reference": entry.reference,
        "difference": entry.difference,
        "taps": dict(getattr(network, "taps", {})),
    }
    if forward:
        description["macs_segmentation"] = count_macs(network, entry.input_shape)
    return description


def format_networks(descriptions: Sequence[Mapping[str, Any]]) -> str:
    """Networks as a text of at most 80 columns, with what :func:`describe_network` says of each."""
    lines = [f"{'name':<21}{'role':<9}{'parameters':>12}{'G multiply-adds':>17}"]
    for row in descriptions:
        at = "x".join(str(n) for n in row["input_shape"])
        facts = f"{row['parameters']:>12,}{row['macs'] / 1e9:>17.2f}  at {at}"
        lines.append(f"{row['name']:<21}{row['role']:<9}{facts}")
        notes = [row["reference"], f"taps: {', '.join(row['taps'])}", row["difference"]]
        lines += [
            line for note in notes if note for line in wrap(note, 78, initial_indent="  ", subsequent_indent="  ")
        ]
    return "\n".join(lines)
