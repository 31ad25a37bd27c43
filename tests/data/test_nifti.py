from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medkd.data.nifti import check_pair, distinct_values, read_image, read_label
from medkd.data.volume import Volume
from medkd.errors import UserError

DATA = os.environ.get("MEDKD_DATA")
AFFINE = np.array([[-2.0, 0, 0, 10], [0, 3.0, 0, -20], [0, 0, 5.0, 30], [0, 0, 0, 1]])


def numbers(shape: tuple[int, ...] = (4, 5, 6), dtype: type = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def with_value(value: float, dtype: type = np.float32) -> np.ndarray:
    array = numbers(dtype=dtype)
    array[1, 2, 3] = value
    return array


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


def noisy(path: Path) -> Path:
    return save(path, np.random.RandomState(0).randint(0, 1000, (12, 12, 12)).astype(np.int16))


def set_columns(path: Path, columns: slice, value: float) -> None:
    """Change the affine in the bytes of the file, since nibabel refuses to write one that is singular."""
    save(path, numbers())
    affine = AFFINE[:3].astype("<f4")
    affine[:, columns] = value
    content = bytearray(path.read_bytes())
    content[280:328] = affine.tobytes()  # srow_x, srow_y, srow_z
    path.write_bytes(content)


def huge_header(path: Path) -> None:
    save(path, numbers())
    content = bytearray(path.read_bytes())
    content[42:48] = struct.pack("<3h", 32767, 32767, 32767)
    path.write_bytes(content)


def rgb(path: Path) -> None:
    save(path, np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]))


BAD_FOR_BOTH: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("a.nii.gz", lambda path: None, "is missing"),
    "folder": ("a.nii.gz", lambda path: path.mkdir(), "cannot be read"),
    "empty file": ("a.nii.gz", lambda path: path.write_bytes(b""), "damaged .it is empty"),
    "text": ("a.nii", lambda path: path.write_text("patient\n" * 100), "is not a NIfTI file"),
    "zipped text": ("a.nii.gz", lambda path: path.write_bytes(gzip.compress(b"x" * 999)), "is not a NIfTI file"),
    "header only": ("a.nii.gz", lambda path: cut(noisy(path), 0.03), "cut off or damaged"),
    "half": ("a.nii.gz", lambda path: cut(noisy(path), 0.5), "cut off or damaged"),
    "checksum cut": ("a.nii.gz", lambda path: cut(noisy(path), 0.9995), "cut off or damaged"),
    "flipped byte": ("a.nii.gz", lambda path: flip(noisy(path), 2000), "cut off or damaged"),
    "wrong checksum": ("a.nii.gz", lambda path: flip(noisy(path), -6), "cut off or damaged"),
    "half uncompressed": ("a.nii", lambda path: cut(noisy(path), 0.5), "damaged .1904 of 3808 bytes"),
    "header of 70 TB": ("a.nii", huge_header, "cut off or damaged"),
    "2-D": ("a.nii.gz", lambda path: save(path, numbers((8, 9))), "2-D .8x9.: give one 3-D volume"),
    "4-D": ("a.nii.gz", lambda path: save(path, numbers((8, 9, 4, 2))), "4-D .8x9x4x2.: give one 3-D volume"),
    "empty axis": ("a.nii.gz", lambda path: save(path, numbers((8, 0, 4))), "empty axis .8x0x4."),
    "flat affine": ("a.nii", lambda path: set_columns(path, slice(1, 2), 0.0), "cannot be inverted"),
    "parallel axes": ("a.nii", lambda path: set_columns(path, slice(0, 2), 1.0), "cannot be inverted"),
    "NaN affine": ("a.nii", lambda path: set_columns(path, slice(1, 2), np.nan), "cannot be inverted"),
    "RGB": ("a.nii.gz", rgb, "holds RGB voxels"),
    "complex": ("a.nii.gz", lambda path: save(path, numbers(dtype=np.complex64)), "holds complex voxels"),
}
BAD_IMAGES: dict[str, tuple[np.ndarray, str]] = {
    "NaN": (with_value(np.nan), "holds 1 NaN or infinite values"),
    "inf": (with_value(np.inf), "holds 1 NaN or infinite values"),
    "-inf": (with_value(-np.inf), "holds 1 NaN or infinite values"),
    "beyond float32": (with_value(1e300, np.float64), "holds 1 NaN or infinite values"),
    "constant": (np.full((4, 5, 6), -1024, np.int16), "single value -1024 everywhere"),
}
BAD_LABELS: dict[str, tuple[np.ndarray, str]] = {
    "half": (with_value(0.5), "holds 0.5, which is no label value"),
    "NaN": (with_value(np.nan), "holds nan, which is no label value"),
    "inf": (with_value(np.inf), "holds inf, which is no label value"),
}


