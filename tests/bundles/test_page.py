"""docs/bundles.md, from top to bottom: every command and snippet of the page, with small numbers added."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

import medkd

PAGE = Path(medkd.__file__).parent.parent / "docs" / "bundles.md"
# Added to the commands that train.
SMALL = " --epochs 15 --batch_size 8 --learning_rate 0.003"


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    return block.replace("\\\n", " ").strip().splitlines()


@pytest.fixture(scope="module")
def desk(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a data set, a schema, and the weights of a teacher that was trained elsewhere."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(phantoms, folder / "Task09_Spleen")
    shutil.copy(Path(__file__).parent / "metadata_rules.json", folder / "schema.json")
    torch.manual_seed(0)
    network = UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(16, 32, 64, 128), strides=(2, 2, 2))
    torch.save(network.state_dict(), folder / "my_unet.pt")
    return folder


def test_the_page_works_from_top_to_bottom(desk):
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    run = 0
    for language, block in blocks():
        if language == "yaml":
            (desk / "my_terms.yaml").write_text(block, encoding="utf-8")
            continue
        words = [[sys.executable, "-c", block]] if language == "python" else []
        if language == "sh":
            lines = [line + (SMALL if "distill" in line else "") for line in commands(block)]
            words = [["bash", "-euc", line] for line in lines]
        for command in words:
            result = subprocess.run(command, cwd=desk, env=environment, capture_output=True, text=True)
            assert result.returncode == 0, f"{command[-1]}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
            run += 1
    assert run >= 17
    for written in (
        "spleen_ct_student/eval/phantom_seg.nii.gz", "runs/student/model.pt", "runs/student2/model.pt",
        "runs/student/eval/val_dice_raw.csv", "masks/new_spleen_1_seg.nii.gz", "masks2/new_spleen_1_seg.nii.gz",
        "my_student.onnx", "my_student.ts", "my_student/models/model.ts", "my_student/models/model.onnx",
    ):  # fmt: skip
        assert (desk / written).stat().st_size > 0, written
    masks = [(desk / folder / "new_spleen_1_seg.nii.gz").read_bytes() for folder in ("masks", "masks2")]
    assert masks[0] == masks[1]
    # Both trainings are the same recipe.
    curves = [np.array(re.findall(r'"loss": ([\d.]+)', (desk / run / "history.json").read_text()), float)
              for run in ("runs/student", "runs/student2")]  # fmt: skip
    assert np.array_equal(*curves)
