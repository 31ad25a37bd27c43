from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import (
    EnhancedCTImageStorage,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from medkd.data.dicom import find_series, read_series
from medkd.data.scan import read_scan
from medkd.data.volume import Volume
from medkd.errors import UserError
from tests.data.dicom_series import AXIAL, ct_values, write_series

# Rows and columns along no axis of the patient: axial, turned by 30 degrees about z and then by 20 about x.
C30, S30, C20, S20 = 0.8660254037844387, 0.5, 0.9396926207859084, 0.3420201433256687
OBLIQUE = (C30, S30 * C20, S30 * S20, -S30, C30 * C20, C30 * S20)
OBLIQUE_NORMAL = (0.0, -S20, C20)


def by_hand(
    index: tuple[int, int, int],
    origin: tuple[float, ...],
    orientation: tuple[float, ...],
    spacing: tuple[float, float],
    step: tuple[float, ...],
) -> list[float]:
    """Where the standard puts a voxel (PS3.3, equation C.7.6.2.1-1), turned from LPS to RAS."""
    column, row, slice_ = index
    x, y, z = (
        origin[axis]
        + column * spacing[1] * orientation[axis]
        + row * spacing[0] * orientation[3 + axis]
        + slice_ * step[axis]
        for axis in range(3)
    )
    return [-x, -y, z]


@pytest.mark.parametrize(
    ("orientation", "step"),
    [
        pytest.param(AXIAL, (0, 0, 2.5), id="axial"),
        pytest.param((0, 1, 0, 0, 0, -1), (-3, 0, 0), id="sagittal"),
        pytest.param((1, 0, 0, 0, 0, -1), (0, 1.5, 0), id="coronal"),
        pytest.param(OBLIQUE, tuple(3 * part for part in OBLIQUE_NORMAL), id="oblique"),
        pytest.param((1, 0, 0, 0, C20, -S20), (0, 0, 5), id="gantry tilt"),
    ],
)
def test_each_voxel_lies_where_the_standard_says(
    tmp_path: Path, orientation: tuple[float, ...], step: tuple[float, ...]
) -> None:
    array, origin, spacing = ct_values((6, 5, 4)), (-100.5, 20.25, 7.0), (0.8, 0.7)
    paths = write_series(tmp_path, array, origin=origin, orientation=orientation, spacing=spacing, step=step)
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, array - 1024)
    for index in ((0, 0, 0), (5, 0, 0), (0, 4, 0), (0, 0, 3), (2, 3, 1)):
        expected = by_hand(index, origin, orientation, spacing, step)
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], expected, atol=1e-5)
    assert volume.files == tuple(paths)
    np.testing.assert_allclose(volume.header.get_sform(), volume.affine, atol=1e-4)


def test_a_tilted_gantry_keeps_its_shear(tmp_path: Path) -> None:
    write_series(tmp_path, ct_values(), orientation=(1, 0, 0, 0, C20, -S20), spacing=(1, 1), step=(0, 0, 5))
    volume = read_series(tmp_path)
    assert volume.spacing == pytest.approx((1, 1, 5))
    # A voxel is as high as its slices are apart along their normal, not along the table.
    assert volume.voxel_ml == pytest.approx(5 * C20 / 1000)


@pytest.mark.parametrize("reverse", [False, True])
def test_slices_are_ordered_by_position_and_not_by_number_or_name(tmp_path: Path, reverse: bool) -> None:
    array = ct_values((6, 5, 5))
    order = [4, 3, 2, 1, 0] if reverse else [3, 0, 4, 1, 2]

    def renumber(dataset: Dataset, index: int) -> None:
        dataset.InstanceNumber = order[index]

    paths = write_series(tmp_path, array, name=lambda index: f"IM{order[index]}", edit=renumber)
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, array - 1024)
    assert volume.files == tuple(paths)
    assert volume.affine[2, 2] == 2.5


def test_slices_written_from_head_to_foot_come_back_from_foot_to_head(tmp_path: Path) -> None:
    array = ct_values()
    write_series(tmp_path, array, step=(0, 0, -2.5), origin=(0, 0, 40))
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.array, array[:, :, ::-1] - 1024)
    assert volume.affine[2].tolist() == [0, 0, 2.5, 32.5]


