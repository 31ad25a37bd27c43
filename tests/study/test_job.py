from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medkd.data import DecathlonTask, held_out_slices
from medkd.engines.saved_model import load_tensors
from medkd.errors import UserError
from medkd.inference import Segmenter, evaluate
from medkd.study.job import claim, jobs_of, read_result, run_job
from medkd.study.plan import Run, Study

TINY = {"network_name": "unet_s1", "size": 32, "epochs": 1, "network_def::channels": [2, 4, 8]}


def study(folder: Path, **changes: Any) -> Study:
    runs = (
        Run("one", "One", "spleen_ct_student", "train", TINY),
        Run("two", "Two", "spleen_ct_student", "distill", {"network_name": "unet_s1"}, None, "one"),
        Run("one-held-out", "One again", of="one", slices="held_out"),
    )
    plan = Study(
        name="tiny", title="Tiny", about="", scale="small", scaled=(), data=str(folder), phantom=None,
        label="block", seeds=(0, 3), threads=1, published="", pictures={}, runs=runs, tables=(),
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


def test_a_run_of_one_seed_is_shared_by_all_seeds(tiny_task: Path, tmp_path: Path) -> None:
    one, two, held_out = study(tiny_task).runs
    runs = (replace(one, once=True), two, held_out)
    jobs = {job.id: job for job in jobs_of(study(tiny_task, runs=runs), tmp_path)}
    assert {id: job.needs for id, job in jobs.items()} == {
        "one-0": (), "two-0": ("one-0",), "two-3": ("one-0",), "one-held-out-0": ("one-0",),
    }  # fmt: skip
    assert jobs["two-3"].overrides()["teacher_run"] == str(tmp_path / "runs" / "one-0")
    # What there was before the teacher was trained once only is of the same recipe with the first seed alone.
    before = {job.id: job for job in jobs_of(study(tiny_task), tmp_path)}
    assert before["two-0"].recipe == jobs["two-0"].recipe and before["two-3"].recipe != jobs["two-3"].recipe


def test_a_run_may_start_from_one_of_other_labels(tiny_task: Path, tmp_path: Path) -> None:
    content = json.loads((tiny_task / "dataset.json").read_text())
    labels = {**content["labels"], "2": "another"}
    other = tmp_path / "Task"
    shutil.copytree(tiny_task, other)
    (other / "organs.json").write_text(json.dumps({**content, "labels": labels}))
    runs = (
        Run("organs", "Organs", "spleen_ct_student", "train", TINY, dataset="organs.json", once=True),
        Run("one", "One", "spleen_ct_student", "train", {**TINY, "learning_rate": 0.0}, start="organs"),
        Run("two", "Two", "spleen_ct_student", "distill", {"network_name": "unet_s1"}, None, "one", start="organs"),
    )
    plan = study(other, runs=runs)
    jobs = {job.id: job for job in jobs_of(plan, tmp_path)}
    assert jobs["one-3"].needs == ("organs-0",) and jobs["two-3"].needs == ("one-3", "organs-0")
    folder = tmp_path / "runs"
    assert jobs["two-3"].overrides()["teacher_run"] == str(folder / "one-3")
    assert jobs["two-3"].overrides()["initial_run"] == str(folder / "organs-0")
    assert [Path(job.data).name for job in jobs.values()] == ["organs.json", *["Task"] * 4]
    for id in ("organs-0", "one-0"):
        run_job(jobs[id])
    organs, one = (load_tensors(folder / id / "model.pt") for id in ("organs-0", "one-0"))
    weights = [key for key in one if key.endswith("weight") and one[key].shape == organs[key].shape]
    assert len(weights) > 5 and all(torch.equal(one[key], organs[key]) for key in weights)
    result = read_result(jobs["organs-0"])
    assert result is not None and "block" in result["cases"][0]["labels"]
    # Where neither is said a recipe stays what it was before there were any.
    assert "dataset" in jobs["organs-0"].recipe and "dataset" not in jobs["one-0"].recipe


def test_phantoms_lie_in_the_folder_of_the_study(tiny_task: Path, tmp_path: Path) -> None:
    assert jobs_of(study(tiny_task, data=None, phantom={"volumes": 3}), tmp_path)[0].data == str(tmp_path / "data")


def test_a_job_leaves_its_figures_and_another_job_those_of_some_slices(tiny_task: Path, tmp_path: Path) -> None:
    jobs = {job.id: job for job in jobs_of(study(tiny_task), tmp_path)}
    assert read_result(jobs["one-0"]) is None
    run_job(jobs["one-0"])
    run_job(jobs["one-held-out-0"])
    task = DecathlonTask.load(tiny_task)
    segmenter, cases = Segmenter.load(jobs["one-0"].out, "torch"), task.part("test")
    whole, part = (read_result(jobs[id]) for id in ("one-0", "one-held-out-0"))
    assert whole is not None and part is not None
    assert whole["cases"] == evaluate(segmenter, cases, task.labels)["cases"]
    assert part["cases"] == evaluate(segmenter, cases, task.labels, held_out_slices)["cases"]
    assert (whole["run"], whole["seed"], whole["size"], len(whole["history"])) == ("one", 0, 32, 1)
    # Two of the six slices with block, 12 x 10 voxels of 20 mm3 each, at most.
    assert part["cases"][0]["labels"]["block"]["true_volume_ml"] <= 2 * 2.4
    assert (part["history"], part["seconds"]) == ([], 0)


CHANGES: dict[str, Any] = {
    "overrides": lambda plan: change(plan, "one", overrides={**TINY, "epochs": 2}),
    "config": lambda plan: change(plan, "one", config="distill"),
    "slices": lambda plan: change(plan, "one", slices="held_out"),
    "threads": lambda plan: replace(plan, threads=2),
    "data": lambda plan: replace(plan, data="/elsewhere/Other"),
}


def change(plan: Study, name: str, **changes: Any) -> Study:
    return replace(plan, runs=tuple(replace(run, **changes) if run.name == name else run for run in plan.runs))


@pytest.mark.parametrize("changed", CHANGES)
@pytest.mark.parametrize("name", ["one-0", "two-0", "one-held-out-0"])
def test_figures_are_of_a_recipe_and_of_the_teacher_with_its_own(
    name: str, changed: str, tiny_task: Path, tmp_path: Path
) -> None:
    plan = study(tiny_task)
    leave_figures(plan, tmp_path, name)
    jobs = {job.id: job for job in jobs_of(CHANGES[changed](plan), tmp_path)}
    with pytest.raises(UserError, match="another recipe"):
        read_result(jobs[name])
    with pytest.raises(UserError, match="another recipe"):
        claim(jobs[name])


def leave_figures(plan: Study, out: Path, name: str) -> None:
    job = next(job for job in jobs_of(plan, out) if job.id == name)
    job.out.mkdir(parents=True)
    claim(job)
    (job.out / "result.json").write_text('{"dice": 0.5}')


def test_a_study_may_move_and_its_runs_have_other_titles(tiny_task: Path, tmp_path: Path) -> None:
    plan = study(tiny_task)
    leave_figures(plan, tmp_path / "here", "two-3")
    (tmp_path / "here").rename(tmp_path / "there")
    moved = replace(change(plan, "two", title="Another title"), data=f"/elsewhere/{tiny_task.name}")
    job = next(job for job in jobs_of(moved, tmp_path / "there") if job.id == "two-3")
    assert read_result(job) == {"dice": 0.5}


def test_another_seed_is_another_recipe(tiny_task: Path, tmp_path: Path) -> None:
    first, second, *_ = jobs_of(study(tiny_task), tmp_path)
    assert first.recipe != second.recipe


def test_a_method_of_a_file_is_what_the_file_says(tiny_task: Path, tmp_path: Path) -> None:
    plans = []
    for folder, content in (("a", "weights: 1"), ("b", "weights: 1"), ("c", "weights: 2")):
        file = tmp_path / folder / "own.yaml"
        file.parent.mkdir()
        file.write_text(content)
        plans.append(change(study(tiny_task), "two", method=str(file)))
    same, also_same, other = (jobs_of(plan, tmp_path)[2].recipe for plan in plans)
    assert same == also_same != other


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"cases": ['])
def test_damaged_figures_are_named(content: str, tiny_task: Path, tmp_path: Path) -> None:
    plan = study(tiny_task)
    leave_figures(plan, tmp_path, "one-0")
    job = jobs_of(plan, tmp_path)[0]
    (job.out / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"one-0/result\.json is damaged"):
        read_result(job)


def test_figures_of_nobody_knows_what_are_not_taken(tiny_task: Path, tmp_path: Path) -> None:
    plan = study(tiny_task)
    leave_figures(plan, tmp_path, "one-0")
    (tmp_path / "runs" / "one-0.json").unlink()
    with pytest.raises(UserError, match="nobody knows"):
        read_result(jobs_of(plan, tmp_path)[0])
