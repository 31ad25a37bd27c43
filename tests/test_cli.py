"""The command line: what it prints, what it refuses and how."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medkd.cli import main
from medkd.data import Preprocessing, Split
from medkd.engines import SavedModel
from medkd.engines.saved_model import save_tensors
from medkd.networks import create_network, network_definition
from medkd.run_folder import WEIGHTS_FILE


@pytest.fixture
def task(tiny_task, tmp_path) -> Path:
    """A copy of the tiny task that a test may spoil."""
    return Path(shutil.copytree(tiny_task, tmp_path / "task"))


@pytest.fixture
def model(tmp_path) -> Path:
    """An untrained model of the tiny task's label."""
    network = create_network("unet_s1", channels=(4, 8))
    labels = {0: "background", 1: "block"}
    SavedModel(network_definition(network), Preprocessing(size=32), labels).write_description(tmp_path / "model")
    save_tensors(tmp_path / "model" / WEIGHTS_FILE, network.state_dict())
    Split(["tiny_0", "tiny_1"], ["tiny_0"], ["tiny_2"], ["tiny_3", "tiny_4"]).write(tmp_path / "model" / "splits.json")
    return tmp_path / "model"


def train_words(task: Path, out: Path, *more: str) -> list[str]:
    words = ["train", "--data", str(task), "--network", "unet_s1", "--out", str(out), "--size", "32"]
    return [*words, "--epochs", "1", "--batch_size", "4", "--network_def::channels", "[4, 8]", *more]


def volume(shape: tuple[int, ...] = (40, 36, 6), value: float | None = None, nan: bool = False) -> nibabel.Nifti1Image:
    array = np.random.default_rng(0).normal(0, 50, shape).astype(np.float32)
    if value is not None:
        array[:] = value
    if nan:
        array[0, 0, 0] = np.nan
    return nibabel.Nifti1Image(array, np.diag([-2.0, 2.0, 5.0, 1.0]))


