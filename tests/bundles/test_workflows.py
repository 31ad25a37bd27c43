"""Training, distilling, evaluating and inferring with the bundles' configs, as MONAI's own users run them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.data import DecathlonTask
from medkd.engines import SavedModel
from medkd.inference import Segmenter, evaluate


def run(bundle: Path, *configs: str, kind: str = "train", **overrides: Any) -> ConfigWorkflow:
    """Run a bundle's configs as the Model Zoo's own tests do: initialise, check the properties, run, finalise."""
    workflow = ConfigWorkflow(
        config_file=[str(bundle / "configs" / f"{config}.yaml") for config in configs],
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=str(bundle / "configs" / "logging.conf"),
        workflow_type=kind,
        bundle_root=str(bundle),
        **overrides,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    workflow.finalize()
    return workflow


@pytest.fixture(scope="module")
def teacher(phantoms, small, tmp_path_factory) -> Path:
    """A run of the teacher's bundle."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    run(bundle_folder(TEACHER), "train", dataset_dir=str(phantoms), output_dir=str(out), size=64, **small)
    return out


@pytest.fixture(scope="module")
def trained(bundle, phantoms, small, tmp_path_factory) -> Path:
    """A run of a bundle's ``train.yaml``, its model in a folder of its own."""
    out = tmp_path_factory.mktemp("runs") / bundle.name
    overrides = {"output_dir": str(out / "eval"), "ckpt_dir": str(out / "models"), "size": 64, **small}
    run(bundle, "train", dataset_dir=str(phantoms), **overrides)
    return out


def tags(run_folder: Path) -> set[str]:
    accumulator = EventAccumulator(str(run_folder / "tensorboard"))
    accumulator.Reload()
    return set(accumulator.Tags()["scalars"])


def test_training_keeps_model_curves_and_tensorboard_apart(trained):
    assert sorted(file.name for file in (trained / "models").iterdir()) == ["model.json", "model.pt", "splits.json"]
    assert {file.name for file in (trained / "eval").iterdir()} == {"checkpoint.pt", "history.json", "tensorboard"}
    assert tags(trained / "eval") >= {"epoch_loss", "val_dice"}


@pytest.mark.parametrize(
    ("name", "config"),
    [(TEACHER, "train"), (TEACHER, "pretrain"), (TEACHER, "distill"), (STUDENT, "train"), (STUDENT, "distill")],
)
def test_no_two_workers_augment_alike(name, config, teacher, phantoms, small, tmp_path):
    parser = ConfigParser()
    parser.read_config(bundle_folder(name) / "configs" / f"{config}.yaml")
    parser.update({**small, "dataset_dir": str(phantoms), "output_dir": str(tmp_path), "augment": True})
    parser.update({"train::sampler": "$[9] * 16", "train::dataloader::num_workers": 4, "batch_size": 2})
    if config == "distill":
        parser["teacher_run"] = str(teacher)
    parser.get_parsed_content("train::handlers::0")(SimpleNamespace(state=SimpleNamespace(epoch=1)))
    batches = parser.get_parsed_content("train::dataloader")
    assert len({image.numpy().tobytes() for batch in batches for image in batch["image"]}) > 12


def test_distilling_with_both_bundles(bundle, teacher, phantoms, small, tmp_path):
    overrides = {"output_dir": str(tmp_path), "teacher_run": str(teacher), **small}
    run(bundle, "distill", dataset_dir=str(phantoms), **overrides)
    rows = json.loads((tmp_path / "history.json").read_text())
    assert len(rows) == 2 and {"segmentation", "pmd", "bottleneck", "val_dice"} < set(rows[0])
    assert tags(tmp_path) >= {"epoch_loss", "epoch_pmd", "epoch_bottleneck", "val_dice"}


def test_a_student_learns_from_volumes_that_only_the_teacher_has_labelled(teacher, phantoms, small, tmp_path):
    labelled, taught = (
        run(
            bundle_folder(STUDENT), "distill", teacher_run=str(teacher), dataset_dir=str(phantoms),
            output_dir=str(tmp_path / str(unlabelled)), unlabelled=unlabelled, **small,
        ).parser.get_parsed_content("train::dataset")
        for unlabelled in (False, True)
    )  # fmt: skip
    task = DecathlonTask.load(phantoms)
    student = [case.name for case in task.select(task.split().student)]
    assert [volume.name for volume in labelled.volumes] == student
    added = taught.volumes[len(student) :]
    assert [volume.name for volume in added] == [case.name for case in task.without_labels(task.split())] != []
    assert all(volume.label.shape == volume.image.shape for volume in added)


