"""The bundles whose configs are the recipes."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    is the working folder if that is a copy of the bundle, else the installed one: give ``bundle_root`` for any other.

    Args:
        bundle: what the configs call their bundle.

    Raises:
        UserError: the config of the command lies in no bundle, or no such bundle is installed.
    """
    config = _config_file(sys.argv)
    if config is not None:
        folder = config.resolve().parent
        if not (folder / "metadata.json").is_file():
            raise UserError(f"{config} lies in no bundle: give bundle_root, the folder of the bundle.")
        return str(folder.parent)
    inference = Path("configs", "inference.yaml")
    if inference.is_file() and f"locate_bundle('{bundle}')" in inference.read_text(encoding="utf-8"):
        return "."
    return str(bundle_folder(bundle))


def _config_file(words: Sequence[str]) -> Path | None:
    """The first config file of a command of ``monai.bundle``, which may be named in its ``--args_file``."""
    given = {}
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            given[name.replace("-", "_")] = value if equals else "".join(words[index + 1 : index + 2])
    files: Any = given.get("__config_file")
    if files is None and "__args_file" in given:
        from monai.bundle import ConfigParser  # takes seconds, which only commands of monai.bundle have spent anyway

        files = ConfigParser.load_config_file(given["__args_file"]).get("config_file")
    if isinstance(files, str):
        try:
            files = ast.literal_eval(files)
        except (ValueError, SyntaxError):
            files = [files] if Path(files).is_file() else files.split(",")
    return Path(str(files[0]).strip()) if files else None
