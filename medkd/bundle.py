"""The bundles whose configs are the recipes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import medkd
from medkd.errors import UserError

TEACHER, STUDENT = "spleen_ct_teacher", "spleen_ct_student"


def bundle_folder(bundle: str) -> Path:
    """Where a bundle lies: inside the installed package, or beside it in a checkout."""
    package = Path(medkd.__file__).parent
    for parent in (package, package.parent):
        if (parent / "bundles" / bundle).is_dir():
            return parent / "bundles" / bundle
    raise UserError(f"no bundle {bundle} is installed with medkd: give bundle_root, the folder of the bundle.")


def locate_bundle(bundle: str) -> str:
    """The default of ``bundle_root`` in a bundle's configs, so that they run from any working folder.

    It is the bundle that the ``--config_file`` of the command lies in. From Python, where no command names a config, it
    is the working folder if that is a bundle, else the installed bundle: give ``bundle_root`` to use another copy.

    Args:
        bundle: name of the installed bundle.
    """
    config = _config_file(sys.argv)
    if config is not None and config.parent.name == "configs":
        return str(config.parent.parent)
    if Path("configs", "metadata.json").is_file():
        return "."
    return str(bundle_folder(bundle))


def _config_file(words: list[str]) -> Path | None:
    """The first file behind ``--config_file``: of ``a.yaml``, ``a.yaml,b.yaml`` or ``['a.yaml', 'b.yaml']``."""
    for index, word in enumerate(words):
        name, _, value = word.partition("=")
        if name in ("--config_file", "--config-file"):
            value = value or " ".join(words[index + 1 : index + 2])
            file = re.search(r"[^\[\]()'\",]+", value)
            return Path(file.group().strip()) if file else None
    return None
