"""A new scan in, its mask out: grid, orientation, volume."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import replace
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import torch
from torch import nn

import medkd
from medkd.data import DecathlonTask, Preprocessing, read_image, volume_from_array
from medkd.engines import SavedModel
from medkd.errors import UserError
from medkd.inference import Options, Segmenter, evaluate, format_evaluation
from medkd.inference.backends import TorchBackend
from tests.data.dicom_series import ct_values, write_series

LABELS = {0: "background", 1: "spleen"}
ORDERS = [
    "".join(letters[axis][side] for axis, side in zip(order, sides, strict=True))
    for letters in [("LR", "PA", "IS")]
    for order in permutations(range(3))
    for sides in product((0, 1), repeat=3)
]


class Threshold(nn.Module):
    """Says spleen where the slice itself is bright, so the right mask is known."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, 1:2] - 0.5) * 10


class BrightOnTheRight(Threshold):
    """Sees only what lies in the lower half of the first axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        logits[:, :, logits.shape[2] // 2 :] = -10
        return logits


def segmenter(size: int = 64, network: nn.Module | None = None, **options: bool) -> Segmenter:
    model = SavedModel({"name": "threshold"}, Preprocessing(size, (0.0, 100.0)), LABELS, flips=True)
    return Segmenter(TorchBackend(network or Threshold(), "cpu"), model, "0" * 64, Options(**options))


def write_scan(path, shape=(60, 50, 7), axcodes="RAS", spacing=(1.5, 1.5, 4.0), degrees=0.0, parts=((10, 30),)):
    """Bright boxes off the middle; returns their mask."""
    mask = np.zeros(shape, bool)
    for start, stop in parts:
        mask[start:stop, 12:40, 2:5] = True
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = (-40, 20, -300)
    for first, second in ((0, 1), (1, 2)):
        angle, turn = np.deg2rad(degrees), np.eye(4)
        turn[np.ix_([first, second], [first, second])] = [
            [np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)],
        ]  # fmt: skip
        affine = turn @ affine
    # Noise that tells every voxel from every other.
    values = mask * 100 + np.random.default_rng(0).integers(-9, 9, shape)
    image = nibabel.Nifti1Image(values.astype(np.int16), affine)
    orientations = nibabel.orientations
    start, end = orientations.io_orientation(affine), orientations.axcodes2ornt(axcodes)
    turn = orientations.ornt_transform(start, end)
    image = image.as_reoriented(turn)
    image.header.set_sform(image.affine, code=1)
    image.header.set_qform(image.affine, code=2)
    image.header["descrip"], image.header["db_name"] = b"John Doe", b"DOE^JOHN"
    nibabel.save(image, path)
    return orientations.apply_orientation(mask, turn) > 0


@pytest.mark.parametrize("degrees", [0.0, 8.0, 25.0])
@pytest.mark.parametrize("axcodes", ORDERS)
def test_the_mask_is_that_of_the_same_volume_in_any_order_and_obliquely(tmp_path, axcodes, degrees):
    """Brought back to one order, the masks of all 48 agree voxel by voxel; the header is that of the scan."""
    truth = write_scan(tmp_path / "scan.nii.gz", axcodes=axcodes, degrees=degrees)
    result = segmenter()(tmp_path / "scan.nii.gz")
    result.save(tmp_path / "out" / "mask.nii.gz")
    scan, mask = nibabel.load(tmp_path / "scan.nii.gz"), nibabel.load(tmp_path / "out" / "mask.nii.gz")
    assert mask.shape == scan.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, scan.affine)
    for code in ("sform_code", "qform_code", "pixdim", "xyzt_units", "quatern_b", "quatern_c", "quatern_d", "srow_x"):
        np.testing.assert_array_equal(mask.header[code], scan.header[code])
    assert b"john" not in mask.header.binaryblock.lower()
    found = np.asarray(mask.dataobj) == 1
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.97

    write_scan(tmp_path / "ras.nii.gz", degrees=degrees)
    unturned = segmenter()(tmp_path / "ras.nii.gz")
    expected = nibabel.Nifti1Image(unturned.mask, unturned.affine)
    orientations = nibabel.orientations
    turn = orientations.ornt_transform(orientations.io_orientation(expected.affine), orientations.axcodes2ornt(axcodes))
    back = expected.as_reoriented(turn)
    np.testing.assert_array_equal(result.mask, np.asarray(back.dataobj))
    np.testing.assert_allclose(back.affine, mask.affine, atol=1e-4)


def test_volume_in_millilitres_and_the_rest_of_the_measurements(tmp_path):
    truth = write_scan(tmp_path / "scan.nii.gz", shape=(64, 64, 7))
    result = segmenter()(tmp_path / "scan.nii.gz")
    # The matrix is the network's own, so the mask is exact: 20 x 28 x 3 voxels of 9 cubic millimetres.
    inside = read_image(tmp_path / "scan.nii.gz").array[truth]
    assert result.measurements["labels"] == {
        "spleen": {
            "volume_ml": pytest.approx(20 * 28 * 3 * 9 / 1000), "voxels": 20 * 28 * 3, "length_mm": 12.0,
            "mean_hu": pytest.approx(inside.mean(), abs=0.01), "sd_hu": pytest.approx(inside.std(), abs=0.01),
            "touches_border": False, "components": 1,
        }
    }  # fmt: skip
    assert {key: result.measurements[key] for key in ("model", "model_sha256", "backend")} == {
        "model": "threshold", "model_sha256": "0" * 64, "backend": "torch",
    }  # fmt: skip
    assert result.measurements["seconds"] > 0 and result.measurements["peak_mb"] > 10


def test_the_largest_piece_is_kept_unless_told(tmp_path):
    write_scan(tmp_path / "scan.nii.gz", shape=(64, 64, 7), parts=((2, 8), (12, 34), (40, 41)))
    one = segmenter()(tmp_path / "scan.nii.gz")
    all_pieces = segmenter(largest_component=False)(tmp_path / "scan.nii.gz")
    assert one.measurements["labels"]["spleen"]["voxels"] == 22 * 28 * 3
    assert all_pieces.measurements["labels"]["spleen"]["voxels"] == (6 + 22 + 1) * 28 * 3
    assert [result.measurements["labels"]["spleen"]["components"] for result in (one, all_pieces)] == [3, 3]


@pytest.mark.parametrize("compact", [(), ("spleen",)])
def test_a_compact_label_ends_at_a_neck(compact, tmp_path):
    """Two blocks, joined by one row of voxels, which is less deep than either in mm."""
    mask = write_scan(tmp_path / "scan.nii.gz", shape=(64, 64, 7), parts=((2, 12), (20, 42)))
    scan = read_image(tmp_path / "scan.nii.gz")
    scan.array[12:20, 26, 3] = 100
    one = segmenter()
    one.model = replace(one.model, compact=compact)
    found = one(scan)
    assert found.measurements["labels"]["spleen"]["components"] == 1
    assert (found.mask[20:42] == mask[20:42]).all()
    assert found.mask[2:12].any() != bool(compact)
    one.options = Options(largest_component=False)
    assert one(scan).mask[2:12].any()


def test_flips_take_the_mean_of_four_directions(tmp_path):
    """A network that sees the right half only sees both with flips, each at half its logit, less what it denies."""
    write_scan(tmp_path / "scan.nii.gz", shape=(64, 64, 7), parts=((10, 30), (34, 54)))
    volume = read_image(tmp_path / "scan.nii.gz")
    model = segmenter(network=BrightOnTheRight(), flips=True)
    prepared = model.model.preprocessing.apply(volume)
    logits = (prepared.image - 0.5) * 10
    by_hand = np.empty_like(logits)
    # Of the four directions two see a pixel and two say -10, whatever its place.
    by_hand[:] = (2 * logits + 2 * -10) / 4
    np.testing.assert_allclose(model.predict(prepared)[0], by_hand, atol=1e-4)


def test_a_model_that_never_saw_a_flipped_slice_is_shown_none():
    model = SavedModel({"name": "threshold"}, Preprocessing(64), LABELS)
    with pytest.raises(UserError, match=r"not trained on flipped slices, .* leave --flips out"):
        Segmenter(TorchBackend(Threshold(), "cpu"), model, options=Options(flips=True))


def test_uncertainty_is_that_of_the_pixels_found(tmp_path):
    write_scan(tmp_path / "scan.nii.gz", shape=(64, 64, 7))
    model = segmenter(uncertainty=True)
    measured = model(tmp_path / "scan.nii.gz").measurements["labels"]["spleen"]["uncertainty"]
    logits = model.predict(model.model.preprocessing.apply(read_image(tmp_path / "scan.nii.gz")))[0].astype(float)
    probability = 1 / (1 + np.exp(-logits[logits > 0]))
    entropy = -(probability * np.log2(probability) + (1 - probability) * np.log2(1 - probability))
    assert measured == pytest.approx(entropy.mean(), abs=1e-4)
    assert "uncertainty" not in segmenter()(tmp_path / "scan.nii.gz").measurements["labels"]["spleen"]


def test_several_threads_get_what_one_gets(tmp_path):
    model, results = segmenter(), {}
    for index in range(4):
        write_scan(tmp_path / f"{index}.nii.gz", parts=((10 + index, 30),))
    threads = [
        threading.Thread(target=lambda index=index: results.update({index: model(tmp_path / f"{index}.nii.gz")}))
        for index in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(4):
        np.testing.assert_array_equal(results[index].mask, model(tmp_path / f"{index}.nii.gz").mask)


def test_an_array_is_segmented_as_its_file_is(tmp_path):
    write_scan(tmp_path / "scan.nii.gz", axcodes="PSL", degrees=8.0)
    file = read_image(tmp_path / "scan.nii.gz")
    result = segmenter()(volume_from_array(file.array, file.affine))
    np.testing.assert_array_equal(result.mask, segmenter()(file).mask)
    result.save(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(nibabel.load(tmp_path / "mask.nii.gz").affine, file.affine, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "affine", "sentence"),
    [
        (np.zeros((4, 4)), np.eye(4), "is 2-D"),
        (np.full((4, 4, 4), np.nan), np.eye(4), "64 NaN"),
        (np.zeros((4, 4, 4)), np.eye(4), "single value"),
        (np.arange(64).reshape(4, 4, 4), np.zeros((4, 4)), "cannot be inverted"),
        (np.arange(64).reshape(4, 4, 4), np.eye(3), "give 4x4"),
        (np.zeros((4, 4, 4), complex), np.eye(4), "complex128 voxels"),
    ],
)
def test_an_array_that_is_no_scan_is_told(array, affine, sentence):
    with pytest.raises(ValueError, match=sentence):
        volume_from_array(array, affine)


@pytest.mark.parametrize(("modality", "window", "is_refused"), [("CT", True, 0), ("MR", True, 1), ("MR", False, 0)])
def test_a_model_of_hounsfield_units_takes_ct_only(modality, window, is_refused, tmp_path):
    write_series(tmp_path / "series", ct_values(), modality=modality)
    model = segmenter()
    if not window:
        model.model = SavedModel({}, Preprocessing(64, None), LABELS)
    [(scan, result)] = model.cohort([tmp_path / "series"])
    assert scan.name == "series" and isinstance(result, ValueError) == bool(is_refused)
    assert not is_refused or str(result).endswith("is MR and the model was trained on HU: give CT.")


class FailsOnce(Threshold):
    """Breaks at its second scan."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 2:
            raise RuntimeError("out of luck")
        return super().forward(x)


