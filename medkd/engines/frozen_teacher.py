"""The teacher of a distillation: frozen, folded, and run no further than somebody listens."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import nn

from medkd.engines.taps import FeatureTaps, find_tap
from medkd.errors import UserError
from medkd.networks.folding import fold_batch_norms, unfold
from medkd.networks.layout import channels_last

Outputs = dict[str | None, torch.Tensor]


class FrozenTeacher:
    """A network in evaluation mode, without gradients, that computes only what was asked for.

    It works on a copy, made at the first pass: batch norms are folded into the convolutions before them, and where
    nobody asked for the logits a pass ends at the last tap, so that a decoder nobody listens to never runs.

    Args:
        network: the trained teacher; left as it is.
        device: where it runs.
        inferer: how a network is called, that of the trainer; autocast comes with it.
    """

    def __init__(self, network: nn.Module, device: torch.device, inferer: Inferer | None = None) -> None:
        self.network = network
        self.device = device
        self.inferer = SimpleInferer() if inferer is None else inferer
        self.asked: dict[str | None, None] = {}
        self._taps: FeatureTaps | None = None
        self._passed = 0
        self._last: int | None = None

    def ask(self, tap: str | None) -> None:
        """Ask for the map at a tap (:class:`~medkd.engines.FeatureTaps`), or for the logits with None.

        Raises:
            UserError: the network has no such tap.
        """
        if tap is not None:
            find_tap(self.network, tap)
        self.asked[tap] = None
        self._taps = None

    def __call__(self, image: torch.Tensor) -> Outputs:
        """Run the teacher on ``image (B, C, *spatial)``.

        Returns:
            What was asked for: tap to map, None to logits.

        Raises:
            UserError: a tap is not called when the network segments.
        """
        if self._taps is not None:
            return self._run(self._taps, image)
        self._last = None
        self._taps = self._working_copy()
        outputs = self._run(self._taps, image)
        silent = [tap for tap in self.asked if tap not in outputs]
        if silent:
            raise UserError(
                f"tap {silent[0]!r} is not called when {type(self.network).__name__} segments: tap a layer that is."
            )
        outputs = self._fold(self._taps, image, outputs)
        # One whole pass has told how many calls of taps there are; the last of them may end the next.
        self._last = None if None in self.asked else self._passed
        return outputs

    def _run(self, taps: FeatureTaps, image: torch.Tensor) -> Outputs:
        self._passed = 0
        outputs: Outputs = {}
        # Not inference_mode: its tensors cannot be saved for the backward pass of the terms.
        with torch.no_grad():
            try:
                logits = self.inferer(image, taps.network)
                if None in self.asked:
                    outputs[None] = logits
            except _Done:
                pass
        outputs.update(taps.features.items())
        taps.features.clear()
        return outputs

    def _working_copy(self) -> FeatureTaps:
        for module in self.network.modules():
            # What pruning and weight norm derive from parameters in a pass with gradients cannot be copied.
            for name, value in vars(module).items():
                if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                    setattr(module, name, value.detach())
        network = channels_last(deepcopy(self.network).to(self.device).eval().requires_grad_(False))
        for module in network.modules():
            # What works in place would change what a tap has seen, but only in passes that go on.
            if getattr(module, "inplace", False) is True:
                module.inplace = False  # type: ignore[assignment]
        taps = FeatureTaps(network)
        for tap in self.asked:
            if tap is not None:
                taps.add(tap)
                find_tap(network, tap).register_forward_hook(self._stop_after_last)
        return taps

    def _fold(self, taps: FeatureTaps, image: torch.Tensor, expected: Outputs) -> Outputs:
        """Fold the batch norms, unless the outputs show that the network uses its layers in other ways too.

        Returns:
            the outputs as they are from now on.
        """
        undo = fold_batch_norms(taps.network)
        if not undo:
            return expected
        channels_last(taps.network)
        found = self._run(taps, image)
        if all(_agree(found[tap], expected[tap]) for tap in expected):
            return found
        unfold(undo)
        return expected

    def _stop_after_last(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._passed += 1
        if self._passed == self._last:
            raise _Done


class _Done(Exception):
    """Ends a pass of the teacher that has given all that was asked for."""


def _agree(found: torch.Tensor, expected: torch.Tensor) -> bool:
    difference = (found.float() - expected.float()).abs().max()
    return bool(difference <= 2 * torch.finfo(expected.dtype).eps ** 0.5 * expected.float().abs().max())
