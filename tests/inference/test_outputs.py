"""The files of one scan: all of them in their places, or none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from medkd.data.volume import Volume, nifti_header
from medkd.errors import UserError
from medkd.inference import dicom_seg
from medkd.inference.outputs import new_workspace, output_names, publish, remove_workspaces, withdraw, write_outputs
from medkd.inference.segmentation import Segmentation

SEGMENTER = SimpleNamespace(
    model=SimpleNamespace(labels={0: "background", 1: "spleen"}, preprocessing=SimpleNamespace(window=(0.0, 100.0)))
)


def result(files: tuple[Path, ...] = ()) -> Segmentation:
    array = np.zeros((16, 14, 4), np.int16)
    array[4:10, 5:9, 1:3] = 80
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    scan = Volume(array, affine, nifti_header(array.shape, affine), Path("ct"), files)
    return Segmentation((array > 0).astype(np.uint8), affine, scan, {"model": "unet_s1"})


def names_in(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}


def test_outputs_are_named_after_the_scan():
    assert output_names("sub-01/ct.v2") == {
        "mask": "sub-01/ct.v2_seg.nii.gz",
        "preview": "sub-01/ct.v2_preview.png",
        "dicom_seg": "sub-01/ct.v2_seg.dcm",
    }


@pytest.mark.parametrize("name", ["", ".", "..", "../ct", "a/../../ct", "/etc/ct"])
def test_a_name_that_leaves_the_folder_is_refused(name):
    with pytest.raises(UserError, match="is no name"):
        output_names(name)


@pytest.mark.parametrize(
    ("preview", "dicom", "files", "expected"),
    [
        (False, False, (), ("mask",)),
        (True, True, (), ("mask", "preview")),
        (True, False, (Path("1.dcm"),), ("mask", "preview")),
        (False, True, (Path("1.dcm"),), ("mask", "dicom_seg")),
    ],
)
def test_what_is_asked_for_is_written(preview, dicom, files, expected, monkeypatch, tmp_path):
    def write_dicom_seg(mask, scan, labels, path, model_name):
        assert (scan.files, labels[1], model_name) == (files, "spleen", "unet_s1")
        path.write_bytes(mask.tobytes())
        return True

    monkeypatch.setattr(dicom_seg, "write_dicom_seg", write_dicom_seg)
    made = result(files)
    workspace = new_workspace(tmp_path, "sub/ct")
    written, note = write_outputs(SEGMENTER, made, "sub/ct", workspace, preview=preview, dicom_seg=dicom)
    assert written == expected and note is None
    with publish(workspace, written, "sub/ct", tmp_path):
        pass
    assert names_in(tmp_path) == {output_names("sub/ct")[kind] for kind in expected}
    mask = nibabel.load(tmp_path / "sub" / "ct_seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(mask.dataobj), made.mask)
    umask_file = tmp_path / "any"
    umask_file.touch()
    assert (tmp_path / "sub" / "ct_seg.nii.gz").stat().st_mode == umask_file.stat().st_mode


def test_an_empty_mask_has_no_dicom_seg(monkeypatch, tmp_path):
    monkeypatch.setattr(dicom_seg, "write_dicom_seg", lambda *_: False)
    workspace = new_workspace(tmp_path, "ct")
    made = result((Path("1.dcm"),))
    assert write_outputs(SEGMENTER, made, "ct", workspace, preview=False, dicom_seg=True) == (("mask",), None)


def test_a_series_that_cannot_have_a_dicom_seg_keeps_its_mask(monkeypatch, tmp_path):
    def refuse(*_):
        raise UserError("1.dcm has no SOPClassUID: export the series with it.")

    monkeypatch.setattr(dicom_seg, "write_dicom_seg", refuse)
    workspace = new_workspace(tmp_path, "ct")
    made = result((Path("1.dcm"),))
    written, note = write_outputs(SEGMENTER, made, "ct", workspace, preview=False, dicom_seg=True)
    assert written == ("mask",)
    assert note == "no DICOM SEG: 1.dcm has no SOPClassUID: export the series with it."


def test_the_mask_comes_last_and_an_earlier_one_goes_first(tmp_path):
    for name in output_names("ct").values():
        (tmp_path / name).write_text("earlier")
    workspace = new_workspace(tmp_path, "ct")
    for name in ("ct_seg.nii.gz", "ct_preview.png"):
        (workspace / name).write_text("new")
    with publish(workspace, ("mask", "preview"), "ct", tmp_path):
        assert (tmp_path / "ct_preview.png").read_text() == "new"
        assert not (tmp_path / "ct_seg.nii.gz").exists() and not (tmp_path / "ct_seg.dcm").exists()
    assert (tmp_path / "ct_seg.nii.gz").read_text() == "new"
    assert names_in(tmp_path) == {"ct_seg.nii.gz", "ct_preview.png"} and not workspace.exists()


@pytest.mark.parametrize("error", [UserError("the manifest is full"), KeyboardInterrupt()])
def test_what_is_not_noted_is_not_there(error, tmp_path):
    workspace = new_workspace(tmp_path, "sub/ct")
    for name in ("ct_seg.nii.gz", "ct_preview.png"):
        (workspace / name).write_text("new")
    with pytest.raises(type(error)), publish(workspace, ("mask", "preview"), "sub/ct", tmp_path):
        assert names_in(tmp_path) - {f"{workspace.name}/ct_seg.nii.gz"} == {"sub/ct_preview.png"}
        raise error
    assert names_in(tmp_path) == set() and not workspace.exists()


@pytest.mark.parametrize("name", ["ct/mask", "ct"])
def test_something_in_the_way_leaves_nothing_of_ours(name, tmp_path):
    """A file where the folder should be, and a folder where the mask should be."""
    if name == "ct":
        (tmp_path / "ct_seg.nii.gz").mkdir()
    else:
        (tmp_path / "ct").write_text("theirs")
    before = sorted(tmp_path.rglob("*"))
    workspace = new_workspace(tmp_path, name)
    for path in list(output_names(name).values())[:2]:
        (workspace / Path(path).name).write_text("new")
    with pytest.raises(OSError), publish(workspace, ("mask", "preview"), name, tmp_path):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_withdrawing_removes_the_files_of_one_scan(tmp_path):
    for name in ("ct", "ct2", "sub/ct"):
        for path in output_names(name).values():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).touch()
    withdraw("ct", tmp_path)
    withdraw("never", tmp_path)
    assert names_in(tmp_path) == {*output_names("ct2").values(), *output_names("sub/ct").values()}


def test_workspaces_are_removed_of_the_named_scans_alone(tmp_path):
    mine = [new_workspace(tmp_path, name) for name in ("a", "a", "sub/b", "x" * 1000, "\udcff")]
    (mine[0] / ".writing-12345678-a_seg.nii.gz").touch()
    theirs = new_workspace(tmp_path, "c")
    others = [
        tmp_path / name
        for name in (
            ".writing-12345678-a",
            mine[0].name.replace(".writing-", ".writing-1"),
            mine[0].name.removeprefix("."),
            f"{mine[0].name}-b",
        )
    ]
    for folder in others:
        folder.mkdir()
    remove_workspaces(tmp_path, ["a", "sub/b", "x" * 1000, "\udcff", "d"])
    assert set(tmp_path.iterdir()) == {theirs, *others}
    assert mine[0].name.startswith(".writing-")


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*nowhere"):
        new_workspace(tmp_path / "nowhere", "ct")
