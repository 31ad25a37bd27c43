"""The bundles' transforms: a file in, a mask on its own grid out."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from medkd.data import Preprocessing, volume_from_array
from medkd.errors import UserError
from medkd.inference import LabelScanGridd, PostprocessMaskd, PrepareScand, SaveMaskd, scan_files

# A bright box in a scan whose axes are stored the other way round, so that a mask that is not turned back is wrong.
AFFINE = np.array([[0.0, -2.0, 0.0, 30.0], [-2.0, 0.0, 0.0, 40.0], [0.0, 0.0, 5.0, 0.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture
def case(tmp_path: Path) -> dict[str, str]:
    truth = np.zeros((32, 32, 6), np.uint8)
    truth[4:14, 6:20, 1:4] = 1
    image = nibabel.Nifti1Image((truth * 100).astype(np.int16), AFFINE)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    nibabel.save(nibabel.Nifti1Image(truth, AFFINE), tmp_path / "label.nii.gz")
    return {"image": str(tmp_path / "scan.nii.gz"), "label": str(tmp_path / "label.nii.gz")}


@pytest.mark.parametrize(("channels", "count"), [("neighbours", 3), ("single", 1)])
def test_a_scan_comes_back_on_its_own_grid(channels, count, case, tmp_path):
    item = PrepareScand(Preprocessing(32, (0.0, 100.0), channels))(case)
    assert item["image"].shape == (1, count, 32, 32, 6)
    assert item["label"].shape == (1, 1, 32, 32, 6)
    assert item["name"] == "scan.nii.gz"
    logits = (item["image"][:, count // 2 :][:, :1] - 0.5) * 10
    labelled = LabelScanGridd()({**item, "pred": logits})
    assert torch.equal(labelled["pred"].float(), item["label"])
    SaveMaskd(tmp_path / "masks")(labelled)
    written, scan = (nibabel.load(path) for path in (tmp_path / "masks" / "scan_seg.nii.gz", case["image"]))
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(nibabel.load(case["label"]).dataobj))
    assert np.array_equal(written.affine, scan.affine) and written.get_data_dtype() == np.uint8


def test_label_maps_are_cleaned_label_by_label():
    mask = torch.zeros(1, 1, 12, 8, 3, dtype=torch.uint8)
    mask[..., 1:4, 1:6, :] = 1
    mask[..., 2, 3, 1] = 0  # a hole
    mask[..., 8, 1, 0] = 1  # a second piece
    mask[..., 9:11, 1:4, :] = 2
    cleaned = PostprocessMaskd([0, 1, 2])({"pred": mask, "scan": volume_from_array(mask[0, 0].numpy(), np.eye(4))})[
        "pred"
    ]
    expected = torch.zeros_like(mask)
    expected[..., 1:4, 1:6, :] = 1
    expected[..., 9:11, 1:4, :] = 2
    assert torch.equal(cleaned, expected) and mask[0, 0, 8, 1, 0] == 1


@pytest.mark.parametrize("compact", [[], [1]])
@pytest.mark.parametrize("thickness", [1.0, 9.0])
def test_a_compact_label_ends_at_a_neck_in_mm(compact, thickness):
    mask = torch.zeros(1, 1, 24, 11, 9, dtype=torch.uint8)
    mask[..., 1:10, 1:10, :] = mask[..., 14:21, 2:9, 1:8] = 1
    mask[..., 10:14, 5, :] = 1  # a wall of one voxel, nine high: a neck whatever the thickness of the slices
    scan = volume_from_array(mask[0, 0].numpy(), np.diag([1.0, 1.0, thickness, 1.0]))
    cleaned = PostprocessMaskd([0, 1], compact=compact)({"pred": mask, "scan": scan})["pred"]
    assert (cleaned[..., 1:10, 1:10, :] == 1).all()
    assert (cleaned[..., 16:21, :, :] == (0 if compact else mask[..., 16:21, :, :])).all()


def test_a_scan_without_label_has_none(case):
    item = PrepareScand(Preprocessing(size=32))({"image": case["image"]})
    assert "label" not in item


def test_a_label_that_does_not_belong_to_the_scan_is_refused(case, tmp_path):
    with pytest.raises(UserError, match=r"label.nii.gz"):
        PrepareScand(Preprocessing(size=32), label_values=[0, 2])(case)


@pytest.mark.parametrize("place", ["imagesTs", "."])
def test_the_scans_of_a_folder(place, tmp_path):
    inside = tmp_path / place
    inside.mkdir(exist_ok=True)
    for name in ("b.nii.gz", "a.nii", "._a.nii", "notes.txt"):
        (inside / name).touch()
    assert [Path(scan).name for scan in scan_files(tmp_path)] == ["a.nii", "b.nii.gz"]


def test_a_folder_without_scans_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no NIfTI scan"):
        scan_files(tmp_path / "nowhere")
