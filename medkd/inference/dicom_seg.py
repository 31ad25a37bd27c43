"""A mask as a DICOM Segmentation object beside the series that it was drawn on."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medkd import __version__
from medkd.data.dicom_header import first_line
from medkd.data.volume import Volume, format_shape
from medkd.errors import UserError
from medkd.files import atomic_write, unwritable

if TYPE_CHECKING:
    from pydicom import Dataset

# Names that pydicom gives to codes of SNOMED CT, by the words of a label without its side.
STRUCTURES = {
    "adrenal gland": "AdrenalGland",
    "aorta": "Aorta",
    "bladder": "Bladder",
    "brain": "Brain",
    "colon": "Colon",
    "duodenum": "Duodenum",
    "esophagus": "Esophagus",
    "femur": "Femur",
    "gallbladder": "Gallbladder",
    "heart": "Heart",
    "hippocampus": "Hippocampus",
    "inferior vena cava": "InferiorVenaCava",
    "kidney": "Kidney",
    "liver": "Liver",
    "lung": "Lung",
    "oesophagus": "Esophagus",
    "pancreas": "Pancreas",
    "portal vein": "PortalVein",
    "prostate": "Prostate",
    "spleen": "Spleen",
    "stomach": "Stomach",
    "trachea": "Trachea",
    "urinary bladder": "Bladder",
}
# Without these the object would belong nowhere.
UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
# What the standard wants in every object, with a value or empty; anonymised series often lack some.
REQUIRED = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)


def write_dicom_seg(mask: np.ndarray, scan: Volume, labels: dict[int, str], path: str | Path, model_name: str) -> bool:
    """Write a mask as a binary DICOM Segmentation of the series that it was drawn on, atomically.

    Every label becomes a segment, numbered from 1 in the order of the label values, with its SNOMED CT code where its
    name is a common organ's, else with that of an anatomical structure. Each slice on which a segment has voxels
    becomes a frame at the place of its source image, which it names. Patient and study are those of the series. Two
    objects of the same mask differ in their UIDs and in the time of writing only.

    The standard knows no object without frames: for an empty mask nothing is written, and what an earlier run left at
    `path` is removed, since it would be taken for this result.

    Args:
        mask: label values `(X, Y, Z)` in uint8 on the grid of the scan.
        scan: the scan of a DICOM series, its columns along X, its rows along Y, `files[z]` the file of slice z.
        labels: name of each label value; 0 is background.
        path: the file to write.
        model_name: the model that drew the mask.

    Returns:
        Whether there was anything to write.

    Raises:
        UserError: highdicom is not installed, the mask or the files are not those of the scan, the series cannot be
            read any more or lacks what the standard demands, or `path` cannot be written.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise UserError(
            "DICOM Segmentation needs highdicom: pip install 'medkd[dicom]' and segment again, or give --no-dicom-seg."
        ) from error
    if mask.shape != scan.array.shape:
        shapes = f"{format_shape(mask.shape)}, the scan {format_shape(scan.array.shape)}"
        raise UserError(f"the mask for {scan.path} is {shapes}: give the mask on the grid of the scan.")
    if len(scan.files) != mask.shape[2]:
        raise UserError(
            f"{scan.path} has {mask.shape[2]} slices and {len(scan.files)} DICOM files: "
            "DICOM Segmentation needs a series with one file for each slice."
        )
    names = {value: labels[value] for value in sorted(labels) if value > 0}
    occupied = np.flatnonzero(mask.max(axis=(0, 1)))
    if not occupied.size:
        try:
            Path(path).unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(Path(path), error) from error
        return False
    # Slices outside stay unread, those between are kept so that the frames are seen to be of one regular stack.
    slices = range(int(occupied[0]), int(occupied[-1]) + 1)
    pixels = _segment_numbers(mask, slices, list(names), scan.path)
    with _quiet():
        sources = [_source(scan, index) for index in slices]
        _complete(sources, scan)
        try:
            segmentation = _segmentation(pixels, sources, list(names.values()), model_name)
            with atomic_write(path) as temporary:
                segmentation.save_as(temporary)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{scan.path} lacks what a DICOM Segmentation needs ({first_line(error)}): export the series again."
            ) from error
    return True