def test_a_cohort_goes_on_after_any_error(tmp_path):
    for name in "abc":
        write_scan(tmp_path / f"{name}.nii.gz", shape=(60, 50, 2), parts=())
    results = [result for _, result in segmenter(network=FailsOnce()).cohort([tmp_path])]
    assert [isinstance(result, ValueError) for result in results] == [False, True, False]
    assert str(results[1]) == f"{tmp_path / 'b.nii.gz'} failed inside (RuntimeError: out of luck)."


@pytest.mark.parametrize("labels", [{0: "background", 2: "tumour"}, {1: "liver"}, {0: "background"}])
def test_labels_with_a_gap_are_refused(labels):
    with pytest.raises(ValueError, match="without a gap"):
        SavedModel({}, Preprocessing(64), labels)


def test_a_mask_has_the_same_bytes_each_time(tmp_path):
    write_scan(tmp_path / "scan.nii.gz")
    result = segmenter()(tmp_path / "scan.nii.gz")
    result.save(tmp_path / "a_seg.nii.gz")
    result.save(tmp_path / "elsewhere" / "b_seg.nii.gz")
    assert (tmp_path / "a_seg.nii.gz").read_bytes() == (tmp_path / "elsewhere" / "b_seg.nii.gz").read_bytes()
    result.save(tmp_path / "c_seg.nii")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "c_seg.nii").dataobj), result.mask)


