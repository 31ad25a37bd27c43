from .cohort import run_cohort
from .cohort_case import CohortSettings
from .evaluation import evaluate, format_evaluation
from .files import mask_path, scan_files, scan_items
from .inputs import Scan, find_scans
from .options import Options
from .segmentation import Segmentation, save_mask
from .segmenter import Segmenter
from .transforms import LabelScanGridd, PostprocessMaskd, PrepareScand, SaveMaskd

__all__ = [
    "CohortSettings",
    "LabelScanGridd",
    "Options",
    "PostprocessMaskd",
    "PrepareScand",
    "SaveMaskd",
    "Scan",
    "Segmentation",
    "Segmenter",
    "evaluate",
    "find_scans",
    "format_evaluation",
    "mask_path",
    "run_cohort",
    "save_mask",
    "scan_files",
    "scan_items",
]
