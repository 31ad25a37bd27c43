from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from medkd.data.scan import read_scan
from medkd.errors import UserError
from medkd.inference.inputs import Scan, find_scans
from tests.data.dicom_series import ct_values, write_series


def touch(folder: Path, *names: str) -> None:
    """Make files of no matter what content."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def found(*inputs: Path, folder: Path) -> dict[str, str]:
    """Where the scans of each name lie in the folder."""
    return {scan.name: scan.path.relative_to(folder).as_posix() for scan in find_scans(inputs)}


TREES: dict[str, tuple[list[str], dict[str, str]]] = {
    "flat": (["b.nii.gz", "a.nii"], {"a": "a.nii", "b": "b.nii.gz"}),
    "every suffix": (
        ["a.nii.gz", "b.nii", "c.nrrd", "d.nhdr", "e.mha", "f.mhd", "f.raw", "G.NII.GZ", "h.txt", "i.png"],
        {"a": "a.nii.gz", "b": "b.nii", "c": "c.nrrd", "d": "d.nhdr", "e": "e.mha", "f": "f.mhd", "G": "G.NII.GZ"},
    ),
    "nested": (["p1/ct.nii.gz", "p2/x/ct.mha"], {"p1/ct": "p1/ct.nii.gz", "p2/x/ct": "p2/x/ct.mha"}),
    "dots in names": (["p1.v2/ct.1.2.nii.gz"], {"p1.v2/ct.1.2": "p1.v2/ct.1.2.nii.gz"}),
    "hidden": (["a.nii", "._a.nii", ".cache/b.nii", "__MACOSX/c.nii"], {"a": "a.nii"}),
    "results": (
        ["a.nii.gz", "a_seg.nii.gz", "b_seg.mha", "c.seg.nrrd", "c_segment.nii"],
        {
            "a": "a.nii.gz",
            "c_segment": "c_segment.nii",
        },
    ),
    "decathlon": (
        ["dataset.json", "imagesTs/t1.nii.gz", "imagesTs/._t1.nii.gz", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz"],
        {"t1": "imagesTs/t1.nii.gz"},
    ),
    "decathlon without test images": (
        ["dataset.json", "imagesTr/a.nii.gz", "labelsTr/a.nii.gz"],
        {"a": "imagesTr/a.nii.gz"},
    ),
    "BIDS": (
        [
            "dataset_description.json",
            "sub-01/anat/sub-01_T1w.nii.gz",
            "sub-01/anat/sub-01_T1w.json",
            "sub-01/anat/sub-01_mask.nii.gz",
            "sub-01/anat/sub-01_dseg.nii.gz",
            "sub-01/func/sub-01_bold.nii.gz",
            "sub-02/ses-1/ct/sub-02_ses-1_ct.nii.gz",
            "derivatives/sub-01/anat/sub-01_T1w.nii.gz",
        ],
        {
            "sub-01/anat/sub-01_T1w": "sub-01/anat/sub-01_T1w.nii.gz",
            "sub-02/ses-1/ct/sub-02_ses-1_ct": "sub-02/ses-1/ct/sub-02_ses-1_ct.nii.gz",
        },
    ),
    "folders that only look like BIDS": (
        ["sub-01/ct/a.nii.gz", "sub-02/b.nii.gz", "patient7/c.nii.gz"],
        {"patient7/c": "patient7/c.nii.gz", "sub-01/ct/a": "sub-01/ct/a.nii.gz", "sub-02/b": "sub-02/b.nii.gz"},
    ),
    "folders of masks": (
        ["a/ct.nii.gz", "a/segmentations/liver.nii.gz", "labelsTr/a.nii.gz"],
        {"a/ct": "a/ct.nii.gz"},
    ),
}


@pytest.mark.parametrize("case", TREES)
def test_images_in_a_folder(tmp_path: Path, case: str) -> None:
    files, expected = TREES[case]
    touch(tmp_path, *files)
    assert found(tmp_path, folder=tmp_path) == expected


def test_scans_come_in_the_order_of_the_inputs_and_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "x/b.nii", "x/a.nii", "c.nii")
    names = [scan.name for scan in find_scans([str(tmp_path / "x"), tmp_path / "c.nii"])]
    assert names == ["x/a", "x/b", "c"]


def test_files_of_one_name_are_named_by_their_folders(tmp_path: Path) -> None:
    touch(tmp_path, "p1/a/ct.nii.gz", "p2/a/ct.nii.gz", "p2/a/other.nii.gz")
    files = [tmp_path / "p1/a/ct.nii.gz", tmp_path / "p2/a/ct.nii.gz", tmp_path / "p2/a/other.nii.gz"]
    assert [scan.name for scan in find_scans(files)] == ["p1/a/ct", "p2/a/ct", "other"]


def test_a_scan_knows_the_files_of_its_series(tmp_path: Path) -> None:
    paths = [*write_series(tmp_path / "s" / "a", ct_values()), *write_series(tmp_path / "s" / "b", ct_values())]
    assert [scan.files for scan in find_scans([tmp_path])] == [tuple(paths[:4]), tuple(paths[4:])]


def test_of_several_folders_each_gives_its_name_to_its_scans(tmp_path: Path) -> None:
    touch(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz")
    write_series(tmp_path / "p3", ct_values())
    names = [scan.name for scan in find_scans([tmp_path / "p1", tmp_path / "p2", tmp_path / "p3"])]
    assert names == ["p1/ct", "p2/ct", "p3"]


@pytest.mark.parametrize("name", ["a.nii.gz", "a_seg.nii.gz", "a.dat", "a"])
def test_a_file_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    assert find_scans([tmp_path / name]) == [Scan(name.removesuffix(".nii.gz"), tmp_path / name)]


def test_a_series_is_named_like_its_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", ct_values(), uid="1.2.3")
    write_series(tmp_path / "p1" / "seg", ct_values(), modality="SEG")
    assert find_scans([tmp_path / "p1"]) == [Scan("p1", tmp_path / "p1", "1.2.3")]
    assert find_scans([tmp_path]) == [Scan("p1", tmp_path / "p1", "1.2.3")]


def test_several_series_of_a_folder_are_named_by_their_numbers(tmp_path: Path) -> None:
    for uid, number in (("1.1", 3), ("1.2", 10), ("1.3", 4), ("1.4", 4), ("1.5", None)):
        write_series(tmp_path / "p1" / "all", ct_values(), uid=uid, number=number, name=f"{uid}.{{}}".format)
    write_series(tmp_path / "p2", ct_values(), uid="1.6", number=3)
    assert {scan.name: scan.series for scan in find_scans([tmp_path])} == {
        "p1/all_series3": "1.1",
        "p1/all_series10": "1.2",
        "p1/all_series4-1": "1.3",
        "p1/all_series4-2": "1.4",
        "p1/all_series": "1.5",
        "p2": "1.6",
    }
    for scan in find_scans([tmp_path]):
        assert read_scan(scan.path, scan.series).array.shape == (6, 5, 4)


def test_series_and_images_of_one_tree(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", ct_values(), uid="1.2.3")
    touch(tmp_path, "p2/ct.nii.gz")
    assert found(tmp_path, folder=tmp_path) == {"p1": "p1", "p2/ct": "p2/ct.nii.gz"}


def test_a_list_names_scans_by_its_lines(tmp_path: Path) -> None:
    touch(tmp_path, "data/p1/ct.nii.gz", "data/p2/ct.nii.gz", "data/tree/x/a.mha", "other/b.nii", "my scan.nrrd")
    write_series(tmp_path / "data" / "p3", ct_values(), uid="1.2.3")
    lines = [
        "# the cohort",
        "p1/ct.nii.gz",
        "",
        "./p2/ct.nii.gz  ",
        "tree",
        "p3",
        "../other/b.nii",
        str(tmp_path / "my scan.nrrd"),
    ]
    (tmp_path / "data" / "list.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    scans = find_scans([tmp_path / "data" / "list.txt"])
    assert [scan.name for scan in scans] == ["p1/ct", "p2/ct", "tree/x/a", "p3", "b", "my scan"]
    assert all(scan.path.exists() for scan in scans)
    assert scans[3].series == "1.2.3"


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "store/p1/ct.nii", "cohort/p2/ct.nii", "cohort/p3/ct.nii")
    (tmp_path / "cohort" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "cohort" / "p2" / "self").symlink_to(".")
    (tmp_path / "cohort" / "p2" / "up").symlink_to("../..")
    (tmp_path / "store" / "back").symlink_to(tmp_path / "cohort")
    (tmp_path / "cohort" / "p3" / "loop").symlink_to("loop")
    (tmp_path / "cohort" / "p3" / "gone.nii").symlink_to("nowhere.nii")
    assert [scan.name for scan in find_scans([tmp_path / "cohort"])] == ["linked/p1/ct", "p2/ct", "p3/ct", "p3/gone"]
    # Searched for one patient, a link upwards must not lead to the others.
    assert [scan.name for scan in find_scans([tmp_path / "cohort" / "p2"])] == ["ct"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read every folder")
def test_a_locked_folder_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "locked/b.nii", "c.dcm")
    (tmp_path / "locked").chmod(0)
    try:
        assert "a" in found(tmp_path, folder=tmp_path)
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_what_is_damaged_is_a_scan_that_fails_when_it_is_read(tmp_path: Path) -> None:
    write_series(tmp_path / "good", ct_values())
    for path in write_series(tmp_path / "bad", ct_values()):
        path.write_bytes(path.read_bytes()[:150])
    for path in write_series(tmp_path / "half", ct_values())[2:]:
        path.write_bytes(path.read_bytes()[:600])
    touch(tmp_path, "text.nii.gz", "empty/notes.md")
    scans = {scan.name: scan for scan in find_scans([tmp_path, tmp_path / "empty"])}
    scans = {name.removeprefix(f"{tmp_path.name}/"): scan for name, scan in scans.items()}
    assert list(scans) == ["bad", "good", "half", "text", "empty"]
    for name, sentence in (
        ("bad", "000.dcm is cut off or damaged"),
        ("half", "002.dcm is cut off or damaged"),
        ("text", "is not a NIfTI file"),
        ("empty", "holds no DICOM series"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_scan(scans[name].path, scans[name].series)
    assert read_scan(scans["good"].path, scans["good"].series).array.shape == (6, 5, 4)


def refused(*inputs: Path) -> str:
    with pytest.raises(UserError) as caught:
        find_scans(inputs)
    return str(caught.value)


def test_two_scans_of_one_name_are_refused_with_both_paths(tmp_path: Path) -> None:
    touch(tmp_path, "p1/ct.nii.gz", "p2/ct.nii.gz", "p3/ct.nii.gz", "p3/ct.mha")
    sentence = refused(tmp_path / "p3")
    assert str(tmp_path / "p3/ct.nii.gz") in sentence
    assert str(tmp_path / "p3/ct.mha") in sentence
    assert "both be named 'ct': rename one" in sentence
    assert "both be named" in refused(tmp_path / "p1", tmp_path / "p1")


def test_a_path_that_does_not_exist_is_told_before_any_work(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii")
    (tmp_path / "list.txt").write_text("a.nii\n# b\nb.nii\n")
    assert refused(tmp_path / "a.nii", tmp_path / "b.nii") == f"{tmp_path / 'b.nii'} does not exist: check the path."
    assert "list.txt lists 'b.nii' in line 3, which does not exist" in refused(tmp_path / "list.txt")


def test_a_list_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00\x01")
    assert "list.txt cannot be read as a list" in refused(tmp_path / "list.txt")


def test_nothing_found_is_told(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("# nothing\n")
    touch(tmp_path / "x", "a_seg.nii.gz", "notes.md")
    write_series(tmp_path / "y", ct_values(), modality="SEG")
    assert refused(tmp_path / "x").startswith(f"{tmp_path / 'x'} holds no scan: give")
    assert refused(tmp_path / "x", tmp_path / "y").startswith(f"{tmp_path / 'x'}, {tmp_path / 'y'} holds no scan")
    assert "holds no scan" in refused(tmp_path / "list.txt")
    assert "an empty list of inputs holds no scan" in refused()


def test_a_broken_dataset_json_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"no": "images"}))
    touch(tmp_path, "a.nii")
    assert found(tmp_path, folder=tmp_path) == {"a": "a.nii"}


@pytest.mark.realdata
def test_the_scan_of_a_real_folder_is_found_beside_its_segmentations(real_data: Path) -> None:
    folder = real_data / "dcmqi_ct_3slice_dicom"
    (scan,) = find_scans([folder])
    assert (scan.name, scan.path) == ("dicom", folder / "dicom")
    assert read_scan(scan.path, scan.series).array.shape == (512, 512, 3)


@pytest.mark.realdata
def test_a_real_task_folder_gives_its_images(real_data: Path) -> None:
    scans = find_scans([real_data / "btcv_spleen"])
    assert len(scans) == 20
    assert {scan.path.parent.name for scan in scans} == {"imagesTr"}
