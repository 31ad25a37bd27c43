"""A copy of each bundle that may be written to, and phantoms it trains on in a second."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.data.phantom import write_phantom_task


@pytest.fixture(scope="session")
def small() -> dict[str, Any]:
    """Overrides that make a recipe train in seconds."""
    return {"network_def::channels": [4, 8, 16], "epochs": 2, "batch_size": 8, "learning_rate": 0.01}


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six phantoms in Decathlon layout, with new scans in ``imagesTs``."""
    folder = tmp_path_factory.mktemp("phantoms") / "Task09_Spleen"
    write_phantom_task(folder, 6, seed=0, shape=(48, 48, 16), progress=False)
    (folder / "imagesTs").mkdir()
    for name in ("spleen_1", "spleen_2"):
        shutil.copy(folder / "imagesTr" / f"{name}.nii.gz", folder / "imagesTs" / f"new_{name}.nii.gz")
    return folder


@pytest.fixture(scope="session", params=[TEACHER, STUDENT])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a bundle, as somebody who took it out of the package has it."""
    return Path(shutil.copytree(bundle_folder(request.param), tmp_path_factory.mktemp("models") / request.param))
