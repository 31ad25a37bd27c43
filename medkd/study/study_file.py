"""The study file: finding it, reading it, and what it says at one scale."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medkd.errors import UserError
from medkd.files import read_yaml
from medkd.study.expand import expand_runs, find_run, is_distilled
from medkd.study.keys import check_keys
from medkd.study.plan import Run, Study, Table

SCALES = ("smoke", "small", "full")

_FOLDER = Path(__file__).parent / "studies"
_STUDY_KEYS = {
    "title": str, "about": str, "data": str, "split_file": str, "split_seed": int, "label": str, "published": str,
    "pictures": dict, "weights": dict, "runs": dict, "tables": list, "scales": (dict, str),
}  # fmt: skip
_SCALE_KEYS = {
    "phantom": dict, "seeds": list, "threads": int, "recipes": dict, "networks": dict, "weights": dict, "scaled": list,
}  # fmt: skip
_TABLE_KEYS = {"title": str, "source": str, "note": str, "control": str, "published_control": str, "rows": list}
_PICTURE_KEYS = {"teacher": str, "student": str, "distilled": str}
_PHANTOM_KEYS = {"volumes": int, "seed": int, "shape": list}


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
    runs = expand_runs(content, at_scale, file)
    pictures = content.get("pictures") or {}
    check_keys(pictures, _PICTURE_KEYS, file, "'pictures'")
    for name in pictures.values():
        find_run(name, runs, file, "'pictures'")
    published = _published(content.get("published", ""), file)
    seeds = _seeds(at_scale, file)
    phantom = None if data is not None else at_scale.get("phantom")
    check_keys(phantom or {}, _PHANTOM_KEYS, file, "'phantom'")
    return Study(
        name=file.stem,
        title=content.get("title", file.stem),
        about=" ".join(content.get("about", "").split()),
        scale=scale,
        scaled=tuple(" ".join(str(sentence).split()) for sentence in at_scale.get("scaled", ())),
        data=None if phantom is not None else _data_folder(data, content.get("data"), file),
        phantom=phantom,
        label=content.get("label", "spleen"),
        seeds=seeds,
        threads=_threads(at_scale, file),
        published=content.get("published", ""),
        pictures=pictures,
        runs=runs,
        tables=tuple(_table(table, runs, len(seeds), published, file) for table in content.get("tables") or []),
        recipes={key: at_scale.get(key) or {} for key in ("recipes", "networks", "weights")},
    )


def count_runs(study: str | Path, scale: str) -> int:
    """How many models a study trains or evaluates at a scale, with all seeds; its data need not be there.

    Raises:
        UserError: there is no such study or scale.
    """
    file = _study_file(study)
    content, at_scale = _at_scale(file, scale)
    specs = content.get("runs") or {}
    once = sum(specs.get(spec.get("of"), spec).get("once", False) for spec in specs.values())
    return once + (len(specs) - once) * len(_seeds(at_scale, file))


def study_title(study: str | Path) -> str:
    """What a study is called for people."""
    file = _study_file(study)
    return str(_read(file).get("title", file.stem))


def published_figures(section: str) -> dict[str, Any]:
    """Figures of a paper, by the names of the runs that repeat them; none for a study without paper."""
    return dict(_read(_FOLDER / "published" / f"{section}.yaml")) if section else {}


def _published(section: str, file: Path) -> dict[str, Any]:
    known = sorted(path.stem for path in (_FOLDER / "published").glob("*.yaml"))
    if section and section not in known:
        raise UserError(f"{file.name}: no figures are called {section!r}: choose among {', '.join(known)}.")
    return published_figures(section)


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
    check_keys(content, _STUDY_KEYS, file, "the study")
    scales = content.get("scales") or {}
    if isinstance(scales, str):
        # Two studies at the same scales share their runs.
        other = file.parent / scales if Path(scales).suffix else scales
        scales = _read(_study_file(other)).get("scales") or {}
    if scale not in scales:
        raise UserError(f"{file.name} has no scale {scale!r}: choose one of {', '.join(scales) or 'none'}.")
    at_scale = scales[scale] or {}
    check_keys(at_scale, _SCALE_KEYS, file, f"the scale {scale}")
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


def _data_folder(given: str | Path | None, named: str | None, file: Path) -> str:
    """The task folder that was given, or that the study names; that may lie beside the study file."""
    if given is None and named is None:
        raise UserError(f"{file.name} names no data: give --data, a task folder.")
    expanded = os.path.expandvars(str(given or named))
    if "$" in expanded:
        raise UserError(f"{file.name} takes its data from {named}, which is not set: set it or give --data.")
    folder = Path(expanded) if given else file.parent / expanded
    if not (folder / "dataset.json").is_file():
        raise UserError(f"{folder} is no task folder (dataset.json is missing): give --data, a task folder.")
    return str(folder.resolve())


def _seeds(at_scale: Mapping[str, Any], file: Path) -> tuple[int, ...]:
    seeds = at_scale.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or len(set(map(str, seeds))) < len(seeds):
        raise UserError(f"{file.name} has the seeds {seeds!r}: give a list of different numbers, such as [0, 1].")
    if not all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds):
        raise UserError(f"{file.name} has the seeds {seeds!r}: give whole numbers of 0 or more.")
    return tuple(seeds)


def _threads(at_scale: Mapping[str, Any], file: Path) -> int:
    threads = int(at_scale.get("threads", 1))
    if threads < 1:
        raise UserError(f"{file.name} has {threads} threads: give 1 or more.")
    return threads


def _table(table: Any, runs: Sequence[Run], seeds: int, published: Mapping[str, Any], file: Path) -> Table:
    check_keys(table, _TABLE_KEYS, file, "a table")
    missing = sorted({"title", "control", "rows"} - set(table))
    if missing:
        raise UserError(f"{file.name} has a table without {missing[0]}: add it.")
    where = f"the table {table['title']!r}"
    rows = [find_run(name, runs, file, where) for name in table["rows"]]
    if not rows or len(set(table["rows"])) < len(rows):
        raise UserError(f"{file.name}: {where} has no row, or one twice: list each run once.")
    control = find_run(table["control"], runs, file, where)
    trained = control if control.of is None else find_run(control.of, runs, file, where)
    if trained.once and seeds > 1 and len(rows) > 1:
        raise UserError(f"{file.name}: {where} has the control {control.name}, trained once: gains need every seed.")
    alone = table.get("published_control", "")
    if alone and alone not in published:
        raise UserError(f"{file.name}: {where} counts published gains from {alone!r}, which has no published figure.")
    return Table(
        title=table["title"],
        source=table.get("source", ""),
        note=" ".join(table.get("note", "").split()),
        control=control.name,
        published_control=alone,
        rows=tuple(run.name for run in rows),
        distilled=tuple(run.name for run in rows if is_distilled(run, runs) and run != control),
    )