def test_evaluation_by_hand(tiny_task):
    """The block of the tiny task is 150 HU brighter than noise of 20, so a threshold finds it nearly exactly."""
    task = DecathlonTask.load(tiny_task)
    model = SavedModel({}, Preprocessing(40, (0.0, 150.0)), task.labels)
    report = evaluate(Segmenter(TorchBackend(Threshold(), "cpu"), model), task.cases[:2], task.labels)
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


def test_segmenting_needs_no_torch_where_another_library_runs_the_network():
    code = (
        "import sys; import medkd.inference.segmenter, medkd.inference.cohort, medkd.inference.preview;"
        "import medkd.inference.cohort_report, medkd.inference.backends.onnx_backend, medkd.data.dicom;"
        "print(sorted({'torch', 'monai', 'matplotlib', 'pandas', 'itk', 'highdicom'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.realdata
def test_a_scan_from_elsewhere_gets_a_mask_on_its_grid(real_data, tmp_path):
    scan = real_data / "totalseg_example_ct" / "example_ct.nii.gz"
    segmenter()(scan).save(tmp_path / "mask.nii.gz")
    image, mask = nibabel.load(scan), nibabel.load(tmp_path / "mask.nii.gz")
    assert mask.shape == image.shape
    np.testing.assert_array_equal(mask.affine, image.affine)
