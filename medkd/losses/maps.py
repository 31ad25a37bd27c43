"""What the losses share: reconciling maps of different size, precision and number of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medkd.errors import UserError

# A vector shorter than this has no direction to speak of, and the gradient of its direction would explode.
SHORTEST = 1e-6
_POOL: dict[int, Callable[..., Tensor]] = {
    1: F.adaptive_avg_pool1d,
    2: F.adaptive_avg_pool2d,
    3: F.adaptive_avg_pool3d,
}
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def at_least_float32(values: Tensor) -> Tensor:
    """Widen half precision and integers to float32; leave float32 and float64 as they are."""
    return values if values.dtype == torch.float64 else values.float()


def positions(feature_map: Tensor) -> Tensor:
    """The vectors of a map at its N positions, ``(B, N, C)``; a view, whether channels come first or last in memory."""
    return feature_map.as_subclass(Tensor).movedim(1, -1).flatten(1, -2)


def unit_vectors(values: Tensor, dim: int) -> Tensor:
    """Vectors along ``dim`` at unit length, in float32 or wider; those without a direction become constant zeros."""
    values = at_least_float32(values)
    short = torch.linalg.vector_norm(values.detach(), dim=dim, keepdim=True) <= SHORTEST
    return F.normalize(values.masked_fill(short, 0.0), dim=dim)


def full_precision(device: torch.device) -> torch.autocast:
    """Context without autocast: the trainer's, inside which a loss is called, would round its products."""
    return torch.autocast(device.type, enabled=False)


def check_pair(student_map: Tensor, teacher_map: Tensor) -> None:
    """Refuse a pair of maps that no resizing and no projector can reconcile.

    Raises:
        UserError: the maps differ in batch size or in the number of spatial axes, or have 0 or more than 3 of these.
    """
    if student_map.ndim not in (3, 4, 5) or student_map.ndim != teacher_map.ndim:
        raise UserError(
            "student and teacher maps must both be (B, C, *spatial) with the same 1 to 3 spatial axes, "
            f"got {tuple(student_map.shape)} and {tuple(teacher_map.shape)}: tap layers that give such maps."
        )
    if len(student_map) != len(teacher_map):
        raise UserError(
            f"the student's batch has {len(student_map)} samples and the teacher's {len(teacher_map)}: "
            "give both networks the same batch."
        )


def check_channels(student_map: Tensor, teacher_map: Tensor, student_channels: int, teacher_channels: int) -> None:
    """Refuse maps whose channels are not those the projectors were built for.

    Raises:
        UserError: a map has another number of channels than declared.
    """
    sides = (("student", student_map, student_channels), ("teacher", teacher_map, teacher_channels))
    for side, feature_map, declared in sides:
        if feature_map.shape[1] != declared:
            raise UserError(
                f"the {side}'s map has {feature_map.shape[1]} channels but {side}_channels is {declared}: "
                f"set {side}_channels={feature_map.shape[1]}."
            )


def smaller_grid(student_map: Tensor, teacher_map: Tensor) -> tuple[int, ...]:
    """The smaller length of the two maps along each spatial axis."""
    return tuple(min(lengths) for lengths in zip(student_map.shape[2:], teacher_map.shape[2:], strict=True))


def resize_to_grid(feature_map: Tensor, grid: Sequence[int]) -> Tensor:
    """Bring a map to a spatial grid, without aliasing where it shrinks.

    An axis that shrinks is averaged over the cells of the new grid, so every position counts; an axis that grows is
    interpolated linearly (``align_corners=False``).

    Args:
        feature_map: ``(B, C, *spatial)`` with 1 to 3 spatial axes.
        grid: the new spatial lengths.

    Returns:
        ``(B, C, *grid)``, in float32 or wider where it had to be resized, else ``feature_map`` itself.
    """
    lengths, grid = tuple(feature_map.shape[2:]), tuple(grid)
    if lengths == grid:
        return feature_map
    resized = at_least_float32(feature_map)
    pooled = tuple(min(pair) for pair in zip(lengths, grid, strict=True))
    if pooled != lengths:
        resized = _POOL[len(grid)](resized, pooled)
    if pooled != grid:
        resized = F.interpolate(resized, size=grid, mode=_INTERPOLATION[len(grid)], align_corners=False)
    return resized


def same_classes(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Bring one-logit outputs ``z`` to the two classes ``[0, z]``, and refuse classes that do not correspond.

    Raises:
        UserError: the two networks predict different numbers of classes.
    """
    if student_logits.shape[1] == 1:
        student_logits = torch.cat([torch.zeros_like(student_logits), student_logits], dim=1)
    if teacher_logits.shape[1] == 1:
        teacher_logits = torch.cat([torch.zeros_like(teacher_logits), teacher_logits], dim=1)
    if student_logits.shape[1] != teacher_logits.shape[1]:
        raise UserError(
            f"the student predicts {student_logits.shape[1]} classes and the teacher {teacher_logits.shape[1]} "
            "(one logit counts as 2): give the student as many outputs as the teacher, or leave this term out."
        )
    return student_logits, teacher_logits


def comparable_logits(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits in float32 or wider, of the same classes, on the student's grid; the teacher's without gradient.

    Raises:
        UserError: the two networks predict different classes, or different batches.
    """
    check_pair(student_logits, teacher_logits)
    student, teacher = same_classes(at_least_float32(student_logits), at_least_float32(teacher_logits.detach()))
    return student, resize_to_grid(teacher, student.shape[2:])
