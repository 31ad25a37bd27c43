"""Expanding the runs of a study file: what each is trained with at one scale."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.errors import UserError
from medkd.methods import DEFAULT_METHOD, method_file, method_names, method_weights
from medkd.recipes import check_overrides
from medkd.study.keys import check_keys
from medkd.study.plan import Run

# What a run may be: its bundle and config.
RECIPES = {"teacher": (TEACHER, "train"), "alone": (STUDENT, "train"), "distill": (STUDENT, "distill")}
_RUN_KEYS = {
    "title": str, "recipe": str, "network": str, "teacher": str, "method": str, "terms": list, "overrides": dict,
    "of": str, "slices": str, "once": bool, "start": str, "dataset": str,
}  # fmt: skip


def expand_runs(study: Mapping[str, Any], scale: Mapping[str, Any], file: Path) -> tuple[Run, ...]:
    """All runs of a study at one scale, those that others need before them, else in the order of the file.

    Args:
        study: content of the file.
        scale: what it says of the scale.
        file: the study file, beside which methods are looked for.

    Raises:
        UserError: a run cannot be what it is said to be.
    """
    specs = study.get("runs") or {}
    if not specs:
        raise UserError(f"{file.name} has no runs: list some under 'runs'.")
    check_keys(scale.get("recipes") or {}, dict.fromkeys(RECIPES, dict), file, "'recipes' of the scale")
    networks = scale.get("networks") or {}
    check_keys(networks, dict.fromkeys(networks, dict), file, "'networks' of the scale")
    for name in networks:
        _check_network(name, file, "'networks' of the scale")
    chosen = {**(study.get("weights") or {}), **(scale.get("weights") or {})}
    runs = [_run(str(name), spec, study, scale, chosen, file) for name, spec in specs.items()]
    _check_weights(chosen, runs, file)
    for run in runs:
        for other in (run.teacher, run.of, run.start):
            found = None if other is None else find_run(other, runs, file, f"the run {run.name}")
            if found is not None and (found.of or found.name == run.name):
                raise UserError(f"{file.name}: {run.name} needs {found.name}, which trains no model: choose another.")
    return _in_order(runs)


def find_run(name: str, runs: Sequence[Run], file: Path, where: str) -> Run:
    """The run of this name.

    Raises:
        UserError: there is none.
    """
    for run in runs:
        if run.name == name:
            return run
    near = difflib.get_close_matches(str(name), [run.name for run in runs], n=1)
    hint = f"did you mean {near[0]}?" if near else "add it under 'runs'."
    raise UserError(f"{file.name}: {where} names the run {name!r}, which there is none of: {hint}")


def is_distilled(run: Run, runs: Sequence[Run]) -> bool:
    """Whether a run, or the one whose model it evaluates, listens to its teacher.

    A control has a teacher too, but no term with a weight and none of its labels.
    """
    run = next((other for other in runs if other.name == run.of), run)
    if run.teacher is None:
        return False
    if (run.overrides or {}).get("unlabelled"):
        return True
    weights = {f"weights::{term}": weight for term, weight in method_weights(run.method or DEFAULT_METHOD).items()}
    return any((run.overrides or {}).get(key, weight) for key, weight in weights.items())


def _run(
    name: str, spec: Any, study: Mapping[str, Any], scale: Mapping[str, Any], chosen: Mapping[str, float], file: Path
) -> Run:
    what = f"the run {name}"
    check_keys(spec, _RUN_KEYS, file, what)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise UserError(f"{file.name}: {what} cannot be called so: use letters, digits and dashes.")
    slices = spec.get("slices")
    if slices not in (None, "held_out"):
        raise UserError(f"{file.name}: {what} evaluates on slices {slices!r}: give held_out, or leave it out.")
    title = spec.get("title", name)
    if "of" in spec:
        extra = sorted(set(spec) - {"title", "of", "slices"})
        if extra:
            raise UserError(f"{file.name}: {what} evaluates the model of {spec['of']} and has {extra[0]}: remove it.")
        return Run(name, title, of=spec["of"], slices=slices)
    if spec.get("recipe") not in RECIPES or "network" not in spec:
        raise UserError(f"{file.name}: {what} needs a network and a recipe, one of {', '.join(RECIPES)}.")
    is_student = spec["recipe"] == "distill"
    if ("teacher" in spec) != is_student:
        raise UserError(
            f"{file.name}: {what} has the recipe {spec['recipe']}: give a teacher with distill, and only then."
        )
    if not is_student and {"terms", "method"} & set(spec):
        raise UserError(f"{file.name}: {what} is not distilled: remove 'terms' and 'method'.")
    _check_network(spec["network"], file, what)
    bundle, config = RECIPES[spec["recipe"]]
    method = _method(spec.get("method"), file)
    overrides = {
        "network_name": spec["network"],
        **((scale.get("networks") or {}).get(spec["network"]) or {}),
        **((scale.get("recipes") or {}).get(spec["recipe"]) or {}),
        **(_weights(spec.get("terms"), method, chosen, file, what) if is_student else {}),
        **(spec.get("overrides") or {}),
        **_split(study, file),
    }
    files = [bundle_folder(bundle) / "configs" / f"{config}.yaml"]
    own = None if method is None else method_file(method)
    try:
        check_overrides([*files, *([own] if own else [])], overrides)
    except UserError as error:
        raise UserError(f"{file.name}: {what}: {error}") from error
    once = spec.get("once", False)
    others = {key: spec.get(key) for key in ("teacher", "start", "dataset")}
    return Run(name, title, bundle, config, overrides, method, slices=slices, once=once, **others)


def _split(study: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The split of the study, for every run that is trained; a file is looked for beside the study file."""
    split: dict[str, Any] = {}
    if "split_seed" in study:
        split["split_seed"] = study["split_seed"]
    if "split_file" in study:
        found = file.parent / study["split_file"]
        if not found.is_file():
            raise UserError(f"{file.name}: its split_file {found} is missing: put it there or leave it out.")
        split["split_file"] = str(found.resolve())
    return split


