"""What a study says while it runs: a line for every run that ends, in 80 columns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from textwrap import fill, shorten
from typing import Any

from medkd.study.job import Job
from medkd.study.outcome import Outcome
from medkd.study.plan import Study

WIDTH = 80
# What a line of a finished run takes without its number and id: Dice, its time, how much is left.
_FIGURES = 52


class Progress:
    """Prints how far a study is.

    Args:
        study: what runs.
        jobs: all of it.
        size: how many are done at a time.
    """

    def __init__(self, study: Study, jobs: Sequence[Job], size: int) -> None:
        self.study = study
        self.jobs = jobs
        self.size = size

    def begin(self, outcome: Outcome) -> None:
        """Say what is done already and what is left."""
        done = f"{len(outcome.results)} of {len(self.jobs)} runs done"
        failed = f", {len(outcome.failed)} failed" if outcome.failed else ""
        waiting = f", {len(outcome.waiting)} waiting for them" if outcome.waiting else ""
        at_a_time = f"{self.size} at a time" if self.size > 1 else "one at a time"
        left = f"{self._left(outcome).strip()}, {at_a_time}"
        print(fill(f"{self.study.name}: {done}{failed}{waiting}, {left}", WIDTH), flush=True)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """Say how a run went."""
        digits = len(str(len(self.jobs)))
        number = f"[{len(outcome.results) + len(outcome.failed):>{digits}}/{len(self.jobs)}] "
        if job.id in outcome.failed:
            failure = f"{job.id} failed: {outcome.failed[job.id].sentence}"
            line = shorten(failure, WIDTH - len(number), placeholder=" ...")
        else:
            result = outcome.results[job.id]
            width = min(max(len(other.id) for other in self.jobs), WIDTH - len(number) - digits - _FIGURES)
            line = (
                f"{_shorten(job.id, width):<{width}}  Dice {mean_dice(result, self.study.label):.3f}"
                f"  {duration(result['seconds']):>11}"
                f"  {self._left(outcome)}"
            )
        print(number + line, flush=True)

    def _left(self, outcome: Outcome) -> str:
        """How many runs are left and how long they will take.

        That is estimated from the finished ones with the same network and config, or from all where there is none; not
        before half of those that are left have such an example.
        """
        number = f"{len(outcome.left(self.jobs)):>{len(str(len(self.jobs)))}} left"
        seconds: dict[tuple[Any, ...], list[float]] = {}
        for job in self.jobs:
            if job.id in outcome.results and job.run.of is None:
                seconds.setdefault(_kind(job), []).append(outcome.results[job.id]["seconds"])
        # Evaluating what another run has trained takes no time beside a training.
        left = [job for job in outcome.left(self.jobs) if job.run.of is None]
        # A teacher takes a hundred times as long as a student: where few kinds have run, nobody knows.
        if sum(_kind(job) in seconds for job in left) < len(left) / 2:
            return f"{number}, time unknown"
        everything = [value for values in seconds.values() for value in values]
        total = sum(statistics.fmean(seconds.get(_kind(job), everything)) for job in left)
        return f"{number}, about {duration(total / max(1, min(self.size, len(left))))}"


def _kind(job: Job) -> tuple[Any, ...]:
    """What decides how long a run takes."""
    return job.run.bundle, job.run.config, (job.run.overrides or {}).get("network_name")


def mean_dice(result: Mapping[str, Any], label: str) -> float:
    """Over the test volumes."""
    return statistics.fmean(case["labels"][label]["dice"] for case in result["cases"])


def duration(seconds: float) -> str:
    """As people say it, at most 11 characters below 100 hours."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def _shorten(text: str, width: int) -> str:
    """The beginning and the end, which tell a run and its seed."""
    if len(text) <= width:
        return text
    end = width // 2
    return f"{text[: width - end - 1]}~{text[-end:]}"


def format_outcome(outcome: Outcome) -> str:
    """What failed and why, what waits for it, and what to do."""
    lines = [f"{len(outcome.failed)} failed:"]
    for name, failure in outcome.failed.items():
        sentence = f"  {name}: {failure.sentence}"
        lines.append(fill(sentence, WIDTH, subsequent_indent="    ", break_long_words=False))
        if failure.log.is_file():
            lines.append(f"    {failure.log}")
    if outcome.waiting:
        lines.append(f"{len(outcome.waiting)} waiting for them:")
        lines += [f"  {name} for {other}" for name, other in outcome.waiting.items()]
    retriable = sum(failure.retriable for failure in outcome.failed.values())
    if retriable:
        them = "them" if retriable == len(outcome.failed) else f"{retriable} of them"
        lines.append(f"--retry tries {them} again.")
    return "\n".join(lines)
