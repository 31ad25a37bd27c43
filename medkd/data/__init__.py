"""Task folders, volumes, slices and their one pre-processing."""

from __future__ import annotations

from medkd.data.augmentation import slice_augmentation
from medkd.data.decathlon import Case, DecathlonTask, Split
from medkd.data.held_out import SliceSplitDataset, held_out_slices
from medkd.data.nifti import Volume, check_pair, read_image, read_label
from medkd.data.open_task import download_task, open_task
from medkd.data.slices import SliceDataset, SliceSampler, SliceVolume, VolumeDataset, load_volumes
from medkd.data.transforms import PreparedScan, Preprocessing
from medkd.data.turns import RandTurnd

__all__ = [
    "Case",
    "DecathlonTask",
    "PreparedScan",
    "Preprocessing",
    "RandTurnd",
    "SliceDataset",
    "SliceSampler",
    "SliceSplitDataset",
    "SliceVolume",
    "Split",
    "Volume",
    "VolumeDataset",
    "check_pair",
    "download_task",
    "held_out_slices",
    "load_volumes",
    "open_task",
    "read_image",
    "read_label",
    "slice_augmentation",
]
