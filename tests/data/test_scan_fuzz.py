"""Headers that nobody would write: a scan is read or refused in a sentence, whatever its bytes."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medkd.data.scan import read_scan
from medkd.errors import UserError
from tests.data.dicom_series import ct_values, write_series

VOXELS = np.arange(60, dtype=np.int16).reshape(5, 4, 3)
AFFINE = np.diag([-2.0, 2.0, 5.0, 1.0])
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
# Where in a file a byte goes, and which; small, so that several hit one header.
CHANGES = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=12)


def changed(content: bytes, changes: list[tuple[int, int]], first: int = 0, end: int | None = None) -> bytes:
    spoiled = bytearray(content)
    span = (len(spoiled) if end is None else end) - first
    for place, value in changes:
        spoiled[first + place % span] = value
    return bytes(spoiled)


def read_or_refused(path: Path) -> None:
    try:
        volume = read_scan(path)
    except UserError as error:
        sentence = str(error)
        assert path.name in sentence or str(path.parent) in sentence
        assert "\n" not in sentence and sentence.endswith(".")
        return
    assert volume.array.ndim == 3 and volume.array.size > 0 and volume.array.dtype.kind in "iuf"
    assert np.isfinite(volume.array.astype(np.float64)).all()
    assert volume.voxel_ml > 0 and np.isfinite(volume.voxel_ml)


def written(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        read_or_refused(path)


NIFTIS = {
    "NIfTI-1": nibabel.Nifti1Image(VOXELS, AFFINE).to_bytes(),
    "NIfTI-2": nibabel.Nifti2Image(VOXELS, AFFINE).to_bytes(),
}
TEXTS = {
    "a.nrrd": b"NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\nsizes: 5 4 3\n"
    b"space directions: (2,0,0) (0,2,0) (0,0,5)\nkinds: domain domain domain\nendian: little\nencoding: raw\n"
    b"space origin: (0,0,0)\n\n",
    "a.mha": b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    b"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementSpacing = 2 2 5\nDimSize = 5 4 3\n"
    b"ElementType = MET_SHORT\nElementDataFile = LOCAL\n",
}


@pytest.mark.parametrize("kind", NIFTIS)
@QUICK
@given(changes=CHANGES)
def test_any_header_of_nifti(kind: str, changes: list[tuple[int, int]]) -> None:
    header = 348 if kind == "NIfTI-1" else 540
    written("a.nii", changed(NIFTIS[kind], changes, end=header))


@QUICK
@given(changes=CHANGES)
def test_any_compressed_stream(changes: list[tuple[int, int]]) -> None:
    written("a.nii.gz", changed(gzip.compress(NIFTIS["NIfTI-1"], mtime=0), changes))


@pytest.mark.parametrize("name", TEXTS)
@QUICK
@given(changes=CHANGES)
def test_any_text_header(name: str, changes: list[tuple[int, int]]) -> None:
    written(name, changed(TEXTS[name], changes) + VOXELS.tobytes())


@pytest.mark.parametrize("name", TEXTS)
@QUICK
@given(line=st.integers(1, 12), value=st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_value_in_a_text_header(name: str, line: int, value: str) -> None:
    lines = TEXTS[name].decode().split("\n")
    line %= len([one for one in lines if one])
    mark = ":" if name.endswith("nrrd") else "="
    lines[line] = f"{lines[line].partition(mark)[0]}{mark} {value}"
    written(name, "\n".join(lines).encode() + VOXELS.tobytes())


@QUICK
@given(content=st.binary(max_size=600), name=st.sampled_from(["a.nii", "a.nii.gz", "a.nrrd", "a.mha", "a.dcm", "a"]))
def test_any_bytes(content: bytes, name: str) -> None:
    written(name, content)


@settings(QUICK, max_examples=60)
@given(changes=CHANGES, which=st.integers(0, 2))
def test_any_slice_of_a_series(changes: list[tuple[int, int]], which: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_series(Path(folder) / "series", ct_values((5, 4, 3)))[which]
        path.write_bytes(changed(path.read_bytes(), changes))
        read_or_refused(Path(folder) / "series")
