"""docs/inference.md and the README: their Python runs, and names options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

import medkd
from medkd.cli import main
from medkd.data import Preprocessing
from medkd.engines import SavedModel
from medkd.networks import create_network, network_definition

ROOT = Path(medkd.__file__).parent.parent
PAGES = {"docs/inference.md": 1, "README.md": 1}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the pages name."""
    network = create_network("unet_s1", channels=(4, 8))
    labels = {0: "background", 1: "spleen"}
    model = SavedModel(network_definition(network), Preprocessing(size=32), labels)
    model.save(tmp_path / "runs" / "student", network.state_dict())
    voxels = np.random.default_rng(0).normal(0, 60, (24, 20, 5)).astype(np.int16)
    (tmp_path / "archive").mkdir()
    for path in ("scan.nii.gz", "archive/ct.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_runs(page, desk):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    blocks = [block for block in blocks if "Segmenter" in block]
    assert len(blocks) == PAGES[page]
    for block in blocks:
        exec(block.replace("/archive/ct", str(desk / "archive")), {})
    assert nibabel.load(desk / "scan_seg.nii.gz").shape == (24, 20, 5)


def test_every_option_of_the_page_is_one_of_the_commands(capsys):
    for command in ("infer", "evaluate"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
    known = capsys.readouterr().out
    named = set(re.findall(r"--[a-z][a-z-]+", (ROOT / "docs" / "inference.md").read_text(encoding="utf-8")))
    assert len(named) > 8 and {option for option in named if option not in known} <= {"--array"}
