"""Distillation methods: small configs that say which terms the student learns from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

import yaml

from medkd.bundle import STUDENT, bundle_folder
from medkd.errors import UserError
from medkd.files import read_yaml

DEFAULT_METHOD = "mtms"
_KEYS = ("method", "weights", "distillation")


def method_names() -> list[str]:
    """The methods that come with medkd, the default one first."""
    files = sorted(_configs().glob("distill_*.yaml"))
    return [DEFAULT_METHOD, *(file.stem.removeprefix("distill_") for file in files)]


def method_file(method: str | Path) -> Path | None:
    """The config that a method puts over ``distill.yaml``; None for the method that ``distill.yaml`` itself holds.

    Args:
        method: a name, or a YAML file with the keys ``weights`` and ``distillation`` like those of ``distill.yaml``.

    Raises:
        UserError: there is no such method, or the file cannot be used.
    """
    if Path(method).suffix in (".yaml", ".yml"):
        return _own_file(Path(method))
    if method not in method_names():
        near = difflib.get_close_matches(str(method), method_names(), n=1)
        hint = (
            f"did you mean {near[0]}?" if near else f"choose one of {', '.join(method_names())}, or give a .yaml file."
        )
        raise UserError(f"there is no method {str(method)!r}: {hint}")
    return None if method == DEFAULT_METHOD else _configs() / f"distill_{method}.yaml"


def method_weights(method: str | Path) -> dict[str, float]:
    """The weights of a method's terms by their names, without that of the segmentation.

    Raises:
        UserError: see :func:`method_file`.
    """
    weights = _read(method_file(method) or _configs() / "distill.yaml")["weights"]
    return {name: float(weight) for name, weight in weights.items() if name != "segmentation"}


def describe_method(method: str | Path) -> dict[str, Any]:
    """What a method is made of.

    Returns:
        ``name``, ``paper``, the ``segmentation_weight``, and ``terms``: a list of ``name``, ``loss``, ``weight``,
        ``student_tap`` and ``teacher_tap`` (None for the logits), and ``place``, what is compared in words. Terms of
        weight 0 are left out.

    Raises:
        UserError: see :func:`method_file`.
    """
    content = _read(_configs() / "distill.yaml")
    file = method_file(method)
    if file is not None:
        content |= {"method": {"name": file.stem}} | _read(file)
    weights = content["weights"]
    terms = []
    for term in content["distillation"]:
        weight = term.get("weight", 1.0)
        if isinstance(weight, str):
            weight = weights.get(weight.removeprefix("@weights::"), weight)
        if weight:
            terms.append(
                {
                    "name": term["name"],
                    "loss": term["loss"]["_target_"].rpartition(".")[2],
                    "weight": weight,
                    "student_tap": term.get("student_tap"),
                    "teacher_tap": term.get("teacher_tap"),
                    "place": _place(term),
                }
            )
    about = content["method"]
    return {
        "name": about.get("name", Path(method).stem),
        "paper": about.get("paper"),
        "segmentation_weight": weights["segmentation"],
        "terms": terms,
    }


def format_methods(descriptions: list[dict[str, Any]]) -> str:
    """The methods as a text of at most 80 columns."""
    lines = []
    for method in descriptions:
        lines += wrap(f"{method['name']}: {method['paper'] or 'a mix of your own'}", 80, subsequent_indent="  ")
        terms = [{"name": "segmentation", "loss": "", "weight": method["segmentation_weight"], "place": ""}]
        terms += method["terms"]
        lines += [f"  {t['weight']:>7}  {t['name']:<21}{t['loss']:<31}{t['place']}".rstrip() for t in terms]
    return "\n".join(lines)


def _place(term: Mapping[str, Any]) -> str:
    if term["_target_"].endswith(".MixedSlicesHandler"):
        return "mixed slices"
    student, teacher = term.get("student_tap") or "logits", term.get("teacher_tap") or "logits"
    return student if student == teacher else f"{student} / {teacher}"


def format_terms(row: Mapping[str, Any]) -> str:
    """What each term did in one epoch of ``history.json``, as a table: which one the student listens to."""
    lines = [f"{'epoch ' + str(row['epoch']):<24}{'value':>12}{'weighted':>12}{'gradient norm':>16}"]
    for name in row["gradient"]:
        figures = row[name], row["weighted"][name], row["gradient"][name]
        lines.append(f"  {name:<22}{figures[0]:>12.4g}{figures[1]:>12.4g}{figures[2]:>16.4g}")
    return "\n".join(lines)


def _configs() -> Path:
    return bundle_folder(STUDENT) / "configs"


def _own_file(file: Path) -> Path:
    if not file.is_file():
        raise UserError(f"{file} is missing: give a method's name or a YAML file.")
    content = _read(file)
    extra = ", ".join(str(key) for key in content if key not in _KEYS)
    if extra:
        raise UserError(f"{file} sets {extra}: a method has {', '.join(_KEYS)}; give the rest as --name value.")
    if not {"weights", "distillation"} <= set(content):
        raise UserError(f"{file} is no method: give it 'weights' and 'distillation' like those of distill.yaml.")
    if not isinstance(content["weights"], Mapping) or "segmentation" not in content["weights"]:
        raise UserError(f"{file} has no weight of the segmentation: add 'segmentation' to 'weights'.")
    if not isinstance(content["distillation"], list):
        raise UserError(f"{file} has no list of terms: make 'distillation' a list like that of distill.yaml.")
    for name, weight in content["weights"].items():
        if not isinstance(weight, (int, float)):
            raise UserError(f"{file} gives {name} the weight {weight!r}: write a number, such as 0.1 or 1.0e-3.")
    for term in content["distillation"]:
        _check_term(term, content["weights"], file)
    if not isinstance(content.get("method", {}), Mapping):
        raise UserError(f"{file} has a 'method' that is no mapping: give it 'name' and 'paper', or leave it out.")
    return file


def _check_term(term: Any, weights: Mapping[str, Any], file: Path) -> None:
    if not isinstance(term, Mapping) or not {"_target_", "name", "loss"} <= set(term):
        raise UserError(f"{file} has a term {term!r}: give each a '_target_', 'name' and 'loss' as in distill.yaml.")
    if not isinstance(term["loss"], Mapping) or "_target_" not in term["loss"]:
        raise UserError(
            f"{file}: the term {term['name']} has no loss, give it a '_target_' such as medkd.losses.HintLoss."
        )
    weight = term.get("weight", 1.0)
    name = str(weight).removeprefix("@weights::")
    if not isinstance(weight, (int, float)) and name not in weights:
        raise UserError(f"{file} has no weight {name!r} for the term {term['name']}: add it to 'weights'.")


def _read(file: Path) -> dict[str, Any]:
    try:
        content = read_yaml(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file} is no YAML ({reason}): mend it, or choose a method of medkd.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is no method: give it 'weights' and 'distillation' like those of distill.yaml.")
    return content
