from .augmentation import slice_augmentation
from .decathlon import Case, DecathlonTask
from .held_out import SliceSplitDataset, held_out_slices
from .nifti import check_pair, read_image, read_label
from .open_task import download_task, open_task
from .scan import read_scan
from .slices import SliceDataset, SliceSampler, SliceVolume, VolumeDataset, load_volumes
from .split import Split
from .transforms import PreparedScan, Preprocessing
from .turns import RandTurnd
from .volume import Volume, volume_from_array

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
    "read_scan",
    "slice_augmentation",
    "volume_from_array",
]
