"""The report of a study: JSON, Markdown and HTML with the same figures."""

from __future__ import annotations

import json
from pathlib import Path

from medkd.errors import UserError
from medkd.files import atomic_write
from medkd.study.html_report import html_report
from medkd.study.markdown import markdown_report
from medkd.study.pictures import study_pictures
from medkd.study.plan import Study
from medkd.study.results import write_results


def write_study_report(out: Path, study: Study) -> list[Path]:
    """Write ``<study>.json``, ``.md`` and ``.html`` into the study's folder, from what is finished so far.

    Args:
        out: folder of the study.
        study: as it was planned.

    Returns:
        The three files.

    Raises:
        UserError: the folder cannot be written to.
    """
    results = write_results(out, study)
    pages = {
        out / f"{study.name}.md": markdown_report(results),
        out / f"{study.name}.html": html_report(results, study_pictures(out, study)),
    }
    for file, content in pages.items():
        with atomic_write(file) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [out / f"{study.name}.json", *pages]


def report_folder(out: Path) -> list[Path]:
    """Write the report of every study that has run in a folder.

    Args:
        out: folder of ``medkd study run``.

    Returns:
        The files, study by study.

    Raises:
        UserError: no study has run there, or it cannot be written to.
    """
    plans = sorted(out.glob("*.plan.json"))
    if not plans:
        raise UserError(f"{out} holds no study (*.plan.json is missing): give the folder that medkd study run wrote.")
    studies = [Study.from_dict(json.loads(plan.read_text(encoding="utf-8"))) for plan in plans]
    return [file for study in studies for file in write_study_report(out, study)]
