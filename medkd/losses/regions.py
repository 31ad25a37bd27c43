"""What the losses share: labels on the grid of a map, and the regions of their classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medkd.errors import UserError
from medkd.losses.maps import at_least_float32, resize_to_grid


def check_label(label: Tensor, feature_map: Tensor) -> None:
    """Refuse a label that is not one class index per position for the samples of ``feature_map``.

    Raises:
        UserError: the shape is not ``(B, 1, *spatial)`` with the map's batch size and number of spatial axes.
    """
    if label.ndim != feature_map.ndim or label.shape[0] != feature_map.shape[0] or label.shape[1] != 1:
        raise UserError(
            f"label has shape {tuple(label.shape)}: give class indices of shape (B, 1, *spatial) "
            f"with B={len(feature_map)} and {feature_map.ndim - 2} spatial axes."
        )


def present_classes(label: Tensor) -> Tensor:
    """The class indices a label holds, in ascending order."""
    # Counted, not torch.unique: sorting millions of voxels takes ten times as long.
    return torch.bincount(label.flatten().long()).nonzero().flatten()


def class_fractions(label: Tensor, classes: Tensor, grid: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """The share of each class in every cell of a grid, so that no object is too small to be seen.

    Args:
        label: class indices ``(B, 1, *spatial)``, of any resolution.
        classes: the ``K`` class indices to look for.
        grid: the spatial lengths of the result.
        dtype: float32 or float64.

    Returns:
        ``(B, K, *grid)``, between 0 and 1.
    """
    one_hot = label == classes.reshape(1, -1, *[1] * (label.ndim - 2))
    return resize_to_grid(one_hot.to(dtype), grid)


def majority_label(label: Tensor, grid: Sequence[int]) -> Tensor:
    """The most frequent class of every cell of a grid (of equals, the lowest index).

    Args:
        label: class indices ``(B, 1, *spatial)``, of any resolution.
        grid: the spatial lengths of the result.

    Returns:
        class indices ``(B, *grid)``.
    """
    if tuple(label.shape[2:]) == tuple(grid):
        return label.squeeze(1).long()
    classes = present_classes(label)
    return classes[class_fractions(label, classes, grid).argmax(dim=1)]


def nearest_label(label: Tensor, grid: Sequence[int]) -> Tensor:
    """The class of the nearest voxel for every cell of a grid, as the papers resize labels (PyTorch's ``nearest``).

    Args:
        label: class indices ``(B, 1, *spatial)``, of any resolution.
        grid: the spatial lengths of the result.

    Returns:
        class indices ``(B, *grid)``.
    """
    if tuple(label.shape[2:]) == tuple(grid):
        return label.squeeze(1).long()
    return F.interpolate(label.float(), size=tuple(grid), mode="nearest").squeeze(1).long()


def class_means(vectors: Tensor, members: Tensor) -> Tensor:
    """The mean vector of every class in every sample; zeros where the class is absent.

    Args:
        vectors: ``(B, C, N)``, the channels at N positions.
        members: ``(B, K, N)`` in the same precision, 1 where the position is of the class, else 0.

    Returns:
        ``(B, K, C)``.
    """
    return members @ vectors.transpose(1, 2) / members.sum(dim=2, keepdim=True).clamp(min=1)


def region_vectors(student: Tensor, teacher: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class means of every sample that holds the class, weighted by the share the class has in each cell of a map.

    Args:
        student: map ``(B, Cs, *spatial)``.
        teacher: map ``(B, Ct, *spatial)`` of any size.
        label: class indices ``(B, 1, *spatial)``, of any resolution.

    Returns:
        means of the student ``(N, Cs)`` and of the teacher ``(N, Ct)``, and the class of each row ``(N,)``.
    """
    classes = present_classes(label)
    present = (label.flatten(1)[:, None] == classes[:, None]).any(dim=2)
    means = []
    for feature_map in (student, teacher):
        vectors = at_least_float32(feature_map).flatten(2).transpose(1, 2)
        weights = class_fractions(label, classes, feature_map.shape[2:], vectors.dtype).flatten(2)
        sums = weights @ vectors
        means.append(sums[present] / weights.sum(dim=2)[present][:, None])
    return means[0], means[1], classes.expand(len(label), -1)[present]
