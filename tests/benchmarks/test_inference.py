"""What is timed is what it says, at a small size, and the page says what the figures say."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medkd.bundle import STUDENT, bundle_folder
from medkd.inference import Options, Segmenter

ROOT = Path(__file__).parents[2]
WAYS = ("openvino", "onnx", "torch", "monai slices", "monai")


@pytest.fixture
def inference(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("inference")


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("inference_page")


@pytest.fixture
def pipelines(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("monai_pipeline")


@pytest.mark.parametrize("slices", [16, 200])
def test_a_body_keeps_its_size_in_any_number_of_slices(inference, tmp_path, slices):
    facts = inference.draw_scan(tmp_path, 32, slices).facts()
    assert facts["shape"] == [32, 32, slices]
    assert np.allclose(facts["spacing"], [340.8 / 32, 340.8 / 32, 445 / slices], atol=1e-3)
    assert facts["dtype"] == "int16"
    assert facts["voxel_mb"] == 32 * 32 * slices * 2 / 1e6
    whole = inference.draw_scan(tmp_path, 32, 100).facts()
    assert facts["truth_ml"] == pytest.approx(whole["truth_ml"], rel=0.2)


def test_a_mask_is_compared_by_hand(inference, tmp_path):
    for name, end in (("truth", 4), ("mask", 3)):
        voxels = np.zeros((5, 5, 5), np.uint8)
        voxels[0, 0, 1:end] = 1
        nibabel.save(nibabel.Nifti1Image(voxels, np.diag([10.0, 10.0, 10.0, 1.0])), tmp_path / f"{name}.nii.gz")
    drawn = inference.Drawn(tmp_path / "scan.nii.gz", tmp_path / "truth.nii.gz")
    assert drawn.compare(tmp_path / "mask.nii.gz") == pytest.approx({"volume_ml": 2.0, "dice": 0.8})


def test_every_part_of_a_segmentation_is_timed(inference, page, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "THREADS", 1)
    scan = inference.draw_scan(tmp_path, 32, 16).scan
    mask = tmp_path / "mask.nii.gz"
    figures = inference.measure_backend(bundle_folder(STUDENT), scan, mask, "torch", 2)
    assert figures["backend"] == "torch"
    assert len(figures["rounds"]) == 2
    assert figures["best"] == min(figures["rounds"])
    assert figures["seconds"] == pytest.approx(sum(figures["rounds"]) / 2)
    assert figures["peak_mb"] == max(figures["peaks_mb"])
    assert len(figures["peaks_mb"]) == 4
    parts = figures["parts"]
    assert set(parts) == set(page.PARTS)
    assert all(seconds > 0 for seconds in parts.values())
    assert nibabel.load(mask).shape == (32, 32, 16)
    assert json.loads(mask.with_suffix(".json").read_text())["backend"] == "torch"


def test_a_stopwatch_gives_back_what_it_times(inference):
    watch = inference.Stopwatch()
    assert watch.call("one", lambda x, y: x - y)(5, y=3) == 2
    assert list(watch.steps("many", lambda n: iter([(n, np.zeros(2))] * 2))(7))[1][0] == 7
    assert set(watch.seconds) == {"one", "many"}


def test_a_process_of_its_own_returns_what_was_done(inference):
    assert inference.in_own_process(divmod, 7, 2) == (3, 1)


def test_neighbouring_slices_become_channels(pipelines):
    volume = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)
    assert pipelines.with_neighbours(volume)[:, 0, 0].tolist() == [[1, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_monai_s_pieces_segment_as_medkd_does(pipelines, tmp_path):
    model, bundle = tmp_path / "model", bundle_folder(STUDENT)
    shutil.copytree(bundle / "models", model)
    # MONAI has no transform that cuts a scan to the body as the shipped student wants it.
    description = json.loads((model / "model.json").read_text())
    description["preprocessing"]["field_of_view"] = "scan"
    (model / "model.json").write_text(json.dumps(description))
    scan = bundle / "sample" / "imagesTs" / "phantom.nii.gz"
    parts = pipelines.slice_pipeline(tmp_path, model)(scan)
    mask = nibabel.load(tmp_path / "phantom_seg.nii.gz")
    own = Segmenter.load(model, "torch", options=Options(largest_component=False, fill_holes=False))(scan)
    assert own.mask.any()
    assert np.array_equal(np.asarray(mask.dataobj), own.mask)
    assert np.allclose(mask.affine, own.affine)
    assert all(seconds > 0 for seconds in parts.values())


def test_the_volume_pipeline_is_that_of_the_tutorial(pipelines, page, tmp_path):
    voxels, affine = np.full((18, 16, 12), -1000, np.int16), np.diag([-3.0, 3.0, 4.0, 1.0])
    voxels[4:12, 4:12, 3:9] = 50
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "ct.nii.gz")
    pipeline = pipelines.volume_pipeline(tmp_path)
    inferer = pipeline.inferer
    assert sum(parameter.numel() for parameter in pipeline.network.parameters()) == 4_808_917
    assert (inferer.roi_size, inferer.sw_batch_size, inferer.overlap) == ((96, 96, 96), 4, 0.5)

    seen = []

    def foreground(patches: torch.Tensor) -> torch.Tensor:
        seen.append(patches.shape)
        return torch.cat([0.5 - patches, patches], dim=1)

    pipeline.network = foreground
    assert tuple(pipeline(tmp_path / "ct.nii.gz")) == page.MONAI_PARTS
    mask = nibabel.load(tmp_path / "ct_seg.nii.gz")
    assert seen == [(1, 1, 96, 96, 96)]
    assert np.allclose(mask.affine, affine)
    # 50 HU is 0.48 of the window, above the 0.25 at which the two logits are equal; resampling blurs the edges.
    found = np.asarray(mask.dataobj)
    assert found.shape == voxels.shape
    assert found[5:11, 5:11, 4:8].all()
    assert not found[voxels < 0].reshape(-1).mean() > 0.1


def test_the_background_wins_in_the_volume_pipeline(pipelines, tmp_path):
    network = pipelines.volume_pipeline(tmp_path).network
    with torch.no_grad():
        logits = network(torch.rand(1, 1, 32, 32, 32))
    assert not logits.argmax(dim=1).any()


def stored(folder: Path, openvino: dict[str, float]) -> None:
    """Invented figures, easy to divide."""
    machine = {"processor": "P", "threads": 2, "openvino": "1", "onnxruntime": "2", "torch": "3", "monai": "4"}
    recipe = {"size": 256, "epochs": 10}
    parts = dict.fromkeys(("load", "pre-process", "network", "post-process", "measure", "save", "other"), 0.5)
    monai_parts = {"load and pre-process": 2.0, "network": 5.0, "post-process": 2.0, "save": 1.0}

    def way(seconds: float, peak: float, parts: dict[str, float] = parts, **more: Any) -> dict[str, Any]:
        rounds = [seconds - 0.5, seconds, seconds + 0.5]
        return {
            "seconds": seconds, "best": seconds - 0.5, "rounds": rounds, "first": seconds + 1, "load_seconds": 0.5,
            "peak_mb": peak, "parts": parts, "volume_ml": 120.0, "dice": 0.75, **more,
        }  # fmt: skip

    ways = {
        "openvino": way(**openvino, cold=[4.0, 3.0]),
        "onnx": way(5.0, 700.0, cold=[6.0]),
        "torch": way(8.0, 800.0, cold=[9.0]),
        "monai slices": way(10.0, 1000.0, monai_parts),
        "monai": way(50.0, 2400.0, monai_parts),
    }
    scan = {
        "shape": [512, 512, 100], "spacing": [0.8, 0.8, 2.5], "dtype": "int16", "voxel_mb": 52.4, "file_mb": 26.0,
        "truth_ml": 130.0,
    }  # fmt: skip
    model = {"volumes": 16, "shape": [256, 256, 40], "recipe": recipe}
    points = [{"slices": 50, "file_mb": 13.0, "backend": "openvino", **way(1.0, 300.0)}]
    workers = [{"workers": 2, "threads": 1, "rounds": [8.0], "seconds": 8.0, "scans_per_minute": 120.0, "peak_mb": 250}]
    growth = {"points": points, "cohort": {"scans": 16, "shape": [256, 256, 40]}, "workers": workers}
    for part, content in (("backends", {"scan": scan, "ways": ways}), ("growth", growth)):
        content |= {"machine": machine, "model": model}
        (folder / f"inference_{part}.json").write_text(json.dumps(content))


def written(page: ModuleType, folder: Path) -> str:
    page.write_inference_page(folder / "page.md", folder)
    return (folder / "page.md").read_text(encoding="utf-8")


def test_the_page_by_hand(page, tmp_path):
    stored(tmp_path, {"seconds": 2.0, "peak": 480.0})
    text = written(page, tmp_path)
    assert "One CT of 512 x 512 x 100 voxels, 0.8 x 0.8 x 2.5 mm, int16, 52 MB in a `.nii.gz` of 26 MB." in text
    assert "P, 2 threads; openvino 1, onnxruntime 2, torch 3, monai 4." in text
    assert "10 epochs on some of 16 phantoms of 256 x 256 x 40" in text
    assert "The spleen of the CT has 130 ml" in text
    assert "| medkd, OpenVINO | 2.00 | 1.50 | 3 | 2.5 | 480 | 600 | 0.5 | 3.00 | 3.0 | 120 | 0.750 |" in text
    assert "| medkd, ONNX Runtime | 5.00 | 4.50 | 3 | 4, missed | 700 |  | 0.5 | 6.00 | 6.0 | 120 | 0.750 |" in text
    assert "| MONAI's pipeline | 50.00 | 49.50 | 3 |  | 2400 |  | 0.5 | 51.00 |  |  |  |" in text
    assert "| medkd, OpenVINO | 25.0 x | 0.20 | 5.0 x | 0.48 |" in text
    assert "| medkd, torch | 6.2 x, missed | 0.33, missed | 1.2 x | 0.80 |" in text
    assert "| medkd, torch |" + " 0.50 (14%) |" * 7 in text
    assert "| MONAI's pipeline | 2.00 (20%) | 5.00 (50%) | 2.00 (20%) | 1.00 (10%) |" in text
    assert "| 50 | 13 | 1.00 | 20.0 | 300 | 14% | 120 | 0.750 |" in text
    assert "| 2 | 1 | 8.0 | 120 | 250 |" in text


def test_openvino_beyond_what_is_asked_for_is_said_to_miss_it(page, tmp_path):
    stored(tmp_path, {"seconds": 2.6, "peak": 601.0})
    text = written(page, tmp_path)
    assert "| medkd, OpenVINO | 2.60 | 2.10 | 3 | 2.5, missed | 601 | 600, missed |" in text
    assert "| medkd, OpenVINO | 19.2 x, missed | 0.25, missed |" in text


def test_a_backend_that_was_not_installed_is_left_out(page, tmp_path):
    stored(tmp_path, {"seconds": 2.0, "peak": 480.0})
    file = tmp_path / "inference_backends.json"
    content = json.loads(file.read_text())
    del content["ways"]["onnx"]
    file.write_text(json.dumps(content))
    assert "ONNX Runtime |" not in written(page, tmp_path)


def test_the_page_shows_the_stored_figures(page, tmp_path):
    page.write_inference_page(tmp_path / "page.md", ROOT / "docs" / "results")
    shown = (ROOT / "docs" / "inference_speed.md").read_text(encoding="utf-8")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == shown


def test_the_stored_figures_follow_from_the_stored_rounds():
    results = ROOT / "docs" / "results"
    ways = json.loads((results / "inference_backends.json").read_text(encoding="utf-8"))["ways"]
    assert set(ways) == set(WAYS)
    points = json.loads((results / "inference_growth.json").read_text(encoding="utf-8"))["points"]
    assert [point["slices"] for point in points] == [50, 100, 200, 500, 1000]
    for row in [*ways.values(), *points]:
        assert row["seconds"] == np.median(row["rounds"])
        assert row["peak_mb"] == max(row["peaks_mb"])
