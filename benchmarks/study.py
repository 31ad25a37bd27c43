"""The figures of the studies of MTMS-KD in docs/.

medkd study run mtms_tables --data $MEDKD_DATA/btcv_spleen --out runs/study     # hours; a stopped one goes on
medkd study run mtms_controls --data $MEDKD_DATA/btcv_spleen --out runs/study
python benchmarks/study.py store runs/study   # docs/results/study_*.json
python benchmarks/study.py report             # docs/study.md from the stored JSON alone
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medkd.files import atomic_write
from medkd.study.markdown import markdown_report

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "study.md"
STUDIES = ("mtms_tables", "mtms_controls")
INTRODUCTION = """# MTMS-KD, repeated with controls

Made by `python benchmarks/study.py report` from `docs/results/study_*.json`, which `medkd study run` and
`python benchmarks/study.py store` write; do not edit. [guide.md](guide.md#studies) says how a study is run and written.
"""


def stored(study: str) -> Path:
    """Where the results of a study are kept."""
    return ROOT / "docs" / "results" / f"study_{study}.json"


def store(out: Path) -> None:
    """Keep the results that ``medkd study report`` has written."""
    for study in STUDIES:
        shutil.copyfile(out / f"{study}.json", stored(study))


def study_page() -> str:
    """The page: one report behind the other, each under a heading of its own."""
    contents = (json.loads(stored(study).read_text(encoding="utf-8")) for study in STUDIES)
    return "\n".join([INTRODUCTION, *map(section, contents)])


def section(results: Mapping[str, Any]) -> str:
    """The report of a study, each of its headings a level deeper, to stand in a page with others."""
    return re.sub("^#", "##", markdown_report(results), flags=re.MULTILINE)


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("store").add_argument("out", type=Path)
    commands.add_parser("report")
    options = parser.parse_args()
    if options.command == "store":
        store(options.out)
    else:
        with atomic_write(PAGE) as temporary:
            temporary.write_text(study_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
