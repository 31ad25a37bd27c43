"""MetaImage and NRRD: read by medkd, written or read again by ITK."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import itk
import numpy as np
import pytest

from medkd.data.metaimage import read_metaimage
from medkd.data.nrrd import read_nrrd
from medkd.data.volume import Volume
from medkd.errors import UserError

C30, S30 = 0.8660254037844387, 0.5
OBLIQUE = np.array([[C30, -S30, 0], [S30, C30, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, C30, -S30], [0, S30, C30]])
FLIPPED = np.diag([-1.0, 1.0, 1.0])
PERMUTED = np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])
SPACING, ORIGIN = (0.7, 0.8, 2.5), (-10.5, 20.25, 7.0)


def values(dtype: type = np.int16) -> np.ndarray:
    return (np.arange(120).reshape(4, 5, 6) * 7 % 113 - (0 if np.dtype(dtype).kind == "u" else 50)).astype(dtype)


def write_by_itk(path: Path, array: np.ndarray, direction: np.ndarray, compress: bool) -> None:
    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(itk.matrix_from_array(direction))
    itk.imwrite(image, str(path), compression=compress)


def read(path: Path) -> Volume:
    return read_nrrd(path) if path.suffix in (".nrrd", ".nhdr") else read_metaimage(path)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
@pytest.mark.parametrize("direction", [np.eye(3), FLIPPED, PERMUTED, OBLIQUE])
def test_what_itk_writes_lies_where_itk_says(tmp_path: Path, name: str, compress: bool, direction: np.ndarray) -> None:
    write_by_itk(tmp_path / name, values(), direction, compress)
    volume = read(tmp_path / name)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, values())
    for index in ((0, 0, 0), (3, 0, 0), (0, 4, 0), (0, 0, 5), (1, 2, 3)):
        x, y, z = np.array(ORIGIN) + direction @ (np.array(SPACING) * index)
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], [-x, -y, z], atol=1e-5)
    np.testing.assert_allclose(volume.header.get_sform(), volume.affine, atol=1e-5)


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32, np.float64])
def test_every_type_of_voxel(tmp_path: Path, name: str, dtype: type) -> None:
    write_by_itk(tmp_path / name, values(dtype), np.eye(3), compress=False)
    array = read(tmp_path / name).array
    assert array.dtype == (np.float32 if dtype is np.float64 else dtype)
    assert array.flags.writeable
    np.testing.assert_array_equal(array, values(dtype))


META = """ObjectType = Image
NDims = 3
BinaryData = True
ElementByteOrderMSB = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 1 2 3
ElementSpacing = 1 1 2
DimSize = 4 5 6
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
NRRD = """NRRD0004
# a comment
type: short
dimension: 3
space: left-posterior-superior
sizes: 4 5 6
space directions: (1,0,0) (0,1,0) (0,0,2)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (1,2,3)
Segment0_Name:=spleen: all of it

"""
BLOCK = values().astype("<i2").tobytes(order="F")
LPS_123 = [[-1, 0, 0, -1], [0, -1, 0, -2], [0, 0, 2, 3], [0, 0, 0, 1]]


def written(path: Path, header: str, *changes: tuple[str, str], block: bytes = BLOCK) -> Path:
    """Write a header, with some of its text exchanged, and a block of voxels."""
    for old, new in changes:
        assert old in header
        header = header.replace(old, new)
    path.write_bytes(header.encode() + block)
    return path


GOOD: dict[str, tuple[str, str, list[tuple[str, str]], bytes]] = {
    "mha": ("a.mha", META, [], BLOCK),
    "mha big endian": ("a.mha", META, [("OrderMSB = False", "OrderMSB = True")], values().astype(">i2").tobytes("F")),
    "mha zlib": ("a.mha", META, [("DimSize", "CompressedData = True\nDimSize")], zlib.compress(BLOCK)),
    "mha defaults": ("a.mha", META, [("TransformMatrix = 1 0 0 0 1 0 0 0 1\n", "")], BLOCK),
    "mha synonyms": ("a.mha", META, [("TransformMatrix", "Orientation"), ("Offset", "Position")], BLOCK),
    "mha windows": ("a.mha", META, [("\n", "\r\n")], BLOCK),
    "nrrd": ("a.nrrd", NRRD, [], BLOCK),
    "nrrd big endian": ("a.nrrd", NRRD, [("little", "big")], values().astype(">i2").tobytes("F")),
    "nrrd gzip": ("a.nrrd", NRRD, [("raw", "gzip")], gzip.compress(BLOCK)),
    "nrrd windows": ("a.nrrd", NRRD, [("\n", "\r\n")], BLOCK),
    "nrrd units": ("a.nrrd", NRRD, [("kinds", 'space units: "mm" "mm" "mm"\nkinds')], BLOCK),
    "nrrd ras": (
        "a.nrrd",
        NRRD,
        [("left-posterior", "right-anterior"), ("(1,0,0) (0,1,0)", "(-1,0,0) (0,-1,0)"), ("(1,2,3)", "(-1,-2,3)")],
        BLOCK,
    ),
    "nrrd las": ("a.nrrd", NRRD, [("-posterior", "-anterior"), ("(0,1,0)", "(0,-1,0)"), ("(1,2", "(1,-2")], BLOCK),
}


