"""The one exception that means: the user can put this right."""

from __future__ import annotations


class UserError(ValueError):
    """Wrong input, told in one sentence that names the file or option and says what to do.

    The command line prints the sentence and exits with code 2; from Python it is a ``ValueError``.
    """


def first_line(error: BaseException | str) -> str:
    """What an exception says, short enough for a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
