"""The bundles whose configs are the recipes."""

from __future__ import annotations

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
    raise UserError(f"the bundle {bundle} is not installed: install medkd again.")