@pytest.mark.parametrize(
    ("slope", "intercept", "stored", "expected", "dtype"),
    [
        (1, -1024, [0, 1000, 2000, 4000], [-1024, -24, 976, 2976], np.int16),
        (2, -1024, [0, 1000, 2000, 4000], [-1024, 976, 2976, 6976], np.int16),
        (1, [-1024, -1000, 0, 5], [0, 1000, 2000, 4000], [-1024, 0, 2000, 4005], np.int16),
        ([1, 0.5, 2, 0.25], [0, 10, 20, 30], [100, 100, 100, 100], [100, 60, 220, 55], np.float32),
        (10, 0, [0, 1000, 2000, 4000], [0, 10000, 20000, 40000], np.float32),
        (1, -1024, [-3024, 0, 1, 2], [-4048, -1024, -1023, -1022], np.int16),
        (1, -32768, [0, -1, 0, 0], [-32768, -32769, -32768, -32768], np.float32),
    ],
)
def test_stored_values_become_hu_slice_by_slice(
    tmp_path: Path, slope: object, intercept: object, stored: list[int], expected: list[float], dtype: type
) -> None:
    array = np.zeros((6, 5, 4), np.int16)
    array[:] = stored
    write_series(tmp_path, array, slope=slope, intercept=intercept)  # type: ignore[arg-type]
    volume = read_series(tmp_path)
    assert volume.array.dtype == dtype
    assert volume.array[2, 3].tolist() == expected


def test_unsigned_values_do_not_wrap_around(tmp_path: Path) -> None:
    array = np.arange(120, dtype=np.uint16).reshape(6, 5, 4)
    array[0, 0, 0] = 33000
    write_series(tmp_path, array, intercept=-1024)
    volume = read_series(tmp_path)
    assert volume.array.dtype == np.int16
    assert (volume.array[0, 0, 0], volume.array[0, 0, 1]) == (31976, -1023)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless])
def test_compressed_series_are_decoded(tmp_path: Path, syntax: str) -> None:
    array = ct_values((32, 24, 3))
    paths = write_series(tmp_path, array, syntax=syntax, name="IM{}".format)
    assert dcmread(paths[0]).file_meta.TransferSyntaxUID == syntax
    np.testing.assert_array_equal(read_series(tmp_path).array, array - 1024)


@pytest.mark.parametrize("modality", ["MR", "PT"])
def test_other_modalities_are_read_without_rescale(tmp_path: Path, modality: str) -> None:
    array = ct_values()
    write_series(tmp_path, array, modality=modality, slope=None, intercept=None)
    np.testing.assert_array_equal(read_series(tmp_path).array, array)


def test_a_series_may_lie_in_sub_folders_in_copies_and_among_other_objects(tmp_path: Path) -> None:
    array, uid = ct_values((6, 5, 6)), generate_uid()
    paths = write_series(tmp_path / "scan" / "a", array, uid=uid)
    (tmp_path / "scan" / "b").mkdir()
    moved = [path.rename(tmp_path / "scan" / "b" / path.name) for path in paths[3:]]
    (tmp_path / "scan" / "a" / "copy").write_bytes(paths[0].read_bytes())
    (tmp_path / "scan" / "report.txt").write_text("a patient")
    write_series(tmp_path / "scan", ct_values(seed=1), modality="SEG", name="seg{}.dcm".format)

    def localizer(dataset: Dataset, index: int) -> None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write_series(tmp_path / "scan" / "a", ct_values((9, 9, 1)), name="scout{}.dcm".format, edit=localizer, uid=uid)

    def directory(dataset: Dataset, index: int) -> None:
        dataset.SOPClassUID = MediaStorageDirectoryStorage
        del dataset.SeriesInstanceUID

    write_series(tmp_path / "scan" / "a", ct_values((9, 9, 1)), name=lambda index: "DICOMDIR", edit=directory)
    content = find_series(tmp_path)
    assert [(one.uid, one.folder, len(one.slices)) for one in content.series] == [(uid, tmp_path / "scan", 7)]
    assert content.others == {"Segmentation Storage", "Media Storage Directory Storage", "localizer"}
    volume = read_series(tmp_path / "scan")
    np.testing.assert_array_equal(volume.array, array - 1024)
    assert len(volume.files) == 6
    assert volume.files[3:] == tuple(moved)


