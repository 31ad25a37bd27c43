"""The wheel: small, with the student's weights, and enough to segment a scan without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel
import pytest

ROOT = Path(__file__).parent.parent
SCAN = ROOT / "bundles" / "spleen_ct_student" / "sample" / "imagesTs" / "phantom.nii.gz"
# What a program that may not use the network runs first.
OFFLINE = """
import socket, sys
def refuse(*_):
    raise OSError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
import medkd
from medkd.cli import main
print(medkd.__file__)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the checkout and nothing old in it gets in."""
    pytest.importorskip("setuptools", "77", "setuptools 77 builds the wheel")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("medkd", "bundles"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "eval"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out), "."]
    subprocess.run(words, cwd=source, check=True, env={**os.environ, "PIP_NO_INDEX": "1"})
    return next(out.glob("medkd-*.whl"))


def test_it_is_small_and_holds_the_student_and_not_the_teacher(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.stat().st_size < 5e6
    weights = [name for name in names if name.endswith((".pt", ".onnx"))]
    assert weights == ["medkd/bundles/spleen_ct_student/models/model.pt"]
    for name in ("models/model.json", "configs/metadata.json", "configs/inference.yaml", "docs/README.md", "LICENSE"):
        assert f"medkd/bundles/spleen_ct_student/{name}" in names, name
    for name in ("medkd/py.typed", "medkd/study/studies/mtms_tables.yaml"):
        assert name in names, name
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "bundles"))]


def test_it_segments_a_scan_offline(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    command = [sys.executable, "-c", OFFLINE, "infer", str(SCAN), "--out", "masks", "--backend", "torch"]
    folders = {"PYTHONPATH": str(tmp_path / "site"), "MEDKD_CACHE": str(tmp_path / "cache")}
    said = subprocess.run(command, cwd=tmp_path, env={**os.environ, **folders}, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(str(tmp_path / "site")) and "spleen_ct_student" in said.stderr
    assert nibabel.load(tmp_path / "masks" / "phantom_seg.nii.gz").shape == nibabel.load(SCAN).shape