@pytest.mark.parametrize("read", [read_image, read_label])
@pytest.mark.parametrize("case", BAD_FOR_BOTH)
def test_bad_file_gives_one_sentence_with_its_name(tmp_path: Path, case: str, read: Callable[[Path], Volume]) -> None:
    name, write, sentence = BAD_FOR_BOTH[case]
    path = tmp_path / name
    write(path)
    with pytest.raises(UserError, match=sentence) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_image_values(tmp_path: Path, case: str) -> None:
    array, sentence = BAD_IMAGES[case]
    with pytest.raises(UserError, match=sentence):
        read_image(save(tmp_path / "a.nii.gz", array))


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_label_values(tmp_path: Path, case: str) -> None:
    array, sentence = BAD_LABELS[case]
    with pytest.raises(UserError, match=sentence):
        read_label(save(tmp_path / "a.nii.gz", array))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_an_image_keeps_its_integers_and_its_order(tmp_path: Path, name: str, kind: type, dtype: type) -> None:
    path = tmp_path / name
    nibabel.save(kind(numbers(dtype=dtype), AFFINE, dtype=dtype), path)
    volume = read_image(path)
    assert volume.array.dtype == (dtype if np.issubdtype(dtype, np.integer) else np.float32)
    np.testing.assert_array_equal(volume.array, numbers())
    np.testing.assert_allclose(volume.affine, AFFINE)
    assert volume.path == path
    assert volume.header.get_data_dtype() == dtype


def test_scaling_of_the_header_is_applied(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", numbers())
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<2f", 2.0, -1024.0)  # scl_slope, scl_inter
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image(path).array, 2.0 * numbers() - 1024.0)


@pytest.mark.parametrize("dtype", [">i2", ">i8", ">f4"])
def test_big_endian_files_come_in_native_order(tmp_path: Path, dtype: str) -> None:
    header = nibabel.Nifti1Header(endianness=">")
    array = numbers((4, 5, 20)).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(array, AFFINE, header, dtype=dtype), tmp_path / "a.nii")
    assert (tmp_path / "a.nii").read_bytes()[:4] == struct.pack(">i", 348)
    for volume in (read_image(tmp_path / "a.nii"), read_label(tmp_path / "a.nii")):
        assert volume.array.dtype.isnative
        np.testing.assert_array_equal(volume.array, numbers((4, 5, 20)))


def test_compression_is_told_from_the_content(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", numbers()).rename(tmp_path / "a.nii")
    np.testing.assert_array_equal(read_image(path).array, numbers())


def test_place_in_space_of_a_straight_grid(tmp_path: Path) -> None:
    volume = read_image(save(tmp_path / "a.nii.gz", numbers()))
    assert volume.spacing == (2.0, 3.0, 5.0)
    assert volume.voxel_ml == pytest.approx(2 * 3 * 5 / 1000)
    assert volume.orientation == "LAS"


def test_place_in_space_of_a_tilted_gantry(tmp_path: Path) -> None:
    # Slices 5 mm apart along the head, shifted by 5 mm to the front each: 5 * sqrt(2) mm from centre to centre.
    sheared = np.array([[2.0, 0, 0, 0], [0, 3.0, 5.0, 0], [0, 0, 5.0, 0], [0, 0, 0, 1]])
    volume = read_image(save(tmp_path / "a.nii.gz", numbers(), sheared))
    assert volume.spacing == pytest.approx((2.0, 3.0, 5.0 * 2**0.5))
    assert volume.voxel_ml == pytest.approx(2 * 3 * 5 / 1000)


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (numbers(dtype=np.uint8), np.uint8),
        (numbers(dtype=np.int32), np.uint8),
        (numbers(dtype=np.float32), np.uint8),
        (numbers(dtype=np.float64), np.uint8),
        (np.zeros((4, 5, 6), np.uint8), np.uint8),
        (with_value(256), np.int64),
        (with_value(-1, np.int16), np.int64),
    ],
)
def test_label_in_whole_numbers_is_accepted(tmp_path: Path, array: np.ndarray, dtype: type) -> None:
    label = read_label(save(tmp_path / "a.nii.gz", array)).array
    assert label.dtype == dtype
    np.testing.assert_array_equal(label, array)