@pytest.mark.parametrize("case", GOOD)
def test_headers_by_hand(tmp_path: Path, case: str) -> None:
    name, header, changes, block = GOOD[case]
    volume = read(written(tmp_path / name, header, *changes, block=block))
    np.testing.assert_array_equal(volume.array, values())
    assert volume.affine.tolist() == LPS_123
    assert volume.spacing == (1, 1, 2)


@pytest.mark.parametrize(
    ("meta", "nrrd", "stored", "read_as"),
    [
        ("MET_CHAR", "signed char", "i1", np.int8),
        ("MET_LONG", "int32_t", "<i4", np.int32),
        ("MET_ULONG", "unsigned int", "<u4", np.uint32),
        ("MET_LONG_LONG", "int64", "<i8", np.float32),
        ("MET_ULONG_LONG", "unsigned long long", "<u8", np.float32),
    ],
)
def test_types_that_itk_does_not_write(tmp_path: Path, meta: str, nrrd: str, stored: str, read_as: type) -> None:
    block = values(np.dtype(stored).type).astype(stored).tobytes(order="F")
    for path in (
        written(tmp_path / "a.mha", META, ("MET_SHORT", meta), block=block),
        written(tmp_path / "a.nrrd", NRRD, ("short", nrrd), block=block),
    ):
        array = read(path).array
        assert array.dtype == read_as
        np.testing.assert_array_equal(array, values(np.dtype(stored).type))


