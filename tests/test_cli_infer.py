"""``medkd infer`` as a process: what ends it, who reads it, and how its names are written."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medkd.bundle import STUDENT, bundle_folder
from medkd.cli import main
from medkd.data import Preprocessing
from medkd.engines import SavedModel
from medkd.inference import Segmenter
from medkd.inference.backends.model_file import model_hash
from medkd.networks import create_network, network_definition

AFFINE = np.diag([-2.0, 2.0, 5.0, 1.0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network whose backend is known, so that no command measures it."""
    network = create_network("unet_s1", channels=(4, 8))
    folder = tmp_path_factory.mktemp("model")
    labels = {0: "background", 1: "spleen"}
    SavedModel(network_definition(network), Preprocessing(size=32), labels).save(folder, network.state_dict())
    return folder


def write_scans(folder: Path, count: int) -> Path:
    folder.mkdir()
    for index in range(count):
        voxels = np.random.default_rng(index).normal(0, 60, (24, 20, 5)).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), folder / f"scan_{index:02d}.nii.gz")
    return folder


def start(model: Path, *words: str | Path, **arguments: object) -> subprocess.Popen[bytes]:
    Segmenter.load(model, "onnx")
    command = [sys.executable, "-m", "medkd", "infer", str(model), "--backend", "onnx", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, **arguments)  # type: ignore[call-overload]


def rows_in(out: Path) -> int:
    manifest = out / "manifest.jsonl"
    return len(manifest.read_bytes().splitlines()) if manifest.is_file() else 0


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_command_that_is_told_to_end_writes_its_tables(sent, code, model, tmp_path):
    out = tmp_path / "out"
    # A shell that runs tests in the background has them ignore SIGINT; what they start shall not.
    command = start(model, write_scans(tmp_path / "scans", 60), "--out", out, stdout=subprocess.DEVNULL,
                    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))  # fmt: skip
    while rows_in(out) < 2:
        assert command.poll() is None
        time.sleep(0.005)
    command.send_signal(sent)
    said = command.communicate(timeout=60)[1].decode()
    assert command.returncode == code and "Traceback" not in said
    assert not [path for path in out.iterdir() if path.name.startswith(".writing")]
    with (out / "measurements.csv").open(newline="") as stream:
        named = {row["name"] for row in csv.DictReader(stream)}
    assert named == {path.name.removesuffix("_seg.nii.gz") for path in out.glob("*_seg.nii.gz")}
    assert 1 <= len(named) < 60 and (out / "report.html").is_file()


def test_that_nobody_reads_it_does_not_end_it(model, tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = start(model, write_scans(tmp_path / "scans", 3), "--out", tmp_path / "out", stdout=write)
    os.close(write)
    assert command.communicate(timeout=60)[1].decode() == ""
    assert command.returncode == 0 and len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names of any bytes")
def test_a_name_that_no_terminal_can_show_is_segmented(model, tmp_path):
    scan = write_scans(tmp_path / "scans", 1) / "scan_00.nii.gz"
    os.rename(os.fsencode(scan), os.fsencode(scan.parent) + b"/M\xfcller.nii.gz")  # noqa: PTH104 - bytes
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    command = start(
        model, tmp_path / "scans", "--out", tmp_path / "out", stdout=subprocess.PIPE, env=environment
    )  # fmt: skip
    said = command.communicate(timeout=60)[0].decode()
    assert command.returncode == 0 and "ller_seg.nii.gz: spleen" in said
    assert os.listdir(os.fsencode(tmp_path / "out")).count(b"M\xfcller_seg.nii.gz") == 1  # noqa: PTH208 - bytes


@pytest.mark.parametrize(
    ("words", "shipped", "names"),
    [
        (["a.nii.gz"], True, ["a"]),
        (["a.nii.gz", "b.nii.gz"], True, ["a", "b"]),
        (["MODEL", "a.nii.gz"], False, ["a"]),
        (["--no-preview", "MODEL", "--threads", "1", "a.nii.gz", "b.nii.gz"], False, ["a", "b"]),
        (["a.nii.gz", "--no-preview", "b.nii.gz"], True, ["a", "b"]),
    ],
)
def test_the_first_word_is_the_model_where_it_is_one(words, shipped, names, model, tmp_path, monkeypatch, capsys):
    """Without one the student that comes with medkd segments, and says so."""
    for name in ("a", "b"):
        write_scans(tmp_path / name, 1).joinpath("scan_00.nii.gz").rename(tmp_path / f"{name}.nii.gz")
    monkeypatch.chdir(tmp_path)
    words = [str(model) if word == "MODEL" else word for word in words]
    assert main(["infer", "--out", "masks", "--backend", "torch", *words]) == 0
    rows = json.loads((tmp_path / "masks" / "measurements.json").read_text())
    student = bundle_folder(STUDENT)
    assert ("the model that comes with medkd, for research use only" in capsys.readouterr().err) == shipped
    assert [row["name"] for row in rows] == names
    assert {row["model_sha256"] for row in rows} == {model_hash(student if shipped else model)}


def test_a_word_that_may_be_meant_as_a_model_is_not_passed_over(model, tmp_path, capsys):
    scan, out = write_scans(tmp_path / "scans", 1) / "scan_00.nii.gz", str(tmp_path / "out")
    (tmp_path / "runs" / "student").mkdir(parents=True)
    for words, sentence in [
        ([str(scan), str(model)], "name one alone, and before the scans"),
        ([str(model), str(scan), str(model)], "name one alone, and before the scans"),
        ([str(tmp_path / "runs"), str(scan)], "holds no scan"),
        ([str(tmp_path / "nothing"), str(scan)], "does not exist"),
    ]:
        assert main(["infer", *words, "--out", out]) == 2
        said = capsys.readouterr().err
        assert sentence in said and "comes with medkd" not in said
    assert not Path(out).exists()


@pytest.mark.parametrize("file", ["checkpoint.pt", "recipe.json", "model.json", "model.pt"])
def test_a_run_without_a_model_yet_is_not_taken_for_scans(file, tmp_path, capsys):
    (tmp_path / file).write_text("{}")
    (tmp_path / "scan.nii.gz").touch()
    assert main(["infer", str(tmp_path), str(tmp_path / "scan.nii.gz"), "--out", str(tmp_path / "out")]) == 2
    assert "model" in capsys.readouterr().err
    assert main(["infer", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "give the scans that it shall segment behind it" in capsys.readouterr().err
