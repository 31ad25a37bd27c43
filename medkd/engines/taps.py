"""Feature taps: named places in a network whose output distillation reads, on any network and without changing it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from medkd.errors import UserError


class FeatureTaps:
    """Captures what tapped modules return, by forward hooks.

    A tap is a name the network declares in its ``taps`` (``encoder``, ``bottleneck``, ``decoder``) or any module path
    (``model.1.submodule.0``), so stock MONAI networks can be tapped too.

    Args:
        network: the network to tap.

    Attributes:
        features: tap to the output ``(B, C, *spatial)`` of the last forward pass.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.features: dict[str, torch.Tensor] = {}
        self._hooks: dict[str, torch.utils.hooks.RemovableHandle] = {}

    def add(self, tap: str) -> None:
        """Capture ``tap`` from now on.

        Raises:
            UserError: the network has no such place.
        """
        if tap not in self._hooks:
            self._hooks[tap] = find_tap(self.network, tap).register_forward_hook(self._keep(tap))

    def remove(self) -> None:
        """Detach all hooks and forget the features."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()
        self.features.clear()

    def _keep(self, tap: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            if not isinstance(output, torch.Tensor):
                kind = type(output).__name__
                raise UserError(f"tap {tap!r} gives a {kind}, not one map: tap a layer inside or behind it.")
            self.features[tap] = output

        return hook


def find_tap(network: nn.Module, tap: str) -> nn.Module:
    """The module behind a tap; see :class:`FeatureTaps`."""
    declared: dict[str, str] = getattr(network, "taps", {})
    try:
        return network.get_submodule(declared.get(tap, tap))
    except AttributeError as error:
        places = ", ".join(declared) or "none of its own"
        raise UserError(
            f"{type(network).__name__} has no tap {tap!r} (it declares {places}): give a module path from "
            "named_modules()."
        ) from error


def tap_channels(network: nn.Module, tap: str, input_shape: tuple[int, ...] | None = None) -> int:
    """How many channels the map at ``tap`` has, found by one forward pass on zeros.

    Args:
        network: the network to look into.
        tap: see :class:`FeatureTaps`.
        input_shape: ``(C, *spatial)`` of an input the network takes; by default 64x64, or the ``image_size`` that the
            network asks for, with the ``in_channels`` it was created with, or three.
    """
    if input_shape is None:
        side = getattr(network, "image_size", 64)
        input_shape = (getattr(network, "definition", {}).get("in_channels", 3), side, side)
    taps = FeatureTaps(network)
    taps.add(tap)
    training = network.training
    device = next(network.parameters()).device
    # One that is to be compiled shall be so for the input it is trained on.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        network.eval()(torch.zeros(1, *input_shape, device=device))
    network.train(training)
    features = dict(taps.features)
    taps.remove()
    if tap not in features:
        raise UserError(f"tap {tap!r} is not called when {type(network).__name__} segments: tap a layer that is.")
    return features[tap].shape[1]
