"""The report of a study: JSON, Markdown and HTML with the same figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medkd.errors import UserError
from medkd.files import atomic_write, spread_json
from medkd.study.html_report import html_report
from medkd.study.markdown import markdown_report
from medkd.study.pictures import study_pictures
from medkd.study.plan import Study
from medkd.study.results import gather


def write_study_report(out: Path, study: Study) -> list[Path]:
    """Write ``<study>.json``, ``.md`` and ``.html`` into the study's folder, from what is finished so far.

    Nothing is written before all three are made, so that they always tell of the same runs.

    Args:
        out: folder of the study.
        study: as it was planned.

    Returns:
        The three files.

    Raises:
        UserError: the folder cannot be written to, or a model or volume for the pictures cannot be used.
    """
    results = gather(out, study)
    contents = {
        out / f"{study.name}.json": spread_json(results),
        out / f"{study.name}.md": markdown_report(results),
        out / f"{study.name}.html": html_report(results, study_pictures(out, study)),
    }
    for file, content in contents.items():
        with atomic_write(file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return list(contents)


def report_folder(out: Path) -> list[Path]:
    """Write the report of every study that has run in a folder; one that cannot be reported does not stop the others.

    Args:
        out: folder of ``medkd study run``.

    Returns:
        The files, study by study.

    Raises:
        UserError: no study has run there, or some cannot be reported; the sentences name them.
    """
    plans = sorted(out.glob("*.plan.json"))
    if not plans:
        raise UserError(f"{out} holds no study (*.plan.json is missing): give the folder that medkd study run wrote.")
    files, failures = [], []
    for plan in plans:
        try:
            files += write_study_report(out, _planned(plan))
        except UserError as error:
            failures.append(str(error))
    if failures:
        raise UserError(" ".join(failures))
    return files


def _planned(plan: Path) -> Study:
    """The study of a plan, which may be of another version of medkd, or damaged."""
    try:
        content: dict[str, Any] = json.loads(plan.read_text(encoding="utf-8"))
        return Study.from_dict(content)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        name = plan.name.removesuffix(".plan.json")
        raise UserError(
            f"{plan} is no plan of a study that this medkd knows: give medkd study run {name} again, or delete it."
        ) from error
