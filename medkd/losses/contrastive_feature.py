"""Contrastive distillation of one pair of feature maps, at four granularities."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.info_nce import InfoNCELoss
from medkd.losses.maps import check_channels, check_pair, full_precision, resize_to_grid, smaller_grid
from medkd.losses.regions import check_label, majority_label, present_classes, region_vectors

GRANULARITIES = ("image", "patch", "pixel", "region")


class ContrastiveFeatureLoss(nn.Module):
    """InfoNCE between the features of student and teacher at one scale, behind one trained projector per side.

    What becomes an embedding is the granularity:

    - ``image``: the mean of the whole map, one embedding per sample, as published. Its negatives are the other samples
      of the batch, so a batch of one teaches nothing.
    - ``patch``: every cell of a common grid, onto which both maps are averaged.
    - ``pixel``: positions drawn at random from the smaller of the two grids, the same for both maps; as many of every
      class as there are, if a label is given, else uniformly over the batch.
    - ``region``: the mean of every class in every sample, weighted by the share the class has in each cell of the map,
      so that an object smaller than a cell still counts. A class that is absent contributes nothing.

    Unsupervised, the positive of an embedding is its own counterpart. ``supervised=True`` makes positives of all
    teacher embeddings of the same class; a cell has the class of most of its voxels.

    ``student_projector`` and ``teacher_projector`` are trained with the student: give them to the optimiser and save
    them with the training state; the deployed student has none. The published code of MTMS-KD draws a new random
    projector at every step and never trains it, so its loss is about ``log B`` for any student and carries no signal.

    Args:
        student_channels: channels of the student's map.
        teacher_channels: channels of the teacher's map.
        granularity: ``image``, ``patch``, ``pixel`` or ``region``.
        temperature: ``tau`` of InfoNCE.
        embedding_channels: width of the embeddings.
        supervised: use the label to choose the positives.
        grid: cells per axis at granularity ``patch``; an axis on which a map is smaller has as many cells as that map.
        samples: positions drawn from a batch at granularity ``pixel``.

    Raises:
        UserError: an argument has no meaning, or ``supervised`` is asked for whole images, which have no one class.

    Reference:
        Biswas 2024, arXiv 2406.03173, Eq. 3.5-3.7; Khosla et al. 2020 for ``supervised``.
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        granularity: str = "patch",
        temperature: float = 0.4,
        embedding_channels: int = 128,
        supervised: bool = False,
        grid: int = 8,
        samples: int = 256,
    ) -> None:
        super().__init__()
        if granularity not in GRANULARITIES:
            raise UserError(f"granularity is {granularity!r}: choose one of {', '.join(GRANULARITIES)}.")
        if supervised and granularity == "image":
            raise UserError("supervised=True needs classes and a whole image has none: choose patch, pixel or region.")
        if min(grid, samples) < 1:
            raise UserError(f"grid={grid} and samples={samples} leave nothing to compare: give at least 1 of each.")
        self.student_channels = student_channels
        self.teacher_channels = teacher_channels
        self.granularity = granularity
        self.supervised = supervised
        self.grid = grid
        self.samples = samples
        self.info_nce = InfoNCELoss(temperature)
        self.student_projector = _projector(student_channels, embedding_channels)
        self.teacher_projector = _projector(teacher_channels, embedding_channels)

    def forward(self, student_map: Tensor, teacher_map: Tensor, label: Tensor | None = None) -> Tensor:
        """Contrast two feature maps.

        Args:
            student_map: ``(B, student_channels, *spatial)``.
            teacher_map: ``(B, teacher_channels, *spatial)`` of any size; no gradient flows into it.
            label: class indices ``(B, 1, *spatial)`` at full resolution; needed if ``supervised`` or ``region``.

        Returns:
            the loss, a scalar in the precision of the projectors (float32).

        Raises:
            UserError: the maps do not fit the declared channels or each other, or a needed label is missing.
        """
        check_pair(student_map, teacher_map)
        check_channels(student_map, teacher_map, self.student_channels, self.teacher_channels)
        if label is not None:
            check_label(label, student_map)
        elif self.supervised or self.granularity == "region":
            raise UserError(
                f"granularity {self.granularity!r} with supervised={self.supervised} needs the label: pass label, "
                "or choose image, patch or pixel with supervised=False."
            )
        with full_precision(student_map.device):
            student, teacher, classes = self._vectors(student_map, teacher_map.detach(), label)
            value: Tensor = self.info_nce(
                _embed(self.student_projector, student),
                _embed(self.teacher_projector, teacher),
                classes if self.supervised else None,
            )
            return value

    def teacher_grid(self, student_grid: tuple[int, ...]) -> tuple[int, ...] | None:
        """The grid onto which the teacher's map may be averaged beforehand without changing the loss.

        Args:
            student_grid: spatial lengths of the student's map.

        Returns:
            a grid, which a smaller map is not enlarged to; None if the map is needed as it is.
        """
        if self.granularity == "image":
            return (1,) * len(student_grid)
        if self.granularity == "patch":
            return tuple(min(self.grid, length) for length in student_grid)
        return student_grid if self.granularity == "pixel" else None

    def _vectors(self, student: Tensor, teacher: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Student vectors ``(N, Cs)``, teacher vectors ``(N, Ct)`` and, where the label gives them, their classes."""
        if self.granularity == "region" and label is not None:
            return region_vectors(student, teacher, label)
        if self.granularity == "image":
            if len(student) == 1:
                warnings.warn(
                    "granularity 'image' has no negatives in a batch of one: use a larger batch.", stacklevel=3
                )
            grid: tuple[int, ...] = (1,) * (student.ndim - 2)
        elif self.granularity == "patch":
            grid = tuple(min(self.grid, length) for length in smaller_grid(student, teacher))
        else:
            grid = smaller_grid(student, teacher)
        classes = None
        if label is not None and (self.supervised or self.granularity == "pixel"):
            classes = majority_label(label, grid).flatten()
        student, teacher = resize_to_grid(student, grid).flatten(2), resize_to_grid(teacher, grid).flatten(2)
        if self.granularity != "pixel":
            return student.transpose(1, 2).flatten(0, 1), teacher.transpose(1, 2).flatten(0, 1), classes
        cells = student.shape[2]
        drawn = _draw(len(student) * cells, self.samples, classes, student.device)
        image, position = drawn // cells, drawn % cells
        return (
            student[image, :, position],
            teacher[image, :, position],
            None if classes is None else classes[drawn],
        )


def _projector(channels: int, embedding_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, embedding_channels), nn.ReLU(), nn.Linear(embedding_channels, embedding_channels)
    )


def _embed(projector: nn.Sequential, vectors: Tensor) -> Tensor:
    # Vectors of a teacher under inference_mode cannot be kept for the projector's backward pass, a copy of them can.
    dtype = next(projector.parameters()).dtype
    embeddings: Tensor = projector(vectors.to(dtype, copy=vectors.is_inference()))
    return embeddings


def _draw(positions: int, samples: int, classes: Tensor | None, device: torch.device) -> Tensor:
    """Up to ``samples`` different positions, equally many of every class; what a rare one lacks goes to the others."""
    if classes is None:
        return torch.randperm(positions, device=device)[:samples]
    groups = sorted((torch.nonzero(classes == index).flatten() for index in present_classes(classes)), key=len)
    drawn: list[Tensor] = []
    for waiting, group in zip(range(len(groups), 0, -1), groups, strict=True):
        # Rounded up: what does not divide evenly goes to the rarest.
        share = -(-(samples - sum(map(len, drawn))) // waiting)
        drawn.append(group[torch.randperm(len(group), device=device)[:share]])
    return torch.cat(drawn)
