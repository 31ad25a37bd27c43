"""The study file: reading it, and expanding it at one scale to the runs that it asks for."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.errors import UserError
from medkd.files import read_yaml
from medkd.methods import DEFAULT_METHOD, method_file, method_weights
from medkd.recipes import check_overrides
from medkd.study.plan import Run, Study, Table

SCALES = ("smoke", "small", "full")
# What a run may be: its bundle and config.
RECIPES = {"teacher": (TEACHER, "train"), "alone": (STUDENT, "train"), "distill": (STUDENT, "distill")}

_FOLDER = Path(__file__).parent / "studies"
_STUDY_KEYS = {
    "title", "about", "data", "split_file", "split_seed", "label", "published", "pictures", "weights", "runs", "tables",
    "scales",
}  # fmt: skip
_SCALE_KEYS = {"phantom", "seeds", "threads", "recipes", "networks", "weights", "scaled"}
_RUN_KEYS = {"title", "recipe", "network", "teacher", "method", "terms", "overrides", "of", "slices"}
_TABLE_KEYS = {"title", "source", "note", "control", "published_control", "rows"}


def ready_studies() -> list[str]:
    """Names of the studies that come with medkd."""
    return sorted(file.stem for file in _FOLDER.glob("*.yaml"))


def load_study(study: str | Path, scale: str = "small", data: str | Path | None = None) -> Study:
    """Read a study file and expand it at one scale.

    Args:
        study: a file, or the name of one that comes with medkd.
        scale: smoke (minutes, on synthetic volumes), small (hours on a CPU) or full (as published, for a GPU).
        data: task folder to use instead of the one that the file names.

    Raises:
        UserError: there is no such study, or something in it cannot be used; the sentence names it.
    """
    file = _study_file(study)
    content, at_scale = _at_scale(file, scale)
    runs = tuple(_run(name, spec, content, at_scale, file) for name, spec in (content.get("runs") or {}).items())
    _check_references(runs, file)
    pictures = content.get("pictures") or {}
    for name in pictures.values():
        _find(name, runs, file, "'pictures'")
    phantom = None if data is not None else at_scale.get("phantom")
    return Study(
        name=file.stem,
        title=content.get("title", file.stem),
        about=" ".join(str(content.get("about", "")).split()),
        scale=scale,
        scaled=tuple(" ".join(sentence.split()) for sentence in at_scale.get("scaled", ())),
        data=None if phantom is not None else _data_folder(data or content.get("data"), file),
        phantom=phantom,
        split_file=content.get("split_file"),
        split_seed=content.get("split_seed"),
        label=content.get("label", "spleen"),
        seeds=_seeds(at_scale, file),
        threads=int(at_scale.get("threads", 1)),
        published=content.get("published", ""),
        pictures=pictures,
        runs=_in_order(runs),
        tables=tuple(_table(table, runs, file) for table in content.get("tables") or []),
        recipes={key: at_scale.get(key) or {} for key in ("recipes", "networks", "weights")},
    )


def count_runs(study: str | Path, scale: str) -> int:
    """How many models a study trains or evaluates at a scale, with all seeds; its data need not be there.

    Raises:
        UserError: there is no such study or scale.
    """
    file = _study_file(study)
    content, at_scale = _at_scale(file, scale)
    return len(content.get("runs") or {}) * len(_seeds(at_scale, file))


def study_title(study: str | Path) -> str:
    """What a study is called for people."""
    file = _study_file(study)
    return str(_read(file).get("title", file.stem))


def published_figures(section: str) -> dict[str, Any]:
    """Figures of a paper, by the names of the runs that repeat them; none for a study without paper."""
    return dict(_read(_FOLDER / "published" / f"{section}.yaml")) if section else {}


def _study_file(study: str | Path) -> Path:
    file = Path(study)
    if file.suffix in (".yaml", ".yml"):
        if not file.is_file():
            raise UserError(f"{file} is missing: give a study file, or one of {', '.join(ready_studies())}.")
        return file
    if str(study) not in ready_studies():
        near = difflib.get_close_matches(str(study), ready_studies(), n=1)
        hint = f"did you mean {near[0]}?" if near else f"give a .yaml file, or one of {', '.join(ready_studies())}."
        raise UserError(f"there is no study {str(study)!r}: {hint}")
    return _FOLDER / f"{study}.yaml"


def _at_scale(file: Path, scale: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The content of a study file, and what it says of one scale."""
    content = _read(file)
    _known(content, _STUDY_KEYS, file, "the study")
    scales = content.get("scales") or {}
    if isinstance(scales, str):
        # Two studies at the same scales share their runs.
        scales = _read(_study_file(scales)).get("scales") or {}
    if scale not in scales:
        raise UserError(f"{file.name} has no scale {scale!r}: choose one of {', '.join(scales) or 'none'}.")
    at_scale = scales[scale] or {}
    _known(at_scale, _SCALE_KEYS, file, f"the scale {scale}")
    return content, at_scale


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_yaml(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is no YAML ({reason}): mend it.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is no study: give it 'runs', 'tables' and 'scales'.")
    return content


def _known(content: Any, keys: set[str], file: Path, what: str) -> None:
    if not isinstance(content, Mapping):
        raise UserError(f"{file.name}: {what} is no mapping: give it some of {', '.join(sorted(keys))}.")
    for key in content:
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(sorted(keys))}."
            raise UserError(f"{file.name}: {what} has no key {key!r}: {hint}")


