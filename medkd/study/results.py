"""The figures of all runs of a study in one small JSON, from which its report is made."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.run_folder import SPLIT_FILE
from medkd.study.job import Job, jobs_of
from medkd.study.latency import latencies
from medkd.study.outcome import standing
from medkd.study.plan import Study
from medkd.study.study_file import published_figures

_KEPT = ("run", "seed", "network", "parameters", "macs", "size", "seconds")
_IN_HISTORY = ("epoch", "loss", "val_dice", "seconds")
_SPLIT = {"train": "teacher_train", "student": "student_train_half", "val": "val", "test": "test"}
_DIGITS = 5
_ABSOLUTE = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"]+/)*([^\s/'\"]+)")


def gather(out: Path, study: Study) -> dict[str, Any]:
    """Collect what the runs of a study have left.

    Args:
        out: folder of the study.
        study: as it was planned.

    Returns:
        ``study`` (without folders of this machine), ``published`` figures by run, ``runs`` (results of the finished
        seeds, by run, with the study's label alone), ``failed`` (sentence by id), ``missing`` (ids of those that have
        not run), ``latency`` (seconds for a slice by run) with ``latency_threads``, ``machine`` of the first run,
        ``other_machines``, ``seconds`` (of all training), ``split`` (numbers of volumes that ``train`` the teacher, and
        of those the ``student``, None where it has another share than half; ``val`` and ``test``; None where nothing is
        trained). Numbers have five significant digits.
    """
    out = out.resolve()
    jobs = jobs_of(study, out)
    outcome = standing(jobs, out)
    finished = [outcome.results[job.id] for job in jobs if job.id in outcome.results]
    machines: list[dict[str, Any]] = []
    for result in finished:
        if result["machine"] not in machines:
            machines.append(result["machine"])
    folders = [out] if study.data is None else [out, Path(study.data)]
    by_run: dict[str, list[dict[str, Any]]] = {}
    for result in finished:
        by_run.setdefault(result["run"], []).append(_kept(result, study.label))
    results = {
        "study": _without_folders(study.to_dict()),
        "published": published_figures(study.published),
        "runs": {run.name: by_run[run.name] for run in study.runs if run.name in by_run},
        "failed": {id: _without_paths(failure.sentence, folders) for id, failure in outcome.failed.items()},
        "missing": [job.id for job in jobs if job.id not in outcome.results | outcome.failed],
        "latency": latencies(out, study, outcome.results),
        "latency_threads": study.threads,
        "machine": machines[0] if machines else None,
        "other_machines": machines[1:],
        "seconds": sum(result["seconds"] for result in finished),
        "split": _split([job for job in jobs if job.id in outcome.results]),
    }
    # What is written and what is reported are the same numbers, and lists are lists in both.
    return json.loads(json.dumps(_rounded(results)))


def _split(jobs: Sequence[Job]) -> dict[str, int | None] | None:
    """How many volumes the runs share out, which is the same for all, by the first that trained."""
    for job in jobs:
        file = job.out / SPLIT_FILE
        if file.is_file():
            names = json.loads(file.read_text(encoding="utf-8"))
            return {key: len(names[name]) if name in names else None for key, name in _SPLIT.items()}
    return None


def _kept(result: Mapping[str, Any], label: str) -> dict[str, Any]:
    return {
        **{key: result[key] for key in _KEPT},
        "history": [{key: row[key] for key in _IN_HISTORY if key in row} for row in result["history"]],
        "cases": [{"name": case["name"], "labels": {label: case["labels"][label]}} for case in result["cases"]],
        "pooled": {label: result["pooled"][label]},
    }


def _without_folders(value: Any) -> Any:
    """The value with the name of every file or folder in place of its path: a report is read on other machines."""
    if isinstance(value, Mapping):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _without_paths(sentence: str, folders: Sequence[Path]) -> str:
    """The sentence with what lies in ``folders`` relative to them, and with other paths cut down to their last part."""
    for folder in folders:
        sentence = sentence.replace(f"{folder}{os.sep}", "").replace(str(folder), folder.name)
    return _ABSOLUTE.sub(r"\1", sentence)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
