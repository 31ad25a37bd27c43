from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medkd.data.scan import read_scan
from medkd.errors import UserError
from tests.data.dicom_series import ct_values, write_series

VALUES = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
RAS = np.array([[-0.7, 0, 0, 10], [0, -0.8, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
META = """ObjectType = Image
NDims = 3
BinaryData = True
Offset = -10 -20 30
ElementSpacing = 0.7 0.8 2.5
DimSize = 4 5 6
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
NRRD = """NRRD0004
type: short
dimension: 3
space: RAS
sizes: 4 5 6
space directions: (-0.7,0,0) (0,-0.8,0) (0,0,2.5)
endian: little
encoding: raw
space origin: (10,20,30)

"""


def write_nifti(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(VALUES, RAS), path)


def write_mha(path: Path) -> None:
    path.write_bytes(META.encode() + VALUES.tobytes(order="F"))


def write_nrrd(path: Path) -> None:
    path.write_bytes(NRRD.encode() + VALUES.tobytes(order="F"))


def write_dicom(path: Path) -> None:
    write_series(path, VALUES, origin=(-10, -20, 30), spacing=(0.8, 0.7), intercept=0, name="IM{}".format)


SCANS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "nii.gz": ("a.nii.gz", write_nifti),
    "nii": ("a.nii", write_nifti),
    "mha": ("a.mha", write_mha),
    "nrrd": ("a.nrrd", write_nrrd),
    "DICOM": ("a", write_dicom),
}


@pytest.mark.parametrize("case", SCANS)
def test_one_scan_is_the_same_in_every_format(tmp_path: Path, case: str) -> None:
    name, write = SCANS[case]
    write(tmp_path / name)
    volume = read_scan(str(tmp_path / name))
    np.testing.assert_array_equal(volume.array, VALUES)
    np.testing.assert_allclose(volume.affine, RAS, atol=1e-6)
    np.testing.assert_allclose(volume.header.get_best_affine(), RAS, atol=1e-6)
    assert volume.header.get_data_shape() == (4, 5, 6)
    assert volume.path == tmp_path / name
    assert volume.orientation == "LPS"


@pytest.mark.parametrize("case", ["nii.gz", "nii", "mha", "nrrd"])
@pytest.mark.parametrize("suffix", ["", ".dat", ".mha", ".nrrd", ".nii.gz"])
def test_the_content_counts_and_not_the_suffix(tmp_path: Path, case: str, suffix: str) -> None:
    name, write = SCANS[case]
    write(tmp_path / name)
    path = (tmp_path / name).rename(tmp_path / ("b" + suffix))
    np.testing.assert_array_equal(read_scan(path).array, VALUES)


def test_a_series_is_chosen_in_a_folder_of_several(tmp_path: Path) -> None:
    write_series(tmp_path, VALUES, uid="1.2.3", name="a{}".format)
    write_series(tmp_path, ct_values(), uid="1.2.4", name="b{}".format)
    np.testing.assert_array_equal(read_scan(tmp_path, "1.2.3").array, VALUES - 1024)
    with pytest.raises(UserError, match="2 DICOM series"):
        read_scan(tmp_path)


def one_dicom_file(folder: Path) -> Path:
    return write_series(folder, ct_values())[0]


def cut_dicom_file(folder: Path) -> Path:
    path = one_dicom_file(folder)
    path.write_bytes(path.read_bytes()[:200])
    return path


def text(name: str, content: str = "patient\n" * 100) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "a.mha")
    return folder / "a.mha"


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "a.nii.gz", "a.nii.gz is missing: check the path"),
    "empty folder": (lambda folder: folder, "holds no DICOM series"),
    "text": (text("a.dat"), "is no NIfTI, NRRD or MetaImage file and no DICOM folder"),
    "empty": (text("a", ""), "is no NIfTI, NRRD or MetaImage file"),
    "text nifti": (text("a.nii"), "is not a NIfTI file"),
    "text nii.gz": (text("a.nii.gz"), "is not a NIfTI file"),
    "text nrrd": (text("a.NRRD"), "is not a NRRD file"),
    "text mha": (text("a.mha"), "is not a MetaImage file"),
    "one dicom file": (one_dicom_file, "is a single DICOM file: give the folder"),
    "cut dicom file": (cut_dicom_file, "000.dcm is cut off or damaged"),
    "text dicom": (text("a.dcm"), "a.dcm is cut off or damaged"),
    "pipe": (pipe, "is neither a file nor a folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_scan_is_told_in_one_sentence(tmp_path: Path, case: str) -> None:
    write, sentence = BAD[case]
    path = write(tmp_path)
    with pytest.raises(UserError, match=sentence) as caught:
        read_scan(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_reading_imports_nothing_heavy() -> None:
    script = """
import sys
import medkd.data.scan, medkd.inference.inputs
heavy = {"torch", "monai", "itk", "matplotlib", "pandas", "highdicom"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", script], check=True)