def _data_folder(data: str | Path | None, file: Path) -> str:
    if data is None:
        raise UserError(f"{file.name} names no data: give --data, a task folder.")
    expanded = os.path.expandvars(str(data))
    if "$" in expanded:
        raise UserError(f"{file.name} takes its data from {data}, which is not set: set it or give --data.")
    if not (Path(expanded) / "dataset.json").is_file():
        raise UserError(f"{expanded} is no task folder (dataset.json is missing): give --data, a task folder.")
    return str(Path(expanded).resolve())


def _seeds(at_scale: Mapping[str, Any], file: Path) -> tuple[int, ...]:
    seeds = at_scale.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) < len(seeds):
        raise UserError(f"{file.name} has the seeds {seeds!r}: give a list of different numbers, such as [0, 1].")
    if not all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"{file.name} has the seeds {seeds!r}: give whole numbers of 0 or more.")
    return tuple(seeds)


def _run(name: str, spec: Any, study: Mapping[str, Any], scale: Mapping[str, Any], file: Path) -> Run:
    what = f"the run {name}"
    _known(spec, _RUN_KEYS, file, what)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", str(name)):
        raise UserError(f"{file.name}: {what} cannot be called so: use letters, digits and dashes.")
    slices = spec.get("slices")
    if slices not in (None, "held_out"):
        raise UserError(f"{file.name}: {what} evaluates on slices {slices!r}: give held_out, or leave it out.")
    title = str(spec.get("title", name))
    if "of" in spec:
        extra = sorted(set(spec) - {"title", "of", "slices"})
        if extra:
            raise UserError(f"{file.name}: {what} evaluates the model of {spec['of']} and has {extra[0]}: remove it.")
        return Run(name, title, of=str(spec["of"]), slices=slices)
    if spec.get("recipe") not in RECIPES or "network" not in spec:
        raise UserError(f"{file.name}: {what} needs a network and a recipe, one of {', '.join(RECIPES)}.")
    if ("teacher" in spec) != (spec["recipe"] == "distill"):
        raise UserError(
            f"{file.name}: {what} has the recipe {spec['recipe']}: give a teacher with distill, and only then."
        )
    if spec["recipe"] != "distill" and {"terms", "method"} & set(spec):
        raise UserError(f"{file.name}: {what} is not distilled: remove 'terms' and 'method'.")
    bundle, config = RECIPES[spec["recipe"]]
    method = _method(spec.get("method"), file)
    recipes = scale.get("recipes") or {}
    _known(recipes, set(RECIPES), file, "'recipes' of the scale")
    overrides = {
        "network_name": spec["network"],
        **((scale.get("networks") or {}).get(spec["network"]) or {}),
        **(recipes.get(spec["recipe"]) or {}),
        **_weights(spec, method, {**(study.get("weights") or {}), **(scale.get("weights") or {})}, file, what),
        **(spec.get("overrides") or {}),
        **{key: study[key] for key in ("split_file", "split_seed") if study.get(key) is not None},
    }
    files = [bundle_folder(bundle) / "configs" / f"{config}.yaml"]
    own = None if method is None else method_file(method)
    check_overrides([*files, *([own] if own else [])], overrides)
    return Run(name, title, bundle, config, overrides, method, spec.get("teacher"), None, slices)


