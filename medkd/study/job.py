"""One run of a study with one seed: trained, evaluated, its figures written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medkd.errors import UserError
from medkd.files import write_json
from medkd.recipes import run_recipe
from medkd.run_folder import HISTORY_FILE
from medkd.study.plan import Run, Study

RESULT_FILE = "result.json"
FAILED_FILE = "failed.json"


@dataclass(frozen=True)
class Job:
    """All that a worker needs to do one run.

    Attributes:
        id: the run's name and the seed.
        run: what to train.
        seed: of everything that is drawn.
        folder: of all runs.
        data: the task folder, or the file in it.
        cache: of prepared slices and the teachers' outputs.
        threads: of the processor, so that the figures do not depend on how many runs share it.
        needs: the jobs that must be finished before: of the teacher, of the model that is evaluated, of the start.
        recipe: what the figures depend on, that of its teacher included, and no folder of this machine: as long as it
            stays the same, a finished run stays finished.
    """

    id: str
    run: Run
    seed: int
    folder: str
    data: str
    cache: str
    threads: int
    needs: tuple[str, ...]
    recipe: Mapping[str, Any]

    @property
    def out(self) -> Path:
        """The run's own folder."""
        return Path(self.folder) / self.id

    def overrides(self) -> dict[str, Any]:
        """Everything that the recipe is run with."""
        own: dict[str, Any] = {"dataset_dir": self.data, "cache_dir": self.cache, "seed": self.seed}
        if self.run.teacher is not None:
            own["teacher_run"] = str(Path(self.folder) / self.needs[0])
        if self.run.start is not None:
            own["initial_run"] = str(Path(self.folder) / self.needs[-1])
        return {**own, **(self.run.overrides or {})}


def jobs_of(study: Study, out: Path) -> list[Job]:
    """All runs of a study, each with all its seeds, in the order of the study."""
    out = out.resolve()
    recipes: dict[str, dict[str, Any]] = {}
    jobs = []
    for run in study.runs:
        for seed in study.seeds_of(run):
            needs = tuple(
                f"{name}-{seed if seed in study.seeds_of(study.run(name)) else study.seeds[0]}"
                for name in (run.teacher, run.of, run.start)
                if name is not None
            )
            recipes[f"{run.name}-{seed}"] = _recipe(run, seed, study, [recipes[name] for name in needs])
            job = Job(
                id=f"{run.name}-{seed}",
                run=run,
                seed=seed,
                folder=str(out / "runs"),
                data=str(_data(run, study, out)),
                cache=str(out / "cache"),
                threads=study.threads,
                needs=needs,
                recipe=recipes[f"{run.name}-{seed}"],
            )
            jobs.append(job)
    return jobs


def _data(run: Run, study: Study, out: Path) -> Path:
    folder = out / "data" if study.data is None else Path(study.data)
    dataset = study.run(run.of or run.name).dataset
    return folder if dataset is None else folder / dataset


def _recipe(run: Run, seed: int, study: Study, needed: list[dict[str, Any]]) -> dict[str, Any]:
    overrides = dict(run.overrides or {})
    if "split_file" in overrides:
        overrides["split_file"] = Path(overrides["split_file"]).name
    method = run.method
    if method is not None and Path(method).is_file():
        # What a file says counts, not where it lies.
        method = Path(method).read_text(encoding="utf-8")
    recipe = {
        "bundle": run.bundle,
        "config": run.config,
        "method": method,
        "overrides": overrides,
        "slices": run.slices,
        "seed": seed,
        "threads": study.threads,
        "data": study.phantom if study.data is None else Path(study.data).name,
        "needed": needed,
    }
    if run.dataset is not None:
        recipe["dataset"] = run.dataset
    return json.loads(json.dumps(recipe, default=str))


def claim(job: Job) -> None:
    """Note beside the run's folder what it is, or refuse a folder with another run.

    Raises:
        UserError: the folder holds another run.
    """
    _check_recipe(job)
    write_json(_recipe_file(job), job.recipe)


def _recipe_file(job: Job) -> Path:
    # Not in the folder, which a training claims for itself.
    return Path(job.folder) / f"{job.id}.json"


def _check_recipe(job: Job) -> None:
    file = _recipe_file(job)
    if file.is_file() and job.out.is_dir() and read_json(file) != job.recipe:
        raise UserError(
            f"{job.out} holds a run of another recipe, or of another teacher, than the study has: choose another "
            "--out, or delete it."
        )


def run_job(job: Job) -> None:
    """Train the job's model where that is not done, evaluate it on the test volumes, write ``result.json``.

    A run that was stopped goes on where it was.

    Raises:
        UserError: the recipe or the data cannot be used.
    """
    from medkd.data import DecathlonTask, held_out_slices
    from medkd.engines import load_model, run_split_file
    from medkd.inference import Segmenter, evaluate
    from medkd.machine import machine_facts
    from medkd.networks import count_macs

    claim(job)
    trained = job.out
    history: list[dict[str, Any]] = []
    if job.run.of is None:
        run_recipe(job.run.bundle, job.run.config, job.overrides(), trained, job.run.method)
        history = json.loads((trained / HISTORY_FILE).read_text(encoding="utf-8"))
    else:
        trained = Path(job.folder) / job.needs[0]
    segmenter = Segmenter.load(trained, backend="torch")
    task = DecathlonTask.load(job.data)
    slices = held_out_slices if job.run.slices == "held_out" else None
    report = evaluate(segmenter, task.part("test", file=run_split_file(trained)), task.labels, slices)
    preprocessing = segmenter.model.preprocessing
    result = {
        "run": job.run.name,
        "seed": job.seed,
        "network": segmenter.model.network,
        "parameters": report["parameters"],
        "macs": count_macs(load_model(trained), (preprocessing.in_channels, preprocessing.size, preprocessing.size)),
        "size": preprocessing.size,
        "seconds": sum(row["seconds"] for row in history),
        "history": [
            {key: row[key] for key in ("epoch", "loss", "val_dice", "seconds") if key in row} for row in history
        ],
        "cases": report["cases"],
        "pooled": report["pooled_slices"],
        "machine": machine_facts(),
    }
    write_json(job.out / RESULT_FILE, result)


def read_result(job: Job) -> dict[str, Any] | None:
    """The figures of a finished job; None where it is not finished.

    Raises:
        UserError: there are figures, but of another recipe, or they cannot be read.
    """
    file = job.out / RESULT_FILE
    if not file.is_file():
        return None
    if not _recipe_file(job).is_file():
        raise UserError(f"nobody knows what {job.out} is ({_recipe_file(job).name} beside it is missing): delete it.")
    _check_recipe(job)
    return read_json(file)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of a study.

    Raises:
        UserError: the file holds none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict) or not content:
        raise UserError(f"{file} is damaged: delete it, and what it held is made again.")
    return content