@pytest.mark.parametrize("configs", [("evaluate",), ("train", "evaluate")])
def test_evaluating_gives_the_dice_of_medkd_evaluate(configs, bundle, trained, phantoms, tmp_path):
    models = trained / "models"
    overrides = {"output_dir": str(tmp_path), "ckpt_dir": str(models), "dataset_dir": str(phantoms)}
    # Also from another process, which a worker is.
    overrides["validate#dataloader#num_workers"] = 1
    run(bundle, *configs, kind="eval" if len(configs) == 1 else "train", **overrides)
    with (tmp_path / "val_dice_raw.csv").open() as stream:
        measured = {row["filename"]: float(row["mean"]) for row in csv.DictReader(stream)}
    task = DecathlonTask.load(phantoms)
    report = evaluate(Segmenter.load(models, "torch"), task.part("test", file=models / "splits.json"), task.labels)
    ours = {f"{case['name']}.nii.gz": case["labels"]["spleen"]["dice"] for case in report["cases"]}
    assert measured == pytest.approx(ours, abs=1e-5)


def test_a_mask_without_an_organ_counts_against_a_model_in_both_evaluations(trained, bundle, phantoms, tmp_path):
    task = Path(shutil.copytree(phantoms, tmp_path / "task"))
    label = task / "labelsTr" / "spleen_1.nii.gz"
    image = nibabel.load(label)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), label)
    overrides = {"output_dir": str(tmp_path), "ckpt_dir": str(trained / "models"), "dataset_dir": str(task)}
    run(bundle, "train", "evaluate", **overrides, part="all")
    with (tmp_path / "val_dice_raw.csv").open() as stream:
        measured = [float(row["mean"]) for row in csv.DictReader(stream)]
    opened = DecathlonTask.load(task)
    report = evaluate(Segmenter.load(trained / "models", "torch"), opened.cases, opened.labels)
    ours = [case["labels"]["spleen"]["dice"] for case in report["cases"]]
    assert measured == pytest.approx(ours, abs=1e-5) and ours[0] in (0.0, 1.0)


def test_nobody_evaluates_on_unknown_cases_without_saying_so(bundle, phantoms, tmp_path):
    overrides = {"output_dir": str(tmp_path), "dataset_dir": str(phantoms)}
    with pytest.raises(RuntimeError) as raised:
        run(bundle, "train", "evaluate", **overrides)
    assert "part all" in str(raised.getrepr(chain=True))


def test_another_recipe_does_not_go_on_in_the_same_folder(trained, phantoms, small, tmp_path):
    folder = shutil.copytree(trained, tmp_path / "copy")
    bundle = bundle_folder(TEACHER if trained.name == TEACHER else STUDENT)
    overrides = {"output_dir": str(folder / "eval"), "ckpt_dir": str(folder / "models"), "dataset_dir": str(phantoms)}
    before = (folder / "models" / "model.json").read_text()
    for change in ({"size": 32}, {"size": 64, "optimizer::lr": 0.5}, {"size": 64, "split_seed": 7}):
        with pytest.raises(RuntimeError) as raised:
            run(bundle, "train", **overrides, **{**small, "epochs": 3}, **change)
        assert "is of another recipe" in str(raised.getrepr(chain=True))
    assert (folder / "models" / "model.json").read_text() == before
    run(bundle, "train", **overrides, **{**small, "epochs": 3}, size=64)
    assert len(json.loads((folder / "eval" / "history.json").read_text())) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_inference_writes_the_masks_of_medkd_infer(workers, bundle, trained, phantoms, tmp_path):
    models = trained / "models"
    overrides = {"ckpt_dir": str(models), "dataset_dir": str(phantoms), "output_dir": str(tmp_path)}
    run(bundle, "inference", kind="infer", **overrides, **{"dataloader#num_workers": workers})
    segmenter = Segmenter.load(models, "torch")
    scans = sorted((phantoms / "imagesTs").iterdir())
    assert len(scans) == 2
    for scan in scans:
        mask = nibabel.load(tmp_path / scan.name.replace(".nii.gz", "_seg.nii.gz"))
        assert np.array_equal(np.asarray(mask.dataobj), segmenter(scan).mask)
        assert np.allclose(mask.affine, nibabel.load(scan).affine)


def test_the_default_inference_segments_the_sample_with_the_shipped_weights(bundle, tmp_path):
    """Some of the phantom's spleen is found, though the weights were trained on real scans."""
    run(bundle, "inference", kind="infer", output_dir=str(tmp_path))
    assert np.asarray(nibabel.load(tmp_path / "phantom_seg.nii.gz").dataobj).any()


