"""bfloat16 where the processor is faster with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.inferers import SimpleInferer


def mixed_precision_pays(device: str | torch.device) -> bool:
    """Whether a device multiplies half-precision matrices faster than float32 ones.

    GPUs do, and processors with matrix units (AMX). An Intel processor that has bfloat16 instructions but no such units
    is slower with them (``docs/performance.md``).
    """
    kind = torch.device(device).type
    if kind != "cpu":
        return kind == "cuda"
    facts = Path("/proc/cpuinfo")
    return facts.is_file() and " amx_bf16 " in facts.read_text(encoding="utf-8", errors="replace").replace("\n", " ")


class AutocastInferer(SimpleInferer):
    """Calls a network under bfloat16 autocast, on any device; MONAI's trainers have theirs for CUDA alone.

    bfloat16 has the range of float32, so that gradients need no scaling.

    Args:
        enabled: with False it is MONAI's ``SimpleInferer``.
    """

    def __init__(self, enabled: bool = True) -> None:
        super().__init__()
        self.enabled = enabled

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Call ``network(inputs, *args, **kwargs)``."""
        if not self.enabled:  # An autocast that is off would switch off the one around it.
            return super().__call__(inputs, network, *args, **kwargs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return super().__call__(inputs, network, *args, **kwargs)
