"""The order in which people count: spleen_2 before spleen_10."""

from __future__ import annotations

import re
from collections.abc import Iterable


def natural_key(name: str) -> tuple[list[str | int], str]:
    """The key that sorts names with numbers by the value of these, and those that count alike by the text."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names with numbers by value."""
    return sorted(names, key=natural_key)