def _method(method: Any, file: Path) -> str | None:
    """The method of a run; a file is looked for beside the study file."""
    if method is None:
        return None
    if Path(method).suffix in (".yaml", ".yml"):
        return str((file.parent / method).resolve())
    method_file(method)
    return str(method)


def _weights(
    spec: Mapping[str, Any], method: str | None, chosen: Mapping[str, float], file: Path, what: str
) -> dict[str, float]:
    """The weights of the terms that a run lists, as the study has them or else the method; 0 for the others."""
    if "terms" not in spec:
        return {}
    own = method_weights(method or DEFAULT_METHOD)
    for term in spec["terms"]:
        if term not in own:
            raise UserError(f"{file.name}: {what} has no term {term!r}: choose among {', '.join(own)}.")
    weights = {**own, **{term: chosen[term] for term in own if term in chosen}}
    return {f"weights::{term}": weights[term] if term in spec["terms"] else 0.0 for term in own}


def _find(name: str, runs: Sequence[Run], file: Path, where: str) -> Run:
    for run in runs:
        if run.name == name:
            return run
    near = difflib.get_close_matches(str(name), [run.name for run in runs], n=1)
    hint = f"did you mean {near[0]}?" if near else "add it under 'runs'."
    raise UserError(f"{file.name}: {where} names the run {name!r}, which there is none of: {hint}")


def _check_references(runs: Sequence[Run], file: Path) -> None:
    if not runs:
        raise UserError(f"{file.name} has no runs: list some under 'runs'.")
    for run in runs:
        for other in (run.teacher, run.of):
            found = None if other is None else _find(other, runs, file, f"the run {run.name}")
            if found is not None and (found.of or found.name == run.name):
                raise UserError(f"{file.name}: {run.name} needs {found.name}, which trains no model: choose another.")
    _in_order(runs)


def _in_order(runs: Sequence[Run]) -> tuple[Run, ...]:
    """The runs with those that others need before them, else as they stand."""
    by_name = {run.name: run for run in runs}
    ordered: dict[str, Run] = {}

    def add(run: Run, below: tuple[str, ...]) -> None:
        if run.name in below:
            raise UserError(f"the runs {', '.join(below)} teach each other: let one of them have no teacher.")
        for other in (run.teacher, run.of):
            if other is not None:
                add(by_name[other], (*below, run.name))
        ordered.setdefault(run.name, run)

    for run in runs:
        add(run, ())
    return tuple(ordered.values())


def _table(table: Any, runs: Sequence[Run], file: Path) -> Table:
    _known(table, _TABLE_KEYS, file, "a table")
    missing = sorted({"title", "control", "rows"} - set(table))
    if missing:
        raise UserError(f"{file.name} has a table without {missing[0]}: add it.")
    where = f"the table {table['title']!r}"
    rows = [_find(name, runs, file, where) for name in table["rows"]]
    control = _find(table["control"], runs, file, where)
    # The control may have the recipe of a distillation, but no term of it.
    distilled = [run.name for run in rows if run.teacher and any(_term_weights(run)) and run != control]
    return Table(
        title=table["title"],
        source=table.get("source", ""),
        note=" ".join(str(table.get("note", "")).split()),
        control=control.name,
        published_control=table.get("published_control", ""),
        rows=tuple(run.name for run in rows),
        distilled=tuple(distilled),
    )


def _term_weights(run: Run) -> list[float]:
    """Weights of a run's terms; one of 1 stands for those of a method that the study does not touch."""
    weights = [value for key, value in (run.overrides or {}).items() if key.startswith("weights::")]
    return weights or [1.0]
