from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from medkd.data import DecathlonTask, held_out_slices
from medkd.errors import UserError
from medkd.inference import Segmenter, evaluate
from medkd.study.job import Job, is_finished, jobs_of, read_result, run_job
from medkd.study.plan import Run, Study

TINY = {"network_name": "unet_s1", "size": 32, "epochs": 1, "network_def::channels": [2, 4, 8]}


def study(folder: Path, **changes: Any) -> Study:
    runs = (
        Run("one", "One", "spleen_ct_student", "train", TINY),
        Run("two", "Two", "spleen_ct_student", "distill", {"network_name": "unet_s1"}, None, "one"),
        Run("one-held-out", "One again", of="one", slices="held_out"),
    )
    plan = Study(
        name="tiny", title="Tiny", about="", scale="small", scaled=(), data=str(folder), phantom=None, split_file=None,
        split_seed=None, label="block", seeds=(0, 3), threads=1, published="", pictures={}, runs=runs, tables=(),
        recipes={},
    )  # fmt: skip
    return replace(plan, **changes)


def test_every_run_is_a_job_with_every_seed_and_knows_what_it_needs(tiny_task: Path, tmp_path: Path) -> None:
    jobs = {job.id: job for job in jobs_of(study(tiny_task), tmp_path)}
    assert list(jobs) == ["one-0", "one-3", "two-0", "two-3", "one-held-out-0", "one-held-out-3"]
    assert [job.needs for job in jobs.values()] == [(), (), ("one-0",), ("one-3",), ("one-0",), ("one-3",)]


def test_a_student_is_taught_by_the_teacher_of_its_own_seed(tiny_task: Path, tmp_path: Path) -> None:
    jobs = {job.id: job for job in jobs_of(study(tiny_task), tmp_path)}
    assert jobs["two-3"].overrides() == {
        "dataset_dir": str(tiny_task),
        "cache_dir": str(tmp_path / "cache"),
        "seed": 3,
        "teacher_run": str(tmp_path / "runs" / "one-3"),
        "network_name": "unet_s1",
    }


def test_phantoms_lie_in_the_folder_of_the_study(tiny_task: Path, tmp_path: Path) -> None:
    assert jobs_of(study(tiny_task, data=None, phantom={"volumes": 3}), tmp_path)[0].data == str(tmp_path / "data")


def test_a_job_survives_being_written(tiny_task: Path, tmp_path: Path) -> None:
    for job in jobs_of(study(tiny_task), tmp_path):
        assert Job.from_dict(json.loads(json.dumps(asdict(job)))) == job


def test_a_job_leaves_its_figures_and_another_job_those_of_some_slices(tiny_task: Path, tmp_path: Path) -> None:
    jobs = {job.id: job for job in jobs_of(study(tiny_task), tmp_path)}
    assert not is_finished(jobs["one-0"])
    run_job(jobs["one-0"])
    run_job(jobs["one-held-out-0"])
    task = DecathlonTask.load(tiny_task)
    segmenter, cases = Segmenter.load(jobs["one-0"].out), task.part("test")
    whole, part = (read_result(jobs[id]) for id in ("one-0", "one-held-out-0"))
    assert whole is not None and part is not None
    assert whole["cases"] == evaluate(segmenter, cases, task.labels)["cases"]
    assert part["cases"] == evaluate(segmenter, cases, task.labels, held_out_slices)["cases"]
    assert (whole["run"], whole["seed"], whole["size"], len(whole["history"])) == ("one", 0, 32, 1)
    # Two of the six slices with block, 12 x 10 voxels of 20 mm3 each, at most.
    assert part["cases"][0]["labels"]["block"]["true_volume_ml"] <= 2 * 2.4
    assert (part["history"], part["seconds"]) == ([], 0)


def test_figures_of_another_recipe_are_not_taken_for_those_of_the_job(tiny_task: Path, tmp_path: Path) -> None:
    job = jobs_of(study(tiny_task), tmp_path)[0]
    job.out.mkdir(parents=True)
    (job.out / "result.json").write_text(json.dumps({"recipe": job.recipe()}))
    assert is_finished(job)
    assert is_finished(replace(job, run=replace(job.run, title="Another title")))
    with pytest.raises(UserError, match="another recipe"):
        is_finished(replace(job, run=replace(job.run, overrides={**TINY, "epochs": 2})))
