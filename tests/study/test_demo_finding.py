from __future__ import annotations

from typing import Any

import pytest

from medkd.study.demo_finding import ONCE, finding


def make_models(teacher: list[float], student: list[float], distilled: list[float]) -> dict[str, Any]:
    return {
        key: {
            "mean": {"spleen": {"dice": sum(dice) / len(dice)}},
            "cases": [
                {"name": str(number), "labels": {"spleen": {"dice": value}}} for number, value in enumerate(dice)
            ],
            "parameters": parameters,
        }
        for key, dice, parameters in (
            ("teacher", teacher, 5000),
            ("student", student, 400),
            ("distilled", distilled, 400),
        )
    }


@pytest.mark.parametrize(
    ("student", "distilled", "effect", "words"),
    [
        # Changes +0.05 and +0.03: mean 0.04, standard deviation 0.02 / sqrt(2) = 0.014.
        (
            [0.80, 0.84],
            [0.85, 0.87],
            "raised the student's Dice by 0.040",
            ["rose on 2 and fell on 0", "0.014", "gain is larger"],
        ),
        # Changes +0.06 and -0.04: mean 0.01, standard deviation 0.1 / sqrt(2) = 0.071.
        (
            [0.80, 0.90],
            [0.86, 0.86],
            "raised the student's Dice by 0.010",
            ["rose on 1 and fell on 1", "0.071", "gain is within", "do not show that distillation helped"],
        ),
        (
            [0.85, 0.87],
            [0.80, 0.84],
            "lowered the student's Dice by 0.040",
            ["rose on 0 and fell on 2", "loss is larger", "did harm"],
        ),
        (
            [0.86, 0.86],
            [0.80, 0.90],
            "lowered the student's Dice by 0.010",
            ["rose on 1 and fell on 1", "loss is within", "do not show that distillation did harm"],
        ),
        ([0.80, 0.90], [0.90, 0.80], "made no difference", ["rose on 1 and fell on 1 of the 2 volumes", "0.141"]),
        ([0.80], [0.85], "raised the student's Dice by 0.050", ["One volume cannot show"]),
    ],
)
def test_words_follow_the_numbers(student: list[float], distilled: list[float], effect: str, words: list[str]) -> None:
    _, said, trust = finding(make_models([0.9] * len(student), student, distilled), "spleen")
    assert effect in said
    for word in words:
        assert word in trust
    assert trust.endswith(ONCE)


def test_no_difference_claims_nothing() -> None:
    _, _, trust = finding(make_models([0.9, 0.9], [0.80, 0.90], [0.90, 0.80]), "spleen")
    assert "gain" not in trust
    assert "loss" not in trust


def test_figures() -> None:
    figures, _, _ = finding(make_models([0.91, 0.95], [0.80, 0.84], [0.85, 0.87]), "spleen")
    for words in ("2 held-out volumes", "0.930 for the teacher", "0.820 for the student", "0.860", "12.5 times fewer"):
        assert words in figures


def test_gain_is_the_difference_of_the_printed_figures() -> None:
    # 0.8204 prints as 0.820 and 0.8606 as 0.861: their difference is 0.041, though the gain is 0.0402.
    _, effect, _ = finding(make_models([0.9, 0.9], [0.8204, 0.8204], [0.8606, 0.8606]), "spleen")
    assert "by 0.041" in effect