def test_label_survives_the_rounding_of_a_scale_factor(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii", numbers())
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<2f", 0.9999999, 0.0)
    path.write_bytes(content)
    assert not np.array_equal(read_image(path).array, numbers())
    np.testing.assert_array_equal(read_label(path).array, numbers())


def moved(offset: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] += offset
    return affine


@pytest.mark.parametrize("offset", [0.0, 1e-6, 5e-4])
def test_pair_on_one_grid_is_accepted(tmp_path: Path, offset: float) -> None:
    image = read_image(save(tmp_path / "image.nii.gz", numbers()))
    label = read_label(save(tmp_path / "label.nii.gz", numbers() % 3, moved(offset)))
    check_pair(image, label, {0: "background", 1: "spleen", 2: "liver"})


@pytest.mark.parametrize(
    ("array", "affine", "sentence"),
    [
        (numbers((5, 4, 6)) % 2, AFFINE, "label.nii.gz is 5x4x6 but its image .*image.nii.gz is 4x5x6"),
        (numbers() % 2, moved(0.5), "label.nii.gz lies elsewhere .* .affines differ by up to 0.5."),
        (numbers() % 2, AFFINE @ np.diag([-1.0, 1, 1, 1]), "label.nii.gz lies elsewhere"),
        (numbers() % 4, AFFINE, "label.nii.gz holds the undeclared label values 2, 3 .declared are 0, 1."),
        (-(numbers() % 2), AFFINE, "label.nii.gz holds the undeclared label values -1 "),
    ],
)
def test_pair_that_does_not_match(tmp_path: Path, array: np.ndarray, affine: np.ndarray, sentence: str) -> None:
    image = read_image(save(tmp_path / "image.nii.gz", numbers()))
    label = read_label(save(tmp_path / "label.nii.gz", array, affine))
    with pytest.raises(UserError, match=sentence):
        check_pair(image, label, [0, 1])


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_distinct_values_are_counted(dtype: type) -> None:
    label: np.ndarray = np.array([[[0, 7], [7, 255]], [[0, 0], [7, 1]]], dtype=dtype)
    assert distinct_values(label) == {0: 3, 1: 1, 7: 3, 255: 1}
    assert list(distinct_values(label)) == [0, 1, 7, 255]


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is unset: no real volumes to read")
def test_real_files_read_as_nibabel_reads_them() -> None:
    folder = Path(str(DATA))
    image = read_image(folder / "btcv_spleen/imagesTr/spleen_16.nii.gz")
    label = read_label(folder / "btcv_spleen/labelsTr/spleen_16.nii.gz")
    check_pair(image, label, [0, 1])
    reference = nibabel.Nifti1Image.from_filename(image.path)
    np.testing.assert_array_equal(image.array, reference.get_fdata())
    assert image.spacing == pytest.approx(reference.header.get_zooms())
    with pytest.raises(UserError, match="resample the label to the grid of the image"):
        check_pair(image, read_label(folder / "btcv_spleen/labelsTr/spleen_17.nii.gz"), [0, 1])
    other = read_image(folder / "totalseg_example_ct/example_ct.nii.gz")
    assert other.array.shape == (122, 101, 112)
    assert other.spacing == pytest.approx((3.0, 3.0, 3.0), abs=1e-4)
