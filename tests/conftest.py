"""What several tests share: a tiny task folder, the real volumes, a cache of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path

# Tensors of the tests are tiny: a second thread costs more than it gives. Set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import nibabel
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep prepared slices out of the user's cache."""
    monkeypatch.setenv("MEDKD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real volumes; skips where there is none."""
    folder = os.environ.get("MEDKD_DATA")
    if not folder:
        pytest.skip("MEDKD_DATA is not set: no real volumes to test with")
    return Path(folder)


def write_case(folder: Path, name: str, seed: int, shape: tuple[int, int, int] = (40, 36, 6)) -> None:
    """Write an image with a bright block on noise and the label of the block."""
    random = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    x, y = random.integers(6, 18, 2)
    label[x : x + 12, y : y + 10, 1 : shape[2] - 1] = 1
    image = (random.normal(0, 20, shape) + 150 * label).astype(np.int16)
    affine = np.diag([-2.0, 2.0, 5.0, 1.0])
    for part, array in (("imagesTr", image), ("labelsTr", label)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(array, affine), folder / part / f"{name}.nii.gz")


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Decathlon folder with five volumes that a small network can learn in seconds."""
    folder = tmp_path_factory.mktemp("data") / "Task99_Tiny"
    names = [f"tiny_{index}" for index in range(5)]
    for seed, name in enumerate(names):
        write_case(folder, name, seed)
    content = {
        "name": "Tiny",
        "labels": {"0": "background", "1": "block"},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder
