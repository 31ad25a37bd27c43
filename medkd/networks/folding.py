"""Batch norms folded into the convolutions before them, for networks that only run."""

from __future__ import annotations

import itertools

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Undo = list[tuple[nn.Module, str, nn.Module]]


def fold_batch_norms(network: nn.Module) -> Undo:
    """Fold every batch norm that follows a convolution in a plain ``nn.Sequential`` into it, in place.

    Layers of other classes, with hooks, without running statistics or with a derived weight are left alone. A network
    that also calls such a pair one by one gives something else afterwards: compare its outputs, and :func:`unfold`.

    Args:
        network: in evaluation mode.

    Returns:
        What was replaced, for :func:`unfold`.
    """
    undo: Undo = []
    for sequence in [module for module in network.modules() if type(module).forward is nn.Sequential.forward]:
        for first, second in itertools.pairwise(list(sequence._modules)):
            conv, norm = sequence.get_submodule(first), sequence.get_submodule(second)
            if _is_foldable(conv, norm):
                undo += [(sequence, first, conv), (sequence, second, norm)]
                sequence._modules[first] = fuse_conv_bn_eval(conv, norm)  # type: ignore[arg-type, type-var]
                sequence._modules[second] = nn.Identity()
    return undo


def unfold(undo: Undo) -> None:
    """Put back what :func:`fold_batch_norms` replaced."""
    for sequence, name, module in reversed(undo):
        sequence._modules[name] = module


def _is_foldable(conv: nn.Module, norm: nn.Module) -> bool:
    return (
        type(conv) in CONVOLUTIONS
        and type(norm) in BATCH_NORMS
        and norm.running_mean is not None
        and "weight" in conv._parameters
        and not any(module._forward_hooks or module._forward_pre_hooks for module in (conv, norm))
    )