def test_the_whole_way(task, tmp_path, capsys):
    """Train a teacher, distil, evaluate, infer: each command of the README on the tiny task."""
    run = tmp_path / "student"
    teacher = [word if word != "unet_s1" else "multitask_unet" for word in train_words(task, tmp_path / "teacher")]
    assert main(teacher) == 0
    distill = ["distill", "--data", str(task), "--teacher", str(tmp_path / "teacher"), "--student", "unet_s1"]
    assert main([*distill, "--out", str(run), "--epochs", "1", "--batch_size", "4", "--method", "kd"]) == 0
    assert main(["evaluate", str(run), "--data", str(task), "--json", str(tmp_path / "figures.json")]) == 0
    scan = task / "imagesTr" / "tiny_0.nii.gz"
    assert main(["infer", str(run), str(scan), "--out", str(tmp_path / "masks")]) == 0
    assert nibabel.load(tmp_path / "masks" / "tiny_0_seg.nii.gz").shape == (40, 36, 6)
    assert set(json.loads((tmp_path / "figures.json").read_text())["mean"]["block"]) == {
        "dice", "iou", "precision", "recall"
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "gradient norm" in printed and "pmd" in printed
    assert "57,297 parameters" in printed and "tiny_0_seg.nii.gz: block" in printed


def test_methods(capsys):
    assert main(["methods", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["kd"]["terms"] == [
        {
            "name": "pmd", "loss": "PredictionMapLoss", "weight": 0.1, "student_tap": None, "teacher_tap": None,
            "place": "logits",
        }
    ]  # fmt: skip
    assert main(["methods", "emkd"]) == 0
    assert "RegionAffinityLoss" in capsys.readouterr().out
    assert main(["methods", "emdk"]) == 2
    assert "did you mean emkd" in capsys.readouterr().err


def test_networks(capsys):
    assert main(["networks", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["multitask_unet"]["parameters"] == 43_236_036
    assert {"name", "parameters", "macs", "input_shape", "reference", "taps"} <= set(rows["unet_s1"])
    assert main(["networks"]) == 0
    assert "57,297" in capsys.readouterr().out


def test_data_info(task, capsys):
    assert main(["data", "info", str(task)]) == 0
    assert "tiny_4" in capsys.readouterr().out
    assert main(["data", "info", str(task), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cases"]) == 5


def test_data_slices(task, tmp_path):
    assert main(["data", "slices", str(task), "--out", str(tmp_path / "png"), "--window", "-100", "200"]) == 0
    assert len(list((tmp_path / "png" / "images").glob("image_tiny_0_*.png"))) == 6


def spoil(part: str, content: object):
    """A change to the tiny task's first volume."""

    def change(task: Path) -> Path:
        path = task / part / "tiny_0.nii.gz"
        if content is None:
            path.unlink()
        elif isinstance(content, int):
            path.write_bytes(path.read_bytes()[:content])
        else:
            nibabel.save(content, path)
        return path

    return change


BAD_FILES = {
    "missing image": spoil("imagesTr", None),
    "missing label": spoil("labelsTr", None),
    "truncated image": spoil("imagesTr", 500),
    "truncated label": spoil("labelsTr", 100),
    "2-D image": spoil("imagesTr", volume((40, 36))),
    "4-D image": spoil("imagesTr", volume((40, 36, 6, 2))),
    "NaN image": spoil("imagesTr", volume(nan=True)),
    "constant image": spoil("imagesTr", volume(value=7.0)),
    "label of other shape": spoil("labelsTr", volume((40, 36, 5), value=0.0)),
    "label of other affine": spoil("labelsTr", nibabel.Nifti1Image(np.zeros((40, 36, 6), np.uint8), np.eye(4))),
    "undeclared label value": spoil("labelsTr", volume(value=3.0)),
}


@pytest.mark.parametrize("change", BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_in_training_is_one_sentence(change, task, tmp_path, capsys):
    path = change(task)
    (task / "splits.json").write_text(
        json.dumps({"teacher_train": ["tiny_0", "tiny_1", "tiny_2"], "val": ["tiny_3"], "test": ["tiny_4"]})
    )
    assert main(train_words(task, tmp_path / "run", "--student_share", "1.0")) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("medkd: ") and path.name in message and message.endswith(".")
    assert not (tmp_path / "run").exists() and not list(tmp_path.rglob(".writing-*"))


def test_some_scans_of_several_failing_is_exit_code_1(model, task, tmp_path):
    (task / "imagesTr" / "tiny_9.nii.gz").write_bytes(b"no scan")
    scans = [str(task / "imagesTr" / name) for name in ("tiny_0.nii.gz", "tiny_9.nii.gz")]
    assert main(["infer", str(model), *scans, "--out", str(tmp_path / "masks")]) == 1
    assert (tmp_path / "masks" / "tiny_0_seg.nii.gz").is_file()


def write_split(task: Path, **lists: list[str]) -> None:
    content = {"teacher_train": ["tiny_0", "tiny_1"], "val": ["tiny_2"], "test": ["tiny_3"]} | lists
    (task / "splits.json").write_text(json.dumps(content))


def other_weights(model: Path) -> None:
    save_tensors(model / WEIGHTS_FILE, create_network("unet_s2", channels=(4, 10)).state_dict())


def other_labels(model: Path) -> None:
    content = json.loads((model / "model.json").read_text())
    content["labels"] = {"0": "background", "1": "liver", "2": "block"}
    (model / "model.json").write_text(json.dumps(content))


def empty_task(task: Path) -> None:
    content = json.loads((task / "dataset.json").read_text())
    (task / "dataset.json").write_text(json.dumps(content | {"training": []}))


@pytest.mark.parametrize(
    ("spoil_task", "spoil_model", "words", "sentence"),
    [
        (empty_task, None, "train", "no training cases"),
        (lambda task: write_split(task, test=["tiny_7"]), None, "train", "tiny_7"),
        (lambda task: write_split(task, test=["tiny_0"]), None, "train", "more than once"),
        (lambda task: (task / "dataset.json").unlink(), None, "train", "dataset.json is missing"),
        (None, other_labels, "distill", "must agree"),
        (None, other_weights, "distill", "another network"),
        (None, other_weights, "evaluate", "another network"),
        (None, lambda model: (model / "model.json").unlink(), "evaluate", "no trained model"),
        (None, other_labels, "evaluate", "must agree"),
        (None, lambda model: (model / "splits.json").unlink(), "evaluate", "nobody knows what the model has seen"),
        (None, lambda model: (model / "splits.json").unlink(), "distill", "nobody knows what the model has seen"),
    ],
)
def test_bad_data_sets_and_models(spoil_task, spoil_model, words, sentence, task, model, tmp_path, capsys):
    if spoil_task:
        spoil_task(task)
    if spoil_model:
        spoil_model(model)
    commands = {
        "train": train_words(task, tmp_path / "run"),
        "distill": ["distill", "--data", str(task), "--teacher", str(model), "--out", str(tmp_path / "run")],
        "evaluate": ["evaluate", str(model), "--data", str(task)],
    }
    assert main(commands[words]) == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--epoch", "3"], "did you mean epochs"),
        (["--optimizer::lr", "fast"], "check the options"),
        (["--network", "unet_s9"], "choose one of"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_wrong_options_never_show_a_traceback(more, sentence, task, tmp_path, capsys):
    code = main(train_words(task, tmp_path / "run", *more))
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and lines[-1].startswith("medkd: ")
    assert not any(line.startswith("Traceback") for line in lines)
    assert sentence in lines[-1]
    assert not (tmp_path / "run").exists()


def test_an_output_folder_that_cannot_be_made(task, model, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(train_words(task, tmp_path / "file" / "run")) == 2
    assert "cannot write" in capsys.readouterr().err
    scan = task / "imagesTr" / "tiny_0.nii.gz"
    assert main(["infer", str(model), str(scan), "--out", str(tmp_path / "file" / "masks")]) == 2
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    from medkd import files
    from medkd.errors import UserError

    # What a full disk does to a write: the temporary file leads to a device that is always full.
    original = files.tempfile.mkstemp

    def full(**arguments):
        handle, name = original(**arguments)
        Path(name).unlink()
        Path(name).symlink_to("/dev/full")
        return handle, name

    monkeypatch.setattr(files.tempfile, "mkstemp", full)
    for write in (
        lambda: files.write_json(tmp_path / "x.json", {"a": 1}),
        lambda: save_tensors(tmp_path / "x.pt", create_network("unet_s1", channels=(4, 8)).state_dict()),
    ):
        with pytest.raises(UserError, match="free some space"):
            write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["train", "--help"], ["data", "info", "--help"], ["infer"], ["study", "run", "--help"]]
)
def test_help_and_usage_come_quickly_and_fit(words):
    result = subprocess.run(
        [sys.executable, "-m", "medkd", *words], capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}
    )
    assert result.returncode == (0 if "--help" in words else 2)
    text = result.stdout + result.stderr
    assert "usage: medkd" in text and max(map(len, text.splitlines())) <= 80
    if words[1:] == ["--help"]:
        assert "Example: medkd train" in " ".join(text.split())
