"""Where the figures of a study come from, in plain text: command, machine, data, scale, and what every run was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medkd.study.page import duration
from medkd.study.study_file import ready_studies
from medkd.study.wording import NOTHING, count


@dataclass(frozen=True)
class RunFacts:
    """What a run was; a dash where it has no such thing.

    Attributes:
        name: in the study.
        title: for people.
        recipe: bundle and config that train it, or the run whose model it evaluates; whether it is trained once only.
        network: name in the registry.
        teacher: name of the run that teaches.
        method: of distillation; of a file its name.
        overrides: of the config but for the network, as names and values.
    """

    name: str
    title: str
    recipe: str
    network: str
    teacher: str
    method: str
    overrides: tuple[tuple[str, str], ...]


def run_facts(results: Mapping[str, Any]) -> list[RunFacts]:
    """What all runs were, in the order of the study.

    Args:
        results: what :func:`medkd.study.results.gather` returns.
    """
    return [_facts(run) for run in results["study"]["runs"]]


def _facts(run: Mapping[str, Any]) -> RunFacts:
    overrides = dict(run["overrides"] or {})
    network = overrides.pop("network_name", None)
    overrides |= {key: run[key] for key in ("start", "dataset") if run.get(key)}
    # A distillation that names no method has the one of its config.
    method = "of the recipe" if run["teacher"] and not run["method"] else run["method"] and Path(run["method"]).name
    return RunFacts(
        name=run["name"],
        title=run["title"],
        recipe=_recipe(run),
        network=network or NOTHING,
        teacher=run["teacher"] or NOTHING,
        method=method or NOTHING,
        overrides=tuple((key, str(value)) for key, value in overrides.items()),
    )


def _recipe(run: Mapping[str, Any]) -> str:
    slices = "on held-out slices" if run["slices"] == "held_out" else ""
    if run["of"] is not None:
        return f"evaluates {run['of']} {slices}".rstrip()
    recipe = f"{run['bundle']}/{run['config']}" + (", once for all seeds" if run.get("once") else "")
    return f"{recipe}, evaluated {slices}" if slices else recipe


def scaled_overrides(results: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What the scale changes in recipes, networks and weights: name of each, and its overrides as names and values."""
    own = results["study"]["recipes"]
    groups = {f"recipe {name}": overrides for name, overrides in own["recipes"].items()}
    groups |= {f"network {name}": overrides for name, overrides in own["networks"].items()}
    groups |= {"weights of the terms": own["weights"]}
    return [(name, [(key, str(value)) for key, value in group.items()]) for name, group in groups.items() if group]


def command(results: Mapping[str, Any]) -> str:
    """The command that makes these figures."""
    study = results["study"]
    name = study["name"] if study["name"] in ready_studies() else f"{study['name']}.yaml"
    data = "" if study["data"] is None else f" --data {study['data']}"
    return f"medkd study run {name} --scale {study['scale']}{data} --out DIR"


def made(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the figures come from: names and values."""
    study = results["study"]
    trained = sum(len(results["runs"].get(run["name"], [])) for run in study["runs"] if run["of"] is None)
    machines = [results["machine"], *results["other_machines"]] if results["machine"] else []
    return [
        ("Data", _data(results)),
        ("Seeds", ", ".join(map(str, study["seeds"]))),
        ("Threads of a run", str(study["threads"])),
        ("Machine", "; ".join(dict.fromkeys(_machine(machine) for machine in machines)) or NOTHING),
        ("Versions", "; ".join(dict.fromkeys(_versions(machine) for machine in machines)) or NOTHING),
        ("Training", f"{duration(results['seconds'])}, summed over {count(trained, 'run')}, without evaluation"),
    ]


def _data(results: Mapping[str, Any]) -> str:
    name, split = results["study"]["data"] or "synthetic volumes", results["split"]
    if split is None:
        return name
    teacher, student = f"{count(split['train'], 'volume')} to train", ""
    if split["student"] is not None:
        unlabelled = any((run["overrides"] or {}).get("unlabelled") for run in results["study"]["runs"])
        labelled = " (where it says unlabelled, the others as its teacher labels them)" if unlabelled else ""
        teacher, student = f"{teacher} the teacher", f"{split['student']} of them to train the student{labelled}, "
    return f"{name}: {teacher}, {student}{split['val']} to choose the epoch, {split['test']} to test"


def _machine(machine: Mapping[str, Any]) -> str:
    processor = f"{machine['processor']}, {machine['cores']} cores"
    return f"{machine['gpu']}, {processor}" if machine["gpu"] else processor


def _versions(machine: Mapping[str, Any]) -> str:
    names = {"medkd": "medkd", "Python": "python", "PyTorch": "torch", "MONAI": "monai"}
    return ", ".join(f"{name} {machine[key]}" for name, key in names.items())
