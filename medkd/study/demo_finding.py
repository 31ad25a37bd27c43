"""What a comparison found, in words that its numbers bear out."""

from __future__ import annotations

import statistics
from typing import Any

ONCE = "Each model was trained once, so how far chance in training moves these figures is not known."


def finding(models: dict[str, Any], label: str) -> tuple[str, str, str]:
    """Say what distillation did to the Dice of one label.

    The change is judged against how much it varies over the held-out volumes, which both students share.

    Args:
        models: evaluations of ``teacher``, ``student`` and ``distilled``, each with ``mean``, ``cases`` and
            ``parameters``.
        label: name of the structure.

    Returns:
        The three figures, the effect of distillation, and how far to trust it: sentences in plain text.
    """
    dice = {key: model["mean"][label]["dice"] for key, model in models.items()}
    pairs = zip(models["student"]["cases"], models["distilled"]["cases"], strict=True)
    changes = [distilled["labels"][label]["dice"] - alone["labels"][label]["dice"] for alone, distilled in pairs]
    volumes = f"{len(changes)} held-out volumes" if len(changes) > 1 else "the one held-out volume"
    smaller = models["teacher"]["parameters"] / models["distilled"]["parameters"]
    figures = (
        f"On {volumes} the Dice of the {label} is {dice['teacher']:.3f} for the teacher, {dice['student']:.3f} for the "
        f"student trained alone and {dice['distilled']:.3f} for the same student distilled from the teacher. The "
        f"student has {smaller:.1f} times fewer parameters than the teacher."
    )
    # The difference of the figures as printed, or the reader's subtraction would not match ours.
    gain = round(round(dice["distilled"], 3) - round(dice["student"], 3), 3)
    return figures, _effect(gain), f"{_verdict(gain, changes)} {ONCE}"


def _effect(gain: float) -> str:
    if gain == 0:
        return "Distillation made no difference to the student's Dice."
    return f"Distillation {'raised' if gain > 0 else 'lowered'} the student's Dice by {abs(gain):.3f}."


def _verdict(gain: float, changes: list[float]) -> str:
    if len(changes) < 2:
        return "One volume cannot show whether that holds for others."
    higher, lower = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    spread = statistics.stdev(changes)
    verdict = (
        f"With the same network, data and recipe the Dice rose on {higher} and fell on {lower} of the {len(changes)} "
        f"volumes, and the standard deviation of the change over the volumes is {spread:.3f}."
    )
    if gain > spread:
        return f"{verdict} The gain is larger than that spread."
    if gain > 0:
        return f"{verdict} The gain is within that spread: these figures do not show that distillation helped."
    if gain < -spread:
        return f"{verdict} The loss is larger than that spread: here distillation did harm."
    if gain < 0:
        return f"{verdict} The loss is within that spread: these figures do not show that distillation did harm."
    return verdict
