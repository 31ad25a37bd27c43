"""Runs a study: every job that is not done, in the order of the study, several at a time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medkd.data.decathlon import DecathlonTask
from medkd.errors import UserError
from medkd.files import write_json
from medkd.study.job import FAILED_FILE, Job, jobs_of, read_json, read_result
from medkd.study.latency import measure_latencies
from medkd.study.lock import only_study_in
from medkd.study.outcome import Failure, Outcome, log_file, standing
from medkd.study.plan import Study
from medkd.study.progress import Progress
from medkd.study.workers import Task, do_job, do_job_on_node, how_it_failed
from medkd.workers import Died, LocalWorkers, RayWorkers, Workers


def run_study(
    study: Study, out: str | Path, processes: int | None = None, retry: bool = False, ray: str | None = None
) -> Outcome:
    """Do what is left of a study, then measure how long its networks take.

    A finished job is never done again, and one that was stopped goes on where it was. A failed one holds up those that
    need it and no other, and is left alone until ``retry``. The processes import the program that calls this: call it
    under ``if __name__ == "__main__":``.

    Args:
        study: what to run.
        out: folder for runs, logs and figures; other studies may have used it.
        processes: jobs at a time; by default as many as the cores allow, or one where there is a GPU.
        retry: try those again that failed.
        ray: None for processes of this machine, without Ray. Else the address of a Ray cluster, or nothing for the one
            of this machine, which is started if there is none. All its nodes must see ``out`` and the data under the
            same path and have the same medkd.

    Returns:
        What is finished, what failed, what waits.

    Raises:
        UserError: a study is running in the folder, it cannot be written to, the data lacks the study's label, or Ray
            is missing or does not answer.
    """
    if processes is not None and processes < 1:
        raise UserError(f"--jobs is {processes}: give 1 or more.")
    out = Path(out).resolve()
    with only_study_in(out):
        plan = out / f"{study.name}.plan.json"
        if plan.is_file() and (scale := read_json(plan).get("scale")) != study.scale:
            raise UserError(f"{out} holds {study.name} at the scale {scale}: choose another --out.")
        if study.phantom is not None:
            _make_phantoms(out / "data", dict(study.phantom))
        jobs = jobs_of(study, out)
        for data in dict.fromkeys(job.data for job in jobs):
            _check_label(study.label, Path(data))
        write_json(plan, study.to_dict())
        outcome = standing(jobs, out, retry)
        if outcome.left(jobs):
            workers = _hire(study, processes, ray)
            try:
                run_jobs(jobs, out, outcome, workers, Progress(study, jobs, workers.size))
            finally:
                workers.stop()
        measure_latencies(study, out, outcome.results)
    return outcome


def run_jobs(
    jobs: Sequence[Job], out: Path, outcome: Outcome, workers: Workers[Task, str | None], progress: Progress
) -> None:
    """Let workers do all jobs that are left.

    They come in their order, which is that of the study file; one that needs another waits until that is done.

    Args:
        jobs: of the study, each behind what it needs.
        out: folder of the study.
        outcome: how they stand; it is brought up to date.
        workers: who do them.
        progress: is told.
    """
    queue = outcome.left(jobs)
    under_way = 0
    progress.begin(outcome)
    while True:
        ready = [job for job in queue if all(name in outcome.results for name in job.needs)]
        for job in ready[: workers.size - under_way]:
            queue.remove(job)
            log = log_file(out, job.id)
            _make(log)
            workers.start((job, log))
            under_way += 1
        if not under_way:
            return
        (job, log), ended = workers.wait()
        under_way -= 1
        sentence = how_it_failed(ended) if isinstance(ended, Died) else ended
        result = read_result(job) if sentence is None else None
        if result is not None:
            outcome.results[job.id] = result
        else:
            failure = Failure(sentence or f"it has left no figures in {job.out}.", log)
            outcome.failed[job.id] = failure
            write_json(job.out / FAILED_FILE, {"error": failure.sentence, "log": str(failure.log)})
            outcome.note_waiting(jobs)
        progress.ended(job, outcome)


def _make(log: Path) -> None:
    """Let there be a log, by which a node of a cluster sees whether it shares the study's folder."""
    with contextlib.suppress(OSError):  # Its job tells.
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()


def _make_phantoms(folder: Path, phantom: dict[str, Any]) -> None:
    """Write the synthetic volumes unless they are there."""
    from medkd.data.phantom import write_phantom_task

    file = folder / "phantom.json"
    if not (folder / "dataset.json").is_file():
        print(f"making {phantom['volumes']} synthetic CT volumes", flush=True)
        write_json(file, phantom)
        write_phantom_task(folder, **phantom)
    elif not file.is_file() or json.loads(file.read_text(encoding="utf-8")) != phantom:
        raise UserError(f"{folder} holds other volumes than the study asks for: choose another --out.")


def _check_label(label: str, data: Path) -> None:
    """Refuse a label that no run could be judged by, before hours of training."""
    labels = DecathlonTask.load(data, check_files=False).labels.values()
    if label not in labels:
        raise UserError(f"the study shows the label {label!r}, and {data} has {', '.join(labels)}: set 'label'.")


def _hire(study: Study, processes: int | None, ray: str | None) -> Workers[Task, str | None]:
    if ray is None:
        return LocalWorkers(do_job, processes or _default_processes(study.threads))
    return RayWorkers(do_job_on_node, ray, study.threads, processes)


def _default_processes(threads: int) -> int:
    import torch

    if torch.cuda.is_available():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads)