def test_files_named_one_by_one_as_in_the_zoos_own_test(bundle, small, tmp_path):
    """Ten volumes of random numbers without a ``dataset.json``, trained on for an epoch and evaluated."""
    random = np.random.default_rng(0)
    for number in range(10):
        for part in ("image", "label"):
            voxels = random.integers(0, 2, (32, 32, 8)).astype(np.int8)
            nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{part}_{number}.nii.gz")
    # In a copy of the bundle with nothing said of folders: what was trained is evaluated and used.
    bundle = Path(shutil.copytree(bundle, tmp_path / "models" / bundle.name))
    overrides = {
        "dataset_dir": str(tmp_path),
        "images": "$list(sorted(glob.glob(@dataset_dir + '/image_*.nii.gz')))",
        "labels": "$list(sorted(glob.glob(@dataset_dir + '/label_*.nii.gz')))",
        "train#dataloader#num_workers": 1,
        "validate#dataloader#num_workers": 1,
    }
    run(bundle, "train", **overrides, **small, size=32)
    run(bundle, "train", "evaluate", **overrides)
    assert len((bundle / "eval" / "val_dice_raw.csv").read_text().splitlines()) == 1 + 2  # a quarter of ten, rounded
    run(bundle, "inference", kind="infer", **{name: overrides[name] for name in ("dataset_dir", "images")})
    assert len(list((bundle / "eval").glob("*_seg.nii.gz"))) == 10
    assert SavedModel.read(bundle / "models").preprocessing.size == 160, "the shipped model stays"


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ("one.nii.gz", "give a list"),
        ([], "give a list"),
        (["a/ct.nii", "b/ct.nii"], "would both write"),
    ],
)
def test_scans_that_cannot_all_be_written_are_refused(images, sentence, bundle, tmp_path):
    with pytest.raises(RuntimeError) as raised:
        run(bundle, "inference", kind="infer", images=images, output_dir=str(tmp_path))
    assert sentence in str(raised.getrepr(chain=True))


def test_mlflow_is_one_more_config_file(phantoms, small, tmp_path):
    overrides = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path), "size": 32, **small}
    configs = ("train", "mlflow")
    files = [str(bundle_folder(STUDENT) / "configs" / f"{config}.yaml") for config in configs]
    workflow = ConfigWorkflow(files, logging_file=False, **overrides)
    for engine in ("train", "validate"):
        names = [handler["_target_"] for handler in workflow.parser[f"{engine}::handlers"]]
        assert "monai.handlers.TensorBoardStatsHandler" in names and names[-1] == "monai.handlers.MLFlowHandler"
    mlflow = pytest.importorskip("mlflow", reason="MLflow is an extra: nothing to write to")
    run(bundle_folder(STUDENT), *configs, **overrides)
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlruns.db")
    (found,) = client.search_runs([client.get_experiment_by_name("medkd").experiment_id])
    assert set(found.data.metrics) >= {"epoch_loss", "val_dice"}


@pytest.mark.parametrize("device", ["cpu", "$torch.device('cpu')"])
def test_the_device_is_a_word_or_an_expression(device, phantoms, small, tmp_path):
    overrides = {"dataset_dir": str(phantoms), "output_dir": str(tmp_path), "size": 32, **small, "epochs": 1}
    run(bundle_folder(STUDENT), "train", device=device, **overrides)
    assert (tmp_path / "model.pt").is_file()


def command(out: Path, phantoms: Path, small: dict[str, Any]) -> list[str]:
    config = bundle_folder(STUDENT) / "configs" / "train.yaml"
    words = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(config), "--output_dir", str(out)]
    options = {"dataset_dir": str(phantoms), "size": 64, **small, "epochs": 30, "augment": True}
    return words + [word for name, value in options.items() for word in (f"--{name}", str(value))]


def without_seconds(out: Path) -> list[dict[str, float]]:
    rows = json.loads((out / "history.json").read_text())
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_a_killed_training_goes_on_as_if_nothing_had_been(phantoms, small, tmp_path):
    subprocess.run(command(tmp_path / "whole", phantoms, small), check=True, capture_output=True, cwd=tmp_path)
    killed = tmp_path / "killed"
    process = subprocess.Popen(command(killed, phantoms, small), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (killed / "checkpoint.pt").is_file():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(without_seconds(killed)) < 30
    subprocess.run(command(killed, phantoms, small), check=True, capture_output=True, cwd=tmp_path)
    assert without_seconds(killed) == without_seconds(tmp_path / "whole")
