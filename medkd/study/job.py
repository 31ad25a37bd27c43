"""One run of a study with one seed: trained, evaluated, its figures written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
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
        data: the task folder.
        cache: of prepared slices and the teachers' outputs.
        threads: of the processor, so that the figures do not depend on how many runs share it.
        needs: jobs that must be finished before.
    """

    id: str
    run: Run
    seed: int
    folder: str
    data: str
    cache: str
    threads: int
    needs: tuple[str, ...]

    @property
    def out(self) -> Path:
        """The run's own folder."""
        return Path(self.folder) / self.id

    def overrides(self) -> dict[str, Any]:
        """Everything that the recipe is run with."""
        own: dict[str, Any] = {"dataset_dir": self.data, "cache_dir": self.cache, "seed": self.seed}
        if self.run.teacher is not None:
            own["teacher_run"] = str(Path(self.folder) / f"{self.run.teacher}-{self.seed}")
        return {**own, **(self.run.overrides or {})}

    def recipe(self) -> dict[str, Any]:
        """What the figures belong to: as long as it stays the same, a finished run stays finished."""
        kept = {key: value for key, value in asdict(self.run).items() if key not in ("name", "title", "overrides")}
        if self.run.method is not None and Path(self.run.method).is_file():
            # What a file says counts, not where it lies.
            kept["method"] = Path(self.run.method).read_text(encoding="utf-8")
        return json.loads(json.dumps({**kept, "overrides": self.overrides()}, default=str))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Job:
        """The job that :func:`dataclasses.asdict` made plain."""
        return cls(**{**content, "run": Run(**content["run"]), "needs": tuple(content["needs"])})


def jobs_of(study: Study, out: Path) -> list[Job]:
    """All runs of a study, each with all its seeds, in the order of the study."""
    out = out.resolve()
    data = str(out / "data") if study.data is None else study.data
    return [
        Job(
            id=f"{run.name}-{seed}",
            run=run,
            seed=seed,
            folder=str(out / "runs"),
            data=data,
            cache=str(out / "cache"),
            threads=study.threads,
            needs=tuple(f"{name}-{seed}" for name in (run.teacher, run.of) if name is not None),
        )
        for run in study.runs
        for seed in study.seeds
    ]


def run_job(job: Job) -> None:
    """Train the job's model where that is not done, evaluate it on the test volumes, write ``result.json``.

    A run that was stopped goes on where it was.

    Raises:
        UserError: the recipe or the data cannot be used.
    """
    from medkd.data import DecathlonTask, held_out_slices
    from medkd.engines import run_split_file
    from medkd.inference import Segmenter, evaluate
    from medkd.machine import machine_facts
    from medkd.networks import count_macs

    trained = job.out
    history: list[dict[str, Any]] = []
    if job.run.of is None:
        run_recipe(job.run.bundle, job.run.config, job.overrides(), trained, job.run.method)
        history = json.loads((trained / HISTORY_FILE).read_text(encoding="utf-8"))
    else:
        trained = Path(job.folder) / f"{job.run.of}-{job.seed}"
    segmenter = Segmenter.load(trained)
    task = DecathlonTask.load(job.data)
    slices = held_out_slices if job.run.slices == "held_out" else None
    report = evaluate(segmenter, task.part("test", file=run_split_file(trained)), task.labels, slices)
    preprocessing = segmenter.model.preprocessing
    result = {
        "run": job.run.name,
        "seed": job.seed,
        "network": segmenter.model.network,
        "parameters": report["parameters"],
        "macs": count_macs(segmenter.network, (preprocessing.in_channels, preprocessing.size, preprocessing.size)),
        "size": preprocessing.size,
        "seconds": sum(row["seconds"] for row in history),
        "history": [
            {key: row[key] for key in ("epoch", "loss", "val_dice", "seconds") if key in row} for row in history
        ],
        "cases": report["cases"],
        "pooled": report["pooled_slices"],
        "machine": machine_facts(),
        "recipe": job.recipe(),
    }
    write_json(job.out / RESULT_FILE, result)


def is_finished(job: Job) -> bool:
    """Whether the job has its figures.

    Raises:
        UserError: there are figures, but of another recipe.
    """
    result = read_result(job)
    if result is not None and result["recipe"] != job.recipe():
        raise UserError(
            f"{job.out} holds a run of another recipe than the study now has: choose another --out, or delete it."
        )
    return result is not None


def read_result(job: Job) -> dict[str, Any] | None:
    """The figures of a finished job, else None."""
    file = job.out / RESULT_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
