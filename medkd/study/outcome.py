"""How the jobs of a study stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medkd.errors import UserError
from medkd.study.job import FAILED_FILE, Job, read_json, read_result


@dataclass(frozen=True)
class Failure:
    """Why a job failed.

    Attributes:
        sentence: for people.
        log: file with all that it printed.
        retriable: whether trying again could help; not where the folder holds another run.
    """

    sentence: str
    log: Path
    retriable: bool = True


@dataclass
class Outcome:
    """What is finished, what failed, what waits for it.

    Attributes:
        results: of the finished jobs, by id.
        failed: by id.
        waiting: id of a job that cannot run to the id of the failed one that it waits for.
    """

    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        """Whether nothing failed or waits."""
        return not self.failed and not self.waiting

    def left(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of the jobs that can still be done."""
        return [job for job in jobs if job.id not in self.results | self.failed | self.waiting]

    def note_waiting(self, jobs: Sequence[Job]) -> None:
        """Find those of the jobs, each behind what it needs, that wait for a failed one."""
        for job in jobs:
            held_up = [name for name in job.needs if name in self.failed | self.waiting]
            if held_up and job.id not in self.results | self.failed:
                self.waiting[job.id] = self.waiting.get(held_up[0], held_up[0])


def standing(jobs: Sequence[Job], out: Path, retry: bool = False) -> Outcome:
    """How jobs stand by the files of their runs.

    Args:
        jobs: each behind what it needs.
        out: folder of the study.
        retry: whether those that failed count as not done.
    """
    outcome = Outcome()
    for job in jobs:
        log, file = log_file(out, job.id), job.out / FAILED_FILE
        try:
            result = read_result(job)
            if result is not None:
                outcome.results[job.id] = result
            elif file.is_file() and not retry:
                outcome.failed[job.id] = Failure(read_json(file)["error"], log)
        except UserError as error:  # Another run, or a damaged file.
            outcome.failed[job.id] = Failure(str(error), log, retriable=False)
    outcome.note_waiting(jobs)
    return outcome


def log_file(out: Path, job_id: str) -> Path:
    """Where all that a job prints goes."""
    return out / "logs" / f"{job_id}.log"