@pytest.mark.parametrize(
    ("name", "header", "changes", "skipped"),
    [
        ("a.mhd", META, [("LOCAL", "sub/a.raw")], b""),
        ("a.mhd", META, [("LOCAL", "sub/a.raw"), ("DimSize", "HeaderSize = 7\nDimSize")], b"1234567"),
        ("a.mhd", META, [("LOCAL", "sub/a.raw"), ("DimSize", "HeaderSize = -1\nDimSize")], b"123"),
        ("a.nhdr", NRRD, [("raw", "raw\ndata file: sub/a.raw")], b""),
        ("a.nhdr", NRRD, [("raw", "raw\ndata file: sub/a.raw"), ("all of it\n\n", "all of it\n")], b""),
        ("a.nhdr", NRRD, [("raw", "raw\nbyte skip: -1\ndatafile: sub/a.raw")], b"123"),
    ],
)
def test_voxels_beside_the_header(
    tmp_path: Path, name: str, header: str, changes: list[tuple[str, str]], skipped: bytes
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.raw").write_bytes(skipped + BLOCK)
    volume = read(written(tmp_path / name, header, *changes, block=b""))
    np.testing.assert_array_equal(volume.array, values())
    assert volume.affine.tolist() == LPS_123


BAD: dict[str, tuple[str, str, list[tuple[str, str]], bytes, str]] = {
    "mha empty": ("a.mha", "", [], b"", "cut off or damaged .its header does not end"),
    "mha text": ("a.mha", "patient\n", [], b"", "is not a MetaImage file"),
    "mha no end": ("a.mha", META, [("ElementDataFile = LOCAL\n", "")], b"", "its header does not end"),
    "mha short": ("a.mha", META, [], BLOCK[:-1], "239 of 240 bytes of voxels"),
    "mha huge": ("a.mha", META, [("4 5 6", "30000 30000 30000")], BLOCK, "240 of 54,000,000,000,000 bytes"),
    "mha too long": ("a.mha", META, [("4 5 6", "40000 1 1")], bytes(80000), "crop it to at most 32767 voxels"),
    "mha 2-D": ("a.mha", META, [("NDims = 3", "NDims = 2"), ("4 5 6", "4 30")], BLOCK, "2-D .4x30."),
    "mha 4-D": ("a.mha", META, [("NDims = 3", "NDims = 4"), ("4 5 6", "4 5 3 2")], BLOCK, "4-D .4x5x3x2."),
    "mha dimensions": ("a.mha", META, [("NDims = 3", "NDims = 4")], BLOCK, "'DimSize' has 3 numbers"),
    "mha no size": ("a.mha", META, [("DimSize", "Dims")], BLOCK, "'DimSize' has 0 numbers"),
    "mha negative size": ("a.mha", META, [("4 5 6", "-4 -5 6")], BLOCK, "has an empty axis"),
    "mha fraction": ("a.mha", META, [("4 5 6", "4 5 6.5")], BLOCK, "'DimSize' is '4 5 6.5', not whole"),
    "mha digits": ("a.mha", META, [("4 5 6", "4 5 " + "6" * 5000)], BLOCK, "'DimSize' is '4 5 666"),
    "mha RGB": (
        "a.mha",
        META,
        [("NDims", "ElementNumberOfChannels = 3\nNDims")],
        BLOCK * 3,
        "several values per voxel",
    ),
    "mha strings": ("a.mha", META, [("MET_SHORT", "MET_STRING")], BLOCK, "voxels of the type 'MET_STRING'"),
    "mha as text": ("a.mha", META, [("BinaryData = True", "BinaryData = False")], b"1 2 3", "holds voxels as text"),
    "mha no spacing": ("a.mha", META, [("ElementSpacing = 1 1 2\n", "")], BLOCK, "says no voxel sizes"),
    "mha spacing 0": ("a.mha", META, [("1 1 2", "1 0 2")], BLOCK, "has the voxel sizes '1 0 2'"),
    "mha spacing nan": ("a.mha", META, [("1 1 2", "1 nan 2")], BLOCK, "'ElementSpacing' is '1 nan 2'"),
    "mha singular": ("a.mha", META, [("0 1 0 0 0 1", "0 1 0 0 1 0")], BLOCK, "an affine that cannot be inverted"),
    "mha short matrix": ("a.mha", META, [("0 1 0 0 0 1", "0 1 0")], BLOCK, "'TransformMatrix' is '1 0 0 0 1 0', not 9"),
    "mha no file": ("a.mhd", META, [("LOCAL", "b.raw")], b"", "'b.raw', which is not beside it"),
    "mha empty name": ("a.mhd", META, [("LOCAL", "")], b"", "'', which is not beside it"),
    "mha long name": ("a.mhd", META, [("LOCAL", "b" * 5000)], b"", "which is not beside it"),
    "mha folder above": ("a.mhd", META, [("LOCAL", "../secret.raw")], b"", "outside its own folder, which is not safe"),
    "mha absolute": ("a.mhd", META, [("LOCAL", "/etc/passwd")], b"", "outside its own folder, which is not safe"),
    "mha list": ("a.mhd", META, [("LOCAL", "LIST")], b"", "from several files"),
    "mha pattern": ("a.mhd", META, [("LOCAL", "a%d.raw 1 6 1")], b"", "from several files"),
    "mha no zlib": ("a.mha", META, [("DimSize", "CompressedData = True\nDimSize")], BLOCK, "cut off or damaged"),
    "mha zlib cut": (
        "a.mha",
        META,
        [("DimSize", "CompressedData = True\nDimSize")],
        zlib.compress(BLOCK)[:-3],
        "compressed voxels end after 240 of 240 bytes",
    ),
    "mha zlib longer": (
        "a.mha",
        META,
        [("DimSize", "CompressedData = True\nDimSize")],
        zlib.compress(BLOCK * 2),
        "241 of 240|480 of 240",
    ),
    "mha zlib huge": (
        "a.mha",
        META,
        [("DimSize", "CompressedData = True\nDimSize"), ("4 5 6", "9999 9999 9999")],
        zlib.compress(BLOCK),
        "bytes of voxels",
    ),
    "mha one value": ("a.mha", META, [], bytes(240), "single value 0 everywhere"),
    "mha NaN": ("a.mha", META, [("MET_SHORT", "MET_FLOAT")], b"\xff" * 480, "holds 120 NaN or infinite values"),
    "nrrd empty": ("a.nrrd", "", [], b"", "is not a NRRD file"),
    "nrrd magic": ("a.nrrd", NRRD, [("NRRD0004", "NRRX0004")], BLOCK, "is not a NRRD file"),
    "nrrd no end": ("a.nrrd", NRRD, [("all of it\n\n", "all of it\n")], b"", "its header does not end"),
    "nrrd line": ("a.nrrd", NRRD, [("endian: little", "endian")], BLOCK, "its header has the line 'endian'"),
    "nrrd short": ("a.nrrd", NRRD, [], BLOCK[:-1], "239 of 240 bytes of voxels"),
    "nrrd huge": ("a.nrrd", NRRD, [("4 5 6", "30000 30000 30000")], BLOCK, "240 of 54,000,000,000,000 bytes"),
    "nrrd 2-D": ("a.nrrd", NRRD, [("dimension: 3", "dimension: 2"), ("4 5 6", "4 30")], BLOCK, "2-D .4x30."),
    "nrrd 4-D": ("a.nrrd", NRRD, [("dimension: 3", "dimension: 4"), ("4 5 6", "4 5 3 2")], BLOCK, "4-D .4x5x3x2."),
    "nrrd RGB": ("a.nrrd", NRRD, [("kinds: domain", "kinds: RGB-color")], BLOCK, "axes of the kinds 'RGB-color domain"),
    "nrrd nowhere": ("a.nrrd", NRRD, [("space: left-posterior-superior\n", "")], BLOCK, "does not say how it lies"),
    "nrrd no axes": ("a.nrrd", NRRD, [("space directions", "axes")], BLOCK, "does not say how it lies in the patient"),
    "nrrd microns": ("a.nrrd", NRRD, [("kinds", 'space units: "um" "um" "um"\nkinds')], BLOCK, "save it again in mm"),
    "nrrd none": ("a.nrrd", NRRD, [("(1,0,0)", "none")], BLOCK, "'space directions' is 'none"),
    "nrrd singular": ("a.nrrd", NRRD, [("(1,0,0)", "(0,1,0)")], BLOCK, "an affine that cannot be inverted"),
    "nrrd far": ("a.nrrd", NRRD, [("(1,0,0)", "(1e300,0,0)")], BLOCK, "'space directions' is"),
    "nrrd type": ("a.nrrd", NRRD, [("short", "block")], BLOCK, "voxels of the type 'block'"),
    "nrrd encoding": ("a.nrrd", NRRD, [("raw", "bzip2")], BLOCK, "has the encoding 'bzip2'"),
    "nrrd endian": ("a.nrrd", NRRD, [("endian: little\n", "")], BLOCK, "'endian' is ''"),
    "nrrd skip": ("a.nrrd", NRRD, [("raw", "raw\nbyte skip: 5")], BLOCK, "skips a part"),
    "nrrd no gzip": ("a.nrrd", NRRD, [("raw", "gzip")], BLOCK, "cut off or damaged"),
    "nrrd checksum": ("a.nrrd", NRRD, [("raw", "gzip")], gzip.compress(BLOCK)[:-8] + bytes(8), "incorrect data check"),
    "nrrd folder above": ("a.nhdr", NRRD, [("raw", "raw\ndata file: ../x")], b"", "outside its own folder"),
    "nrrd several": ("a.nhdr", NRRD, [("raw", "raw\ndata file: LIST")], b"", "from several files"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_one_sentence_with_its_name(
    tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    name, header, changes, block, sentence = BAD[case]
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.raw").write_bytes(BLOCK)
    path = written(tmp_path / "folder" / name, header, *changes, block=block)
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert re.search(sentence, message), message
    assert message.startswith(str(path))
    assert message.endswith(".")
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("reader", [read_metaimage, read_nrrd])
def test_a_missing_file_or_a_folder(tmp_path: Path, reader: Callable[[Path], Volume]) -> None:
    with pytest.raises(UserError, match=r"a is missing"):
        reader(tmp_path / "a")
    with pytest.raises(UserError, match="cannot be read"):
        reader(tmp_path)


@pytest.mark.parametrize("header", [META, NRRD])
@pytest.mark.parametrize("seed", range(50))
def test_a_file_with_a_changed_byte_is_read_or_refused(tmp_path: Path, header: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    content = bytearray(header.encode())
    content[random.integers(len(content))] = random.integers(256)
    path = tmp_path / ("a.mha" if header is META else "a.nrrd")
    path.write_bytes(content + BLOCK)
    try:
        assert read(path).array.size <= 240
    except UserError as error:
        assert str(path) in str(error)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["liver_seg", "spine_seg", "heart_seg"])
def test_real_nrrd_masks_are_read_as_itk_reads_them(real_data: Path, name: str) -> None:
    path = real_data / "dcmqi_ct_3slice_dicom" / f"{name}.nrrd"
    volume, image = read_nrrd(path), itk.imread(str(path))
    np.testing.assert_array_equal(volume.array, itk.array_from_image(image).transpose(2, 1, 0))
    directions = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    lps = np.block([[directions, np.array(image.GetOrigin())[:, None]], [np.array([0, 0, 0, 1])]])
    np.testing.assert_allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-5)