def test_one_of_several_series_is_chosen_by_its_uid(tmp_path: Path) -> None:
    first, second = ct_values(seed=1), ct_values(seed=2)
    write_series(tmp_path, first, uid="1.2.3", name="a{}".format)
    write_series(tmp_path, second, uid="1.2.4", name="b{}".format)
    np.testing.assert_array_equal(read_series(tmp_path, "1.2.4").array, second - 1024)
    with pytest.raises(UserError, match=r"2 DICOM series \(1.2.3 of 4 slices, 1.2.4 of 4 slices\): choose"):
        read_series(tmp_path)
    with pytest.raises(UserError, match=r"choose"):
        read_series(tmp_path, "1.2.5")


def test_series_without_uids_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    def anonymise(dataset: Dataset, index: int) -> None:
        dataset.SeriesInstanceUID = ""
        dataset.SOPClassUID = ""

    def write(folder: Path, seed: int) -> np.ndarray:
        array = ct_values(seed=seed)
        for path in write_series(folder, array):
            dataset = dcmread(path)
            anonymise(dataset, 0)
            dataset.save_as(path)  # the class stays in the head of the file
        return array

    outer, inner = write(tmp_path / "a", 1), write(tmp_path / "a" / "b", 2)
    assert [(one.uid, one.folder) for one in find_series(tmp_path).series] == [
        ("", tmp_path / "a"),
        ("", tmp_path / "a" / "b"),
    ]
    np.testing.assert_array_equal(read_series(tmp_path / "a", "").array, outer - 1024)
    np.testing.assert_array_equal(read_series(tmp_path / "a" / "b", "").array, inner - 1024)


@pytest.mark.parametrize(("tag", "height"), [("SpacingBetweenSlices", 4.0), ("SliceThickness", 2.5)])
def test_a_single_slice_is_as_high_as_it_says(tmp_path: Path, tag: str, height: float) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        setattr(dataset, tag, height)

    write_series(tmp_path, ct_values((6, 5, 1)), edit=edit, orientation=OBLIQUE)
    volume = read_series(tmp_path)
    assert volume.array.shape == (6, 5, 1)
    np.testing.assert_allclose(volume.affine[:3, 2], height * np.array([0, S20, C20]), atol=1e-6)


def test_slightly_rounded_positions_are_even(tmp_path: Path) -> None:
    def edit(dataset: Dataset, index: int) -> None:
        dataset.ImagePositionPatient = [0, 0, [0, 0.66, 1.34, 2.0][index]]

    write_series(tmp_path, ct_values(), edit=edit)
    assert read_series(tmp_path).spacing[2] == pytest.approx(2 / 3)


def setting(only: int | None = None, /, **tags: object) -> Callable[[Dataset, int], None]:
    """Set tags, or remove those set to None, in one slice or in all."""

    def edit(dataset: Dataset, index: int) -> None:
        if only is None or only == index:
            for tag, value in tags.items():
                if value is None:
                    del dataset[tag]
                else:
                    setattr(dataset, tag, value)

    return edit


def colour(dataset: Dataset, index: int) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.PixelData = dataset.PixelData * 3


def positions(*heights: float) -> Callable[[Dataset, int], None]:
    return lambda dataset, index: setting(ImagePositionPatient=[0, 0, heights[index]])(dataset, index)


