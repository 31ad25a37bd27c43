"""DICOM Segmentation objects: what stands in them, and where."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medkd import __version__
from medkd.data.scan import read_scan
from medkd.data.volume import Volume, nifti_header
from medkd.errors import UserError
from medkd.inference.dicom_seg import STRUCTURES, write_dicom_seg

pytest.importorskip("highdicom")

COLUMNS, ROWS, SLICES = 9, 7, 6
AXIAL = (1, 0, 0, 0, 1, 0)
OBLIQUE = (0.8, 0.6, 0, -0.36, 0.48, 0.8)  # two unit vectors at right angles, along no axis
# Name, orientation, step from slice to slice in mm.
SERIES = [
    ("axial", AXIAL, (0, 0, 2.5)),
    ("axial from the head down", AXIAL, (0, 0, -2.5)),
    ("coronal", (1, 0, 0, 0, 0, -1), (0, 3, 0)),
    ("oblique", OBLIQUE, (2 * 0.48, 2 * -0.64, 2 * 0.6)),
    ("tilted gantry", AXIAL, (0, 0.6, 2.5)),
]


def write_series(folder: Path, orientation=AXIAL, step=(0, 0, 2.5), **attributes) -> Volume:
    """Write a CT series whose file names are in no order; None takes an attribute away."""
    folder.mkdir()
    random = np.random.default_rng(0)
    voxels = random.integers(-1000, 1000, (COLUMNS, ROWS, SLICES)).astype(np.int16)
    start, spacing = np.array([-31.5, 12.25, -100.0]), (0.75, 1.5)
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    files = []
    for index in range(SLICES):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        for name, value in {
            **uids,
            "Modality": "CT",
            "PatientID": "P-17",
            "PatientName": "Test^Case",
            "PatientBirthDate": "19500131",
            "PatientSex": "F",
            "StudyID": "4",
            "StudyDate": "20240229",
            "StudyTime": "101500",
            "AccessionNumber": "A1",
            "ReferringPhysicianName": "",
            "SeriesNumber": 3,
            "SliceThickness": 5,
            "InstanceNumber": index + 1,
            "ImagePositionPatient": [round(float(x), 6) for x in start + index * np.array(step)],
            "ImageOrientationPatient": list(orientation),
            "PixelSpacing": [spacing[1], spacing[0]],
            "Rows": ROWS,
            "Columns": COLUMNS,
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "RescaleSlope": 1,
            "RescaleIntercept": 0,
            **attributes,
        }.items():
            if value is not None:
                setattr(dataset, name, value)
        dataset.PixelData = voxels[:, :, index].T.tobytes()
        files.append(folder / f"{(index * 5 + 2) % SLICES}.dcm")
        dataset.save_as(files[-1], enforce_file_format=True)
    lps = np.eye(4)
    lps[:3, 0] = np.array(orientation[:3]) * spacing[0]
    lps[:3, 1] = np.array(orientation[3:]) * spacing[1]
    lps[:3, 2], lps[:3, 3] = step, start
    affine = np.diag([-1, -1, 1, 1]) @ lps
    return Volume(voxels, affine, nifti_header(voxels.shape, affine), folder, tuple(files))


def blocks() -> np.ndarray:
    """Labels 1 and 4 with a slice (3) that neither has, and one (2) that both have."""
    mask = np.zeros((COLUMNS, ROWS, SLICES), np.uint8)
    mask[1:4, 2:4, 1:3] = 1
    mask[5:9, 0:3, 2] = 4
    mask[6:7, 4:7, 4] = 4
    return mask


def check_frames(path: Path, mask: np.ndarray, scan: Volume, values: list[int]) -> pydicom.Dataset:
    """Make sure that each slice with voxels of a segment is one frame at its source, equal to the mask."""
    dataset = pydicom.dcmread(path)
    frames = dataset.pixel_array.reshape(-1, mask.shape[1], mask.shape[0])
    sources = [pydicom.dcmread(file, stop_before_pixels=True) for file in scan.files]
    slice_of = {source.SOPInstanceUID: index for index, source in enumerate(sources)}
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == sources[0].ImageOrientationPatient
    assert shared.PixelMeasuresSequence[0].PixelSpacing == sources[0].PixelSpacing
    seen = set()
    for frame, groups in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        (reference,) = groups.DerivationImageSequence[0].SourceImageSequence
        index = slice_of[reference.ReferencedSOPInstanceUID]
        identification = groups if "SegmentIdentificationSequence" in groups else shared
        number = identification.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert groups.PlanePositionSequence[0].ImagePositionPatient == sources[index].ImagePositionPatient
        assert np.array_equal(frame, (mask == values[number - 1])[:, :, index].T)
        seen.add((number, index))
    assert len(seen) == len(frames)
    expected = {(n, z) for n, v in enumerate(values, 1) for z in range(mask.shape[2]) if (mask[:, :, z] == v).any()}
    assert seen == expected
    return dataset


@pytest.mark.parametrize(("orientation", "step"), [row[1:] for row in SERIES], ids=[row[0] for row in SERIES])
def test_each_frame_equals_the_mask_at_its_source_image(tmp_path: Path, orientation, step) -> None:
    scan = write_series(tmp_path / "series", orientation, step)
    mask = blocks()
    assert write_dicom_seg(mask, scan, {0: "background", 1: "spleen", 4: "left kidney"}, tmp_path / "o.dcm", "m")
    dataset = check_frames(tmp_path / "o.dcm", mask, scan, [1, 4])
    assert dataset.NumberOfFrames == 4
    normal = np.cross(orientation[:3], orientation[3:])
    spacing = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    assert float(spacing) == pytest.approx(abs(normal @ np.array(step)), abs=1e-5)


def test_highdicom_reads_the_volume_back(tmp_path: Path) -> None:
    import highdicom

    scan = write_series(tmp_path / "series", OBLIQUE, SERIES[3][2])
    mask = blocks()
    write_dicom_seg(mask, scan, {1: "spleen", 4: "liver"}, tmp_path / "o.dcm", "m")
    volume = highdicom.seg.segread(tmp_path / "o.dcm").get_volume(combine_segments=True)
    found = np.zeros_like(mask)
    to_index = np.linalg.inv(scan.affine) @ np.diag([-1, -1, 1, 1]) @ volume.affine
    for place in np.argwhere(volume.array):
        x, y, z = np.rint(to_index @ [*place, 1])[:3].astype(int)
        found[x, y, z] = (0, 1, 4)[volume.array[tuple(place)]]
    assert np.array_equal(found, mask)


def test_the_object_names_patient_study_model_and_segments(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "series")
    labels = {0: "background", 1: "spleen", 2: "kidney_left", 4: "odd\\thing"}
    write_dicom_seg(blocks(), scan, labels, tmp_path / "o.dcm", "unet_s1")
    dataset, source = pydicom.dcmread(tmp_path / "o.dcm"), pydicom.dcmread(scan.files[0])
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
                    "StudyDate", "StudyTime", "AccessionNumber", "FrameOfReferenceUID"):  # fmt: skip
        assert dataset[keyword].value == source[keyword].value, keyword
    assert dataset.SegmentationType == "BINARY"
    assert dataset.Modality == "SEG"
    assert dataset.SeriesInstanceUID != source.SeriesInstanceUID
    assert dataset.SeriesNumber == 1003
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    spleen, kidney, thing = dataset.SegmentSequence
    assert [s.SegmentNumber for s in dataset.SegmentSequence] == [1, 2, 3]
    assert [s.SegmentLabel for s in dataset.SegmentSequence] == ["spleen", "kidney_left", "odd/thing"]
    assert {s.SegmentAlgorithmType for s in dataset.SegmentSequence} == {"AUTOMATIC"}
    algorithm = spleen.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("unet_s1", __version__)
    types = [s.SegmentedPropertyTypeCodeSequence[0] for s in (spleen, kidney, thing)]
    assert [code.CodeValue for code in types] == ["78961009", "64033007", "91723000"]
    assert types[1].SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "7771000"  # left
    assert "SegmentedPropertyTypeModifierCodeSequence" not in types[0]


def test_every_structure_of_the_table_has_the_code_of_its_name() -> None:
    for label, name in STRUCTURES.items():
        meaning = getattr(codes.SCT, name).meaning.lower()
        assert label.replace("oesophagus", "esophagus").endswith(meaning), label


def test_two_objects_of_one_mask_differ_in_uids_and_time_only(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "series")
    datasets = []
    for name in ("a.dcm", "b.dcm"):
        write_dicom_seg(blocks(), scan, {1: "spleen", 4: "liver"}, tmp_path / name, "m")
        datasets.append(pydicom.dcmread(tmp_path / name))
    differing = {element.keyword for element in datasets[0] if element != datasets[1][element.tag]}
    times = {"InstanceCreationTime", "ContentTime", "InstanceCreationDate", "ContentDate"}
    hold_times_or_uids = {"ContributingEquipmentSequence", "DimensionOrganizationSequence", "DimensionIndexSequence"}
    assert differing - times - hold_times_or_uids == {"SOPInstanceUID", "SeriesInstanceUID"}


def test_an_empty_mask_writes_nothing_and_removes_the_result_of_an_earlier_run(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "series")
    path = tmp_path / "o.dcm"
    assert write_dicom_seg(blocks(), scan, {1: "spleen", 4: "liver"}, path, "m")
    assert not write_dicom_seg(np.zeros_like(blocks()), scan, {1: "spleen"}, path, "m")
    assert not path.exists()


def test_a_mask_of_one_slice_is_one_frame(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "series")
    mask = blocks()
    mask[:, :, :4] = 0
    write_dicom_seg(mask, scan, {4: "liver"}, tmp_path / "o.dcm", "m")
    dataset = check_frames(tmp_path / "o.dcm", mask, scan, [4])
    assert dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices == 2.5


@pytest.mark.parametrize(
    ("attributes", "keyword", "expected"),
    [
        ({"PatientName": None}, "PatientName", ""),
        ({"PatientID": None}, "PatientID", ""),
        ({"PatientBirthDate": None, "StudyTime": None, "ReferringPhysicianName": None}, "StudyTime", ""),
        ({"PatientSex": "U"}, "PatientSex", ""),
        ({"PatientBirthDate": "about 1950"}, "PatientBirthDate", ""),
        ({"SliceThickness": None}, "PatientID", "P-17"),
        ({"SpacingBetweenSlices": -1}, "PatientID", "P-17"),
        ({"SeriesNumber": None}, "SeriesNumber", 1000),
        ({"PatientName": "Doe John the patient"}, "PatientName", "Doe John the patient"),
        ({"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg"}, "PatientName", "Müller^Jörg"),
        (
            {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
            "PatientName",
            "Yamada^Tarou=山田^太郎",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_headers_of_the_wild_are_taken_without_a_word(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], attributes, keyword, expected
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scan = write_series(tmp_path / "series", **attributes)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_dicom_seg(blocks(), scan, {1: "Milz (größer)", 4: "脾"}, tmp_path / "o.dcm", "m")
    assert capfd.readouterr() == ("", "")
    dataset = check_frames(tmp_path / "o.dcm", blocks(), scan, [1, 4])
    assert (dataset[keyword].value or "") == expected
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["Milz (größer)", "脾"]


def test_slices_whose_orientation_differs_in_the_last_digits_make_one_object(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "series")
    dataset = pydicom.dcmread(scan.files[2])
    dataset.ImageOrientationPatient = [1, 1e-6, 0, -1e-6, 1, 0]
    dataset.save_as(scan.files[2])
    assert write_dicom_seg(blocks(), scan, {1: "spleen", 4: "liver"}, tmp_path / "o.dcm", "m")


def reverse_files(scan: Volume) -> Volume:
    return Volume(scan.array, scan.affine, scan.header, scan.path, scan.files[::-1])


def drop_a_file(scan: Volume) -> Volume:
    scan.files[2].unlink()
    return scan


def spoil_a_file(scan: Volume) -> Volume:
    scan.files[2].write_bytes(b"no DICOM " * 50)
    return scan


def crop(scan: Volume) -> Volume:
    return Volume(scan.array[:-1], scan.affine, scan.header, scan.path, scan.files)


def forget_files(scan: Volume) -> Volume:
    return Volume(scan.array, scan.affine, scan.header, scan.path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (reverse_files, "is not slice 1 of"),
        (drop_a_file, "is no readable slice of"),
        (spoil_a_file, "is no readable slice of"),
        (crop, "is not slice 1 of"),
        (forget_files, "has 6 slices and 0 DICOM files"),
    ],
)
def test_files_that_are_not_those_of_the_scan_are_refused(tmp_path: Path, spoil, sentence: str) -> None:
    scan = spoil(write_series(tmp_path / "series"))
    mask = blocks()[: scan.array.shape[0]]
    with pytest.raises(UserError, match=sentence) as error:
        write_dicom_seg(mask, scan, {1: "spleen", 4: "liver"}, tmp_path / "o.dcm", "m")
    assert str(scan.path) in str(error.value)
    assert not list(tmp_path.glob("*.dcm"))


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_series_without_its_uids_is_refused(tmp_path: Path, keyword: str, value: str | None) -> None:
    scan = write_series(tmp_path / "series", **{keyword: value})
    with pytest.raises(UserError, match=f"has no {keyword}"):
        write_dicom_seg(blocks(), scan, {1: "spleen", 4: "liver"}, tmp_path / "o.dcm", "m")


def test_a_header_that_highdicom_refuses_is_a_sentence_about_the_series(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "series", SOPClassUID="1.2.3.4")
    with pytest.raises(UserError, match="series lacks what a DICOM Segmentation needs"):
        write_dicom_seg(blocks(), scan, {1: "spleen", 4: "liver"}, tmp_path / "o.dcm", "m")
    assert not list(tmp_path.glob("*.dcm"))


def test_a_value_without_a_name_is_refused(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "series")
    with pytest.raises(UserError, match="holds the value 4, which no label has"):
        write_dicom_seg(blocks(), scan, {1: "spleen"}, tmp_path / "o.dcm", "m")


def test_a_mask_of_another_grid_is_refused(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "series")
    with pytest.raises(UserError, match="is 9x7x5, the scan 9x7x6"):
        write_dicom_seg(blocks()[:, :, :5], scan, {1: "spleen"}, tmp_path / "o.dcm", "m")


def test_without_highdicom_the_user_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = write_series(tmp_path / "series")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UserError, match=r"pip install 'medkd\[dicom\]'"):
        write_dicom_seg(blocks(), scan, {1: "spleen", 4: "liver"}, tmp_path / "o.dcm", "m")


@pytest.mark.realdata
def test_a_mask_of_many_organs_on_a_real_compressed_series(tmp_path: Path, real_data: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    for file in (real_data / "totalseg_ct_dicom" / "dicom").iterdir():
        dataset = pydicom.dcmread(file)  # made anonymous down to its UIDs
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
        dataset.save_as(folder / file.name)
    scan = read_scan(folder)
    label = nibabel.load(real_data / "totalseg_ct_dicom" / "example_seg_dicom.nii.gz")
    to_label = np.linalg.inv(label.affine) @ scan.affine
    assert np.allclose(np.abs(to_label[:3, :3]), np.eye(3), atol=1e-3)
    mask = np.asarray(label.dataobj).astype(np.uint8)
    mask = mask[tuple(slice(None, None, int(sign)) for sign in np.rint(np.diag(to_label)[:3]))]
    values = np.unique(mask)[1:].tolist()
    write_dicom_seg(mask, scan, {v: f"organ {v}" for v in values}, tmp_path / "o.dcm", "m")
    check_frames(tmp_path / "o.dcm", mask, scan, values)


@pytest.mark.realdata
def test_a_real_series_without_uids_is_refused(tmp_path: Path, real_data: Path) -> None:
    scan = read_scan(real_data / "totalseg_ct_dicom" / "dicom")
    with pytest.raises(UserError, match="has no SOPClassUID"):
        write_dicom_seg(np.ones(scan.array.shape, np.uint8), scan, {1: "all"}, tmp_path / "o.dcm", "m")


@pytest.mark.realdata
def test_frames_lie_where_those_of_another_writer_lie(tmp_path: Path, real_data: Path) -> None:
    folder = real_data / "dcmqi_ct_3slice_dicom"
    scan = read_scan(folder / "dicom")
    reference = pydicom.dcmread(folder / "liver.dcm")
    theirs = positions_of(reference)
    places = [tuple(pydicom.dcmread(f).ImagePositionPatient) for f in scan.files]
    mask = np.zeros(scan.array.shape, np.uint8)
    for frame, position in zip(reference.pixel_array, theirs, strict=True):
        mask[:, :, int(np.linalg.norm(np.subtract(places, position), axis=1).argmin())] = frame.T
    write_dicom_seg(mask, scan, {1: "Liver"}, tmp_path / "o.dcm", "m")
    dataset = check_frames(tmp_path / "o.dcm", mask, scan, [1])
    assert np.allclose(np.sort(positions_of(dataset), axis=0), np.sort(theirs, axis=0), atol=1e-3)


def positions_of(dataset: pydicom.Dataset) -> np.ndarray:
    groups = dataset.PerFrameFunctionalGroupsSequence
    return np.array([group.PlanePositionSequence[0].ImagePositionPatient for group in groups], float)
