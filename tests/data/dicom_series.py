"""Small DICOM series for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SegmentationStorage,
    generate_uid,
)

CLASSES = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "SEG": SegmentationStorage,
}
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def ct_values(shape: tuple[int, int, int] = (6, 5, 4), seed: int = 0) -> np.ndarray:
    """Stored values of 12 bits `(X, Y, Z)` int16, no two slices alike."""
    return np.random.default_rng(seed).integers(0, 4096, shape).astype(np.int16)


def write_series(
    folder: Path,
    array: np.ndarray,
    *,
    origin: Sequence[float] = (-100.0, -120.0, 40.0),
    orientation: Sequence[float] = AXIAL,
    spacing: tuple[float, float] = (0.8, 0.7),
    step: Sequence[float] | None = None,
    slope: float | Sequence[float] | None = 1,
    intercept: float | Sequence[float] | None = -1024,
    modality: str = "CT",
    uid: str | None = None,
    number: int | None = 1,
    name: Callable[[int], str] = "{:03d}.dcm".format,
    edit: Callable[[Dataset, int], object] | None = None,
    syntax: str | None = None,
) -> list[Path]:
    """Write one file per slice.

    Args:
        folder: made if missing.
        array: stored values `(X, Y, Z)`, int16 or uint16; X are the columns, Y the rows of a slice.
        origin: ImagePositionPatient of the first slice, mm in LPS.
        orientation: ImageOrientationPatient.
        spacing: PixelSpacing in mm, between rows and between columns.
        step: from each slice to the next, mm in LPS; 2.5 mm along the normal by default. One that is not along the
            normal makes the series of a tilted gantry.
        slope: RescaleSlope of all slices or of each; None leaves it out.
        intercept: RescaleIntercept, likewise.
        modality: CT, MR, PT or SEG (of the class only).
        uid: SeriesInstanceUID; a new one by default.
        number: SeriesNumber; None leaves it out.
        name: file name of each slice.
        edit: changes the data set of each slice before it is written.
        syntax: transfer syntax UID to compress to.

    Returns:
        The file of each slice, in the order of the array.
    """
    folder.mkdir(parents=True, exist_ok=True)
    between = np.array(2.5 * np.cross(orientation[:3], orientation[3:]) if step is None else step, float)
    series, study, frame = uid or generate_uid(), generate_uid(), generate_uid()
    paths = []
    for index in range(array.shape[2]):
        dataset = Dataset()
        dataset.SOPClassUID = CLASSES[modality]
        dataset.SOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.PatientName = dataset.PatientID = "phantom"
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20200101", "120000", "1"
        for empty in ("PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName", "Manufacturer"):
            setattr(dataset, empty, "")
        dataset.PositionReferenceIndicator = ""
        dataset.Modality = modality
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        if number is not None:
            dataset.SeriesNumber = number
        dataset.InstanceNumber = index + 1
        place = np.array(origin, float) + index * between
        dataset.ImagePositionPatient = [f"{value:.10g}" for value in place]
        dataset.ImageOrientationPatient = [f"{value:.10g}" for value in orientation]
        dataset.PixelSpacing = [f"{value:.10g}" for value in spacing]
        dataset.SliceThickness = 2.5
        for tag, value in (("RescaleSlope", slope), ("RescaleIntercept", intercept)):
            if value is not None:
                setattr(dataset, tag, str(value[index] if isinstance(value, Sequence) else value))
        pixels = np.ascontiguousarray(array[:, :, index].T)
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = int(array.dtype.kind == "i")
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if edit is not None:
            edit(dataset, index)
        path = folder / name(index)
        dataset.save_as(path, enforce_file_format=True)
        if syntax is not None:
            compress(path, syntax)
        paths.append(path)
    return paths


def compress(path: Path, syntax: str) -> None:
    """Compress a file in place, to a lossless transfer syntax that GDCM writes."""
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
