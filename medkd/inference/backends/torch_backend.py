"""The network in PyTorch: always there, and the one way to a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from medkd.errors import UserError
from medkd.networks.layout import channels_last

# Slices that stay in the cache of the processor: faster than more, in less memory. A GPU gets all at once.
AT_A_TIME = 2


class TorchBackend:
    """Runs a network of PyTorch.

    Args:
        network: returns logits.
        device: where to run; a GPU if there is one by default.
        threads: of the processor; PyTorch keeps one such number for the whole process. As it is set by default.

    Raises:
        UserError: there is no such device.
    """

    name = "torch"

    def __init__(
        self, network: nn.Module, device: str | torch.device | None = None, threads: int | None = None
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.network = channels_last(network.to(self.device)).eval()
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            raise UserError(f"the device {device} cannot be used ({reason}): give cpu, or leave it out.") from error

    def __call__(self, slices: np.ndarray) -> np.ndarray:
        """See :class:`~medkd.inference.backends.Backend`."""
        return self.run(slices)[0]

    def run(self, slices: np.ndarray, **arguments: Any) -> tuple[np.ndarray, ...]:
        """All that the network returns for slices ``(B, C, size, size)``.

        Args:
            slices: float32.
            arguments: keyword arguments of the network, such as ``reconstruct=True``.
        """
        at_a_time = AT_A_TIME if self.device.type == "cpu" else len(slices)
        outputs = []
        with torch.inference_mode():
            for part in torch.from_numpy(slices).split(at_a_time):
                output = self.network(part.to(self.device, memory_format=torch.channels_last), **arguments)
                outputs.append(output if isinstance(output, tuple) else (output,))
        return tuple(torch.cat(parts).float().cpu().numpy() for parts in zip(*outputs, strict=True))