BAD_SERIES: dict[str, tuple[Callable[[Dataset, int], None], str]] = {
    "gap": (positions(0, 5, 15, 20), "lacks slices between 001.dcm and 002.dcm .10 mm apart, others 5 mm."),
    "gap of three": (positions(0, 5, 10, 30), "lacks slices between 002.dcm and 003.dcm"),
    "uneven": (positions(0, 5, 10, 15.3), "unevenly spaced slices .002.dcm and 003.dcm"),
    "two phases": (positions(0, 0, 5, 5), "different slices at one position .000.dcm and 001.dcm"),
    "all at one position": (positions(3, 3, 3, 3), "different slices at one position"),
    "shifted sideways": (setting(2, ImagePositionPatient=[-99, -120, 45]), "unevenly spaced slices"),
    "orientations": (setting(1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), "001.dcm has another orientation than"),
    "pixel spacings": (setting(1, PixelSpacing=[0.9, 0.7]), "001.dcm has another PixelSpacing than 000.dcm"),
    "sizes": (setting(1, Rows=4), "001.dcm has another size than 000.dcm"),
    "no position": (setting(2, ImagePositionPatient=None), "002.dcm has no valid ImagePositionPatient"),
    "short position": (setting(2, ImagePositionPatient=[1, 2]), "no valid ImagePositionPatient"),
    "no orientation": (setting(ImageOrientationPatient=None), "has no valid ImageOrientationPatient"),
    "parallel directions": (setting(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "no valid ImageOrientationPatient"),
    "no pixel spacing": (setting(PixelSpacing=None), "has no valid PixelSpacing"),
    "pixel spacing 0": (setting(PixelSpacing=[0, 1]), "has no valid PixelSpacing"),
    "multi-frame": (setting(NumberOfFrames=2), "is a multi-frame file.: convert"),
    "enhanced": (setting(SOPClassUID=EnhancedCTImageStorage), "is a multi-frame file.: convert"),
    "colour": (colour, "is a colour image"),
    "no pixel data": (setting(1, PixelData=None), "001.dcm holds no pixel data that can be decoded .there is none"),
    "short pixel data": (setting(1, PixelData=bytes(40)), "001.dcm holds no pixel data that can be decoded"),
    "no size": (setting(1, Rows=None), "001.dcm is cut off or damaged .its header says no size"),
    "not HU": (setting(RescaleIntercept=None, PixelRepresentation=0), "is a CT slice without RescaleIntercept"),
    "slope 0": (setting(RescaleSlope=0), "000.dcm is cut off or damaged .RescaleSlope 0"),
    "one value": (setting(PixelData=bytes(60)), "holds the single value -1024 everywhere"),
}


def fails_in_a_sentence(folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(UserError) as caught, warnings.catch_warnings():
        warnings.simplefilter("error")
        read_series(folder)
    sentence = str(caught.value)
    assert sentence.startswith(str(folder))
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert capfd.readouterr() == ("", "")
    return sentence


@pytest.mark.parametrize("case", BAD_SERIES)
def test_a_bad_series_gives_one_sentence(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    edit, expected = BAD_SERIES[case]
    write_series(tmp_path, ct_values(), edit=edit)
    assert re.search(expected, fails_in_a_sentence(tmp_path, capfd))


def test_of_three_slices_a_missing_one_is_told(tmp_path: Path) -> None:
    write_series(tmp_path, ct_values((6, 5, 3)), edit=positions(0, 5, 15))
    with pytest.raises(UserError, match=r"lacks slices between 001.dcm and 002.dcm \(10 mm apart, others 5 mm\)"):
        read_series(tmp_path)


def write_long(folder: Path) -> list[Path]:
    """Slices whose header is a small part of the file."""
    return write_series(folder, ct_values((64, 64, 3)))


def cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def only_segmentation(folder: Path) -> None:
    write_series(folder, ct_values(), modality="SEG")


def other_objects(folder: Path) -> None:
    write_series(folder / "a", ct_values(), edit=setting(SOPClassUID=SecondaryCaptureImageStorage))
    write_series(folder / "b", ct_values(), edit=setting(SOPClassUID=RTStructureSetStorage))


def htj2k(folder: Path) -> None:
    for path in write_series(folder, ct_values((32, 32, 3)), syntax=JPEG2000Lossless):
        dataset = dcmread(path)
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        dataset.save_as(path)


def dangling_link(folder: Path) -> None:
    write_long(folder)
    (folder / "IM9").symlink_to("nowhere")


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty folder": (lambda folder: None, "holds no DICOM series of CT, MR or PET slices: give"),
    "segmentation": (only_segmentation, "no DICOM series .* .it holds Segmentation Storage.: give"),
    "others": (other_objects, "it holds RT Structure Set Storage, Secondary Capture Image Storage"),
    "a single slice": (
        lambda folder: write_series(folder, ct_values((6, 5, 1)), edit=setting(SliceThickness=None)),
        "single slice 000.dcm of unknown thickness",
    ),
    "text named .dcm": (
        lambda folder: (write_long(folder), (folder / "x.dcm").write_text("text")),
        "x.dcm is cut off or damaged .it does not begin as a DICOM file",
    ),
    "empty file": (lambda folder: cut(write_long(folder)[2], 0), "002.dcm is cut off or damaged .it is empty"),
    "dangling link": (
        dangling_link,
        "IM9 is cut off or damaged .No such file",
    ),
    "only damaged": (lambda folder: (folder / "x.dcm").write_text("text"), "x.dcm is cut off or damaged"),
    "unknown compression": (htj2k, "000.dcm holds no pixel data that can be decoded"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_bad_folder_gives_one_sentence(tmp_path: Path, case: str, capfd: pytest.CaptureFixture[str]) -> None:
    write, expected = BAD_FOLDERS[case]
    write(tmp_path)
    assert re.search(expected, fails_in_a_sentence(tmp_path, capfd))


@pytest.mark.parametrize(
    ("syntax", "keep"),
    [
        *((None, keep) for keep in (*np.linspace(0.005, 0.1, 39), 0.5, 0.99)),
        *((syntax, 0.99) for syntax in (JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless)),
        (JPEG2000Lossless, 0.5),
    ],
)
def test_a_file_cut_anywhere_is_refused_in_silence(
    tmp_path: Path, syntax: str | None, keep: float, capfd: pytest.CaptureFixture[str]
) -> None:
    paths = write_series(tmp_path, ct_values((64, 64, 3)), syntax=syntax)
    cut(paths[1], keep)
    assert "001.dcm" in fails_in_a_sentence(tmp_path, capfd)


@pytest.mark.parametrize("seed", range(40))
def test_a_file_with_a_changed_byte_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    paths = write_series(tmp_path, ct_values((8, 8, 3)))
    content = bytearray(paths[1].read_bytes())
    for position in random.integers(132, len(content), 3):
        content[position] = random.integers(256)
    paths[1].write_bytes(content)
    try:
        assert isinstance(read_series(tmp_path), Volume)
    except UserError as error:
        assert "\n" not in str(error)


def test_a_decoder_that_crashes_does_not_take_us_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "scan", ct_values(), syntax=JPEGLosslessSV1)
    crashing = tmp_path / "python"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(crashing))
    with pytest.raises(UserError, match=r"000.dcm holds no pixel data that can be decoded \(the decoder crashed\)"):
        read_series(tmp_path / "scan")


@pytest.mark.parametrize("seed", range(6))
def test_compressed_data_with_changed_bytes_is_read_or_refused_in_silence(
    tmp_path: Path, seed: int, capfd: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(seed)
    path = write_series(tmp_path, ct_values((32, 32, 3)), syntax=[JPEGLosslessSV1, JPEG2000Lossless][seed % 2])[1]
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xd8" if seed % 2 == 0 else b"\xff\x4f")
    for position in random.integers(start, start + 100, 20):
        content[position] = random.integers(256)
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        read_series(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file_beside_the_series_folder_does_no_harm(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", ct_values())
    (tmp_path / "x.dcm").write_text("text")
    assert read_series(tmp_path).array.shape == (6, 5, 4)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    write_series(tmp_path, ct_values(), intercept=-1024)
    read_series(tmp_path)
    write_series(tmp_path, ct_values(), intercept=-1000)
    np.testing.assert_array_equal(read_series(tmp_path).array, ct_values() - 1000)


@pytest.mark.realdata
def test_a_real_jpeg_2000_series_lies_where_its_nifti_does(real_data: Path) -> None:
    volume = read_series(real_data / "totalseg_ct_dicom" / "dicom")
    assert volume.array.shape == (512, 512, 20)
    assert volume.array.dtype == np.int16
    assert (volume.array.min(), volume.array.max()) == (-1024, 1839)
    # The mask was made from the same series; it counts its rows from the other side.
    mask = nibabel.Nifti1Image.from_filename(real_data / "totalseg_ct_dicom" / "example_seg_dicom.nii.gz")
    flip = np.diag([1.0, -1, 1, 1])
    flip[1, 3] = 511
    np.testing.assert_allclose(volume.affine @ flip, mask.affine, atol=1e-4)
    spleen = volume.array[:, ::-1][np.asanyarray(mask.dataobj) == 1]
    assert 40 < np.median(spleen) < 160


@pytest.mark.realdata
def test_a_real_series_beside_a_segmentation_is_found(real_data: Path) -> None:
    volume = read_series(real_data / "dcmqi_ct_3slice_dicom")
    assert [path.name for path in volume.files] == ["03.dcm", "02.dcm", "01.dcm"]
    assert volume.array.min() == -3024
    liver = read_scan(real_data / "dcmqi_ct_3slice_dicom" / "liver_seg.nrrd")
    np.testing.assert_allclose(volume.affine, liver.affine, atol=1e-4)
    assert 40 < np.median(volume.array[liver.array > 0]) < 160
