"""Checking the keys of a study file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medkd.errors import UserError

_KINDS = {
    str: "a text", int: "a whole number", bool: "true or false", dict: "a mapping", list: "a list",
    (dict, str): "a mapping",
}  # fmt: skip


def check_keys(content: Any, keys: Mapping[str, Any], file: Path, what: str) -> None:
    """Refuse keys that mean nothing, and values that are not of their kind.

    Args:
        content: a part of the file.
        keys: that it may have, and the type of each.
        file: the study file.
        what: the part, for people.

    Raises:
        UserError: with the nearest key that exists, or the kind of value that is asked for.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{file.name}: {what} is no mapping: give it some of {', '.join(sorted(keys))}.")
    for key, value in content.items():
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose among {', '.join(sorted(keys))}."
            raise UserError(f"{file.name}: {what} has no key {key!r}: {hint}")
        # To Python a bool is a whole number.
        if not isinstance(value, keys[key]) or (isinstance(value, bool) and keys[key] is not bool):
            raise UserError(f"{file.name}: {key!r} of {what} is {value!r}: give {_KINDS[keys[key]]}.")