def _segment_numbers(mask: np.ndarray, slices: range, values: list[int], path: Path) -> np.ndarray:
    """The mask as `(slices, rows, columns)`, its values numbered from 1 in the order of the labels."""
    number = np.zeros(256, np.uint8)
    number[values] = np.arange(1, len(values) + 1)
    is_known = number > 0
    is_known[0] = True
    pixels = np.empty((len(slices), mask.shape[1], mask.shape[0]), np.uint8)
    for plane, index in zip(pixels, slices, strict=True):
        found = np.flatnonzero(np.bincount(mask[:, :, index].ravel("K"), minlength=256))
        unknown = found[~is_known[found]]
        if unknown.size:
            raise UserError(f"the mask for {path} holds the value {unknown[0]}, which no label has: name every value.")
        plane[:] = number[mask[:, :, index].T]
    return pixels


def _source(scan: Volume, index: int) -> Dataset:
    """The header of one slice, which lies where the scan says."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    file = scan.files[index]
    try:
        header = dcmread(file, stop_before_pixels=True)
        position = np.asarray(header.ImagePositionPatient, float)
        shape = (int(header.Columns), int(header.Rows))
    except (OSError, InvalidDicomError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{file} is no readable slice of {scan.path} any more ({first_line(error)}): copy or export it again."
        ) from error
    for keyword in UIDS:
        if not header.get(keyword):
            raise UserError(
                f"{file} has no {keyword}, which a DICOM Segmentation must name: export the series with it."
            )
    # DICOM counts to the left and back, the affine to the right and front.
    expected = (scan.affine @ (0, 0, index, 1))[:3] * (-1, -1, 1)
    if shape != scan.array.shape[:2] or np.linalg.norm(position - expected) > 0.5 * scan.spacing[2]:
        raise UserError(f"{file} is not slice {index} of {scan.path}: give the files that it was read from, in order.")
    return header


def _complete(sources: Sequence[Dataset], scan: Volume) -> None:
    """Fill what highdicom expects and series in the wild lack, blank what it refuses."""
    from pydicom.valuerep import DA, TM, format_number_as_ds

    first = sources[0]
    for keyword in REQUIRED:
        if keyword not in first:
            setattr(first, keyword, "")
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(first[keyword].value)
        except (TypeError, ValueError):
            setattr(first, keyword, "")
    if first.PatientSex not in ("M", "F", "O"):
        first.PatientSex = ""
    # The distance between the planes, which a tilted gantry makes smaller than that between the slices' corners.
    across, down, through = scan.affine[:3, :3].T
    normal = np.cross(across, down)
    distance = format_number_as_ds(float(abs(normal @ through) / np.linalg.norm(normal)))
    first.SpacingBetweenSlices = distance
    if not first.get("SliceThickness"):
        first.SliceThickness = distance
    for source in sources:
        # Equal but for rounding, else they were no volume; highdicom wants the last digit to be the same.
        source.ImageOrientationPatient = first.ImageOrientationPatient


def _segmentation(pixels: np.ndarray, sources: Sequence[Dataset], names: Sequence[str], model_name: str) -> Any:
    """The object of highdicom."""
    from highdicom import UID, AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation
    from pydicom.sr.codedict import codes

    algorithm = AlgorithmIdentificationSequence(
        name=_long_string(model_name), family=codes.DCM.ArtificialIntelligence, version=__version__, source="medkd"
    )
    return Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type="BINARY",
        segment_descriptions=[_segment(number, name, algorithm) for number, name in enumerate(names, start=1)],
        series_instance_uid=UID(),
        series_number=1000 + int(sources[0].get("SeriesNumber") or 0),
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer="medkd",
        manufacturer_model_name="medkd",
        software_versions=__version__,
        device_serial_number="0",  # the standard demands one, software has none
        content_label="SEGMENTATION",
        content_description=_long_string(f"Drawn by {model_name}"),
        series_description=_long_string(f"Segmentation by {model_name}"),
        # Labels may hold any letter, whatever the character set of the series; names are converted.
        specific_character_set="ISO_IR 192",
    )


def _segment(number: int, name: str, algorithm: Any) -> Any:
    """The description of one segment, with the code of its structure and its side."""
    from highdicom.seg import SegmentDescription
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    words = re.findall(r"[^\W_]+", name.lower())
    sides = [word for word in words if word in ("left", "right")]
    structure = STRUCTURES.get(" ".join(word for word in words if word not in sides), "AnatomicalStructure")
    segment = SegmentDescription(
        segment_number=number,
        segment_label=_long_string(name),
        segmented_property_category=codes.cid7150.AnatomicalStructure,
        segmented_property_type=getattr(codes.SCT, structure),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )
    if len(sides) == 1:
        side = CodedConcept.from_code(getattr(codes.SCT, sides[0].capitalize()))
        segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
    return segment


def _long_string(text: str) -> str:
    """Text that fits an attribute of 64 characters, where a backslash would part two values."""
    return text.replace("\\", "/")[:64]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what pydicom and highdicom say about headers, which may name the patient."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
