"""A study through Ray has the figures that it has without."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from medkd.study.job import jobs_of
from medkd.study.plan import Study
from medkd.study.runner import run_study
from medkd.study.study_file import load_study
from medkd.study.workers import do_job_on_node

SMALL = {"epochs": 2, "batch_size": 4}
CONTENT = {
    "label": "block",
    "runs": {
        "t": {"recipe": "teacher", "network": "multitask_unet"},
        "both": {"recipe": "distill", "network": "unet_s1", "teacher": "t", "terms": ["bottleneck", "pmd"]},
        "broken": {"recipe": "teacher", "network": "multitask_unet", "overrides": {"window": [1, 0]}},
        "dies": {
            "recipe": "teacher",
            "network": "multitask_unet",
            "overrides": {"epochs": "$__import__('os')._exit(3)"},
        },
    },
    "scales": {
        "small": {
            "networks": {
                "multitask_unet": {"network_def::channels": [4, 8, 16]},
                "unet_s1": {"network_def::channels": [4, 8]},
            },
            "recipes": {
                "teacher": {"size": 32, **SMALL},
                "alone": {"size": 32},
                "distill": {"learning_rate": 0.001, **SMALL},
            },
        }
    },
}


@pytest.fixture
def study(tmp_path: Path, tiny_task: Path) -> Study:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    return load_study(file, "small", tiny_task)


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in result.items() if key not in ("seconds", "machine", "recipe")}
    kept["history"] = [{key: value for key, value in row.items() if key != "seconds"} for row in result["history"]]
    return kept


def test_ray_gives_the_figures_of_local_processes(study, tmp_path, capfd):
    ray = pytest.importorskip("ray")
    local = run_study(study, tmp_path / "local", 1)
    capfd.readouterr()
    through_ray = run_study(study, tmp_path / "ray", 1, ray="")
    assert not ray.is_initialized()
    printed = "".join(capfd.readouterr())
    assert printed.count("\n[") == 4 and "training" not in printed
    assert set(local.results) == {"t-0", "both-0"}
    for name, result in local.results.items():
        assert without_times(through_ray.results[name]) == without_times(result)
    assert through_ray.failed["broken-0"].sentence == local.failed["broken-0"].sentence
    assert "WorkerCrashedError" in through_ray.failed["dies-0"].sentence and "code 3" in local.failed["dies-0"].sentence
    assert "Traceback" in through_ray.failed["broken-0"].log.read_text()


def test_a_node_that_does_not_see_the_folder_says_so(study, tmp_path):
    (job, *_) = jobs_of(study, tmp_path)
    sentence = do_job_on_node((job, tmp_path / "logs" / "t-0.log"))
    assert sentence is not None and sentence.startswith(f"{socket.gethostname()} does not see")
    assert not (tmp_path / "runs").exists() and not (tmp_path / "logs").exists()