def _method(method: str | None, file: Path) -> str | None:
    """The method of a run; a file is looked for beside the study file."""
    if method is None:
        return None
    if Path(method).suffix in (".yaml", ".yml"):
        return str((file.parent / method).resolve())
    method_file(method)
    return method


def _weights(
    terms: Sequence[str] | None, method: str | None, chosen: Mapping[str, float], file: Path, what: str
) -> dict[str, float]:
    """The weights of the terms that a run lists, as the study has them or else the method; 0 for the others."""
    own = method_weights(method or DEFAULT_METHOD)
    if terms is None:
        return {f"weights::{term}": chosen[term] for term in own if term in chosen}
    for term in terms:
        if term not in own:
            raise UserError(f"{file.name}: {what} has no term {term!r}: choose among {', '.join(own)}.")
    weights = {**own, **{term: chosen[term] for term in own if term in chosen}}
    return {f"weights::{term}": weights[term] if term in terms else 0.0 for term in own}


def _check_weights(chosen: Mapping[str, Any], runs: Sequence[Run], file: Path) -> None:
    """Refuse weights of terms that no method has, which would change nothing."""
    methods = {*method_names(), *(run.method for run in runs if run.method)}
    known = {term for method in methods for term in method_weights(method)}
    for term, weight in chosen.items():
        if term not in known:
            near = difflib.get_close_matches(str(term), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(sorted(known))}."
            raise UserError(f"{file.name}: 'weights' has {term!r}, a term of no method: {hint}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise UserError(f"{file.name}: the weight of {term} is {weight!r}: give a number.")


def _check_network(name: str, file: Path, where: str) -> None:
    from medkd.networks import network_names
    from medkd.networks.registry import MONAI_NETWORKS

    if not str(name).startswith(MONAI_NETWORKS) and name not in network_names():
        near = difflib.get_close_matches(str(name), network_names(), n=1)
        hint = f"did you mean {near[0]}?" if near else "see medkd networks."
        raise UserError(f"{file.name}: {where} names the network {name!r}, which there is none of: {hint}")


def _in_order(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs with those that others need before them, else as they stand."""
    by_name = {run.name: run for run in runs}
    ordered: dict[str, Run] = {}

    def add(run: Run, below: tuple[str, ...]) -> None:
        if run.name in below:
            raise UserError(f"the runs {', '.join(below)} need each other: let one have no teacher and no start.")
        for other in (run.teacher, run.of, run.start):
            if other is not None:
                add(by_name[other], (*below, run.name))
        ordered.setdefault(run.name, run)

    for run in runs:
        add(run, ())
    return tuple(ordered.values())
