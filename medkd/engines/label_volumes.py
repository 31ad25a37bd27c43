"""Volumes without labels, labelled by a teacher, for a student to learn from like any other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from medkd.data import SliceVolume
from medkd.data.transforms import SLICES_AT_A_TIME, stacked_slices
from medkd.distributed import is_main_process
from medkd.metrics import labels_from_logits


def label_volumes(
    volumes: Sequence[SliceVolume], teacher: nn.Module, channels: str, device: str | torch.device
) -> list[SliceVolume]:
    """Give each volume the teacher's segmentation as its label.

    What the teacher was trained on it segments better than anything new: a student that learns from its training
    volumes in this way has, through the teacher, seen their labels.

    Args:
        volumes: prepared cases; a label that they have is not looked at.
        teacher: a trained network, left where it is and in evaluation mode.
        channels: see :class:`~medkd.data.Preprocessing`.
        device: where the teacher runs.

    Returns:
        The volumes, their images as they were.
    """
    if not volumes:
        return []
    home = next(teacher.parameters()).device
    teacher.to(device).eval()
    bar = tqdm(volumes, desc="teacher labels", unit="volume", leave=False, delay=1.0, disable=not is_main_process())
    labelled = [
        SliceVolume(volume.name, volume.image, _segment(volume.image, teacher, channels, device)) for volume in bar
    ]
    teacher.to(home)
    return labelled


def _segment(image: np.ndarray, teacher: nn.Module, channels: str, device: str | torch.device) -> np.ndarray:
    """The label map ``(Z, H, W)`` of slices ``(Z, H, W)``."""
    label = np.empty(image.shape, np.uint8)
    parts = (slice(start, start + SLICES_AT_A_TIME) for start in range(0, len(image), SLICES_AT_A_TIME))
    for which, batch in stacked_slices(((part, image[part]) for part in parts), channels):
        # Not inference_mode: the teacher will be used in training.
        with torch.no_grad():
            logits = teacher(torch.from_numpy(batch).float().to(device))
        label[which] = np.stack([labels_from_logits(part).cpu().numpy()[0] for part in logits])
    return label
