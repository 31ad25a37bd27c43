"""A new scan in, its mask out: grid, orientation, volume."""

from __future__ import annotations

import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

import medkd
from medkd.data import DecathlonTask, Preprocessing
from medkd.engines import SavedModel
from medkd.inference import Segmenter, evaluate, format_evaluation, segment_files

LABELS = {0: "background", 1: "spleen"}


class Threshold(nn.Module):
    """Says spleen where the slice itself is bright, so the right mask is known."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, 1:2] - 0.5) * 10


def segmenter(size: int = 64) -> Segmenter:
    return Segmenter(Threshold(), SavedModel({}, Preprocessing(size, (0.0, 100.0)), LABELS), device="cpu")


def write_scan(path, shape=(60, 50, 7), axcodes="RAS", spacing=(1.5, 1.5, 4.0), oblique=False):
    """A bright box off the middle; returns its mask."""
    mask = np.zeros(shape, bool)
    mask[10:30, 12:40, 2:5] = True
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-40, 20, -300)
    if oblique:
        angle = np.deg2rad(8)
        turn = np.eye(4)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        affine = turn @ affine
    image = nibabel.Nifti1Image((mask * 100).astype(np.int16), affine)
    orientations = nibabel.orientations
    start, end = orientations.io_orientation(affine), orientations.axcodes2ornt(axcodes)
    image = image.as_reoriented(orientations.ornt_transform(start, end))
    image.header.set_sform(image.affine, code=1)
    image.header.set_qform(image.affine, code=2)
    nibabel.save(image, path)
    return np.asarray(image.dataobj) > 0


@pytest.mark.parametrize(
    ("axcodes", "oblique"), [("RAS", False), ("LPS", False), ("SAR", False), ("PIL", False), ("LAS", True)]
)
def test_the_mask_lies_on_the_grid_of_the_scan(tmp_path, axcodes, oblique):
    truth = write_scan(tmp_path / "scan.nii.gz", axcodes=axcodes, oblique=oblique)
    result = segmenter()(tmp_path / "scan.nii.gz")
    result.save(tmp_path / "out" / "mask.nii.gz")
    scan, mask = nibabel.load(tmp_path / "scan.nii.gz"), nibabel.load(tmp_path / "out" / "mask.nii.gz")
    assert mask.shape == scan.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, scan.affine)
    for code in ("sform_code", "qform_code", "pixdim", "xyzt_units"):
        np.testing.assert_array_equal(mask.header[code], scan.header[code])
    found = np.asarray(mask.dataobj) == 1
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.97
    np.testing.assert_allclose(np.argwhere(found).mean(axis=0), np.argwhere(truth).mean(axis=0), atol=0.6)


def test_volume_in_millilitres(tmp_path):
    truth = write_scan(tmp_path / "scan.nii.gz", shape=(64, 64, 7))
    measurements = segmenter()(tmp_path / "scan.nii.gz").measurements
    # The matrix is the network's own, so the mask is exact: 20 x 28 x 3 voxels of 9 cubic millimetres.
    assert measurements["voxels"] == {"spleen": 20 * 28 * 3} == {"spleen": int(truth.sum())}
    assert measurements["volumes_ml"] == {"spleen": pytest.approx(20 * 28 * 3 * 9 / 1000)}


def test_one_bad_scan_does_not_stop_the_rest(tmp_path, capsys):
    write_scan(tmp_path / "good.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes(b"nothing")
    failures = segment_files(segmenter(), [tmp_path / "bad.nii.gz", tmp_path / "good.nii.gz"], tmp_path / "out")
    assert len(failures) == 1 and "bad.nii.gz" in failures[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good_seg.nii.gz", "measurements.json"]
    assert "good_seg.nii.gz: spleen" in capsys.readouterr().out


def test_evaluation_by_hand(tiny_task):
    """The block of the tiny task is 150 HU brighter than noise of 20, so a threshold finds it nearly exactly."""
    task = DecathlonTask.load(tiny_task)
    model = SavedModel({}, Preprocessing(40, (0.0, 150.0)), task.labels)
    report = evaluate(Segmenter(Threshold(), model, "cpu"), task.cases[:2], task.labels)
    assert [case["name"] for case in report["cases"]] == ["tiny_0", "tiny_1"]
    rows = [case["labels"]["block"] for case in report["cases"]]
    assert all(row["dice"] > 0.99 and row["true_volume_ml"] == pytest.approx(12 * 10 * 4 * 0.02) for row in rows)
    assert report["mean"]["block"]["dice"] == pytest.approx(np.mean([row["dice"] for row in rows]))
    assert report["standard_deviation"]["block"]["iou"] == pytest.approx(np.std([row["iou"] for row in rows], ddof=1))
    # A logit above one half asks for a slightly brighter voxel, so it finds no more than half of the window does.
    assert 0.98 < report["pooled_slices"]["block"]["dice"] <= 1
    assert "psnr" not in report
    text = format_evaluation(report, "runs/x")
    assert max(map(len, text.splitlines())) <= 80 and "tiny_1" in text


def test_evaluating_other_labels_is_refused(tiny_task):
    task = DecathlonTask.load(tiny_task)
    with pytest.raises(ValueError, match="must agree"):
        evaluate(segmenter(), task.cases, task.labels)


def test_the_package_is_light_until_it_works():
    code = "import sys, medkd, medkd.cli; print(sorted({'torch', 'monai', 'numpy', 'nibabel'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    assert medkd.Segmenter is Segmenter


@pytest.mark.realdata
def test_a_scan_from_elsewhere_gets_a_mask_on_its_grid(real_data, tmp_path):
    scan = real_data / "totalseg_example_ct" / "example_ct.nii.gz"
    assert segment_files(segmenter(), [scan], tmp_path) == []
    image, mask = nibabel.load(scan), nibabel.load(tmp_path / "example_ct_seg.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_array_equal(mask.affine, image.affine)
