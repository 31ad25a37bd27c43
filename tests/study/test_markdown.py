from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from medkd.study import wording
from medkd.study.markdown import markdown_report
from medkd.study.tables import study_tables


def lines_of(results: dict[str, Any], start: str) -> list[str]:
    return [line for line in markdown_report(results).splitlines() if line.startswith(start)]


@pytest.mark.parametrize(
    ("run", "line"),
    [
        ("S1 alone", "| 0.500 ± 0.000 | −0.120 ± 0.028 [−0.140, −0.100] | 0.094 | **worse** | 0.510 | 0.715 |"),
        ("S1, control", "| 0.620 ± 0.028 | – | – | control | 0.630 (+0.120) | – |"),
        (
            "B",
            "| 0.730 ± 0.042 | +0.110 ± 0.014 [+0.100, +0.120] | 0.094 | **better** "
            "| 0.740 (+0.230) | 0.763 (+0.048) |",
        ),
        (
            "PMD",
            "| 0.610 ± 0.014 | −0.010 ± 0.042 [−0.040, +0.020] | 0.094 | interval holds 0 "
            "| 0.620 (+0.110) | 0.703 (−0.012) |",
        ),
    ],
)
def test_rows_stand_beside_the_published_ones(small_results: dict[str, Any], run: str, line: str) -> None:
    assert lines_of(small_results, f"| {run} |")[0] == f"| {run} {line}"


def test_tables_are_tables(small_results: dict[str, Any]) -> None:
    lines = markdown_report(small_results).splitlines()
    rules = [index for index, line in enumerate(lines) if line.startswith("| ---")]
    assert len(rules) == 5  # Gains, what is folded away, networks, overrides, runs.
    for rule in rules:
        body = list(itertools.takewhile(lambda line: line.startswith("|"), lines[rule + 1 :]))
        assert body and {line.count("|") for line in [lines[rule - 1], *body]} == {lines[rule].count("|")}


def test_what_a_table_shows_follows_from_its_numbers(small_results: dict[str, Any]) -> None:
    page = markdown_report(small_results)
    for sentence in (
        "Thesis, Table 4.4. Control: S1, control. A note.",
        "Of 2 distilled rows 1 is better than the control (S1, control), none is worse, and the interval of 1 holds 0.",
        "The largest gain is that of B: +0.110 ± 0.014 [+0.100, +0.120]; published, it gains +0.048 over S1 alone.",
        # Means of 0.11 and -0.01, of 0.23 and 0.11, of 0.048 and -0.012.
        "On average the 2 of them with a published figure gain +0.050 over the control and, in pooled Dice, +0.170 "
        "over S1 alone; published, they gain +0.018 over S1 alone.",
        "With 6 volumes and 3 comparisons no adjusted p can fall below 0.094, whatever the figures",
        "One-way ANOVA of S1 alone (2 trainings) against the distilled rows together (4): F 9.40, p 0.037.",
        "One-way ANOVA of S1, control (2 trainings) against the distilled rows together (4): F 0.78, p 0.428.",
    ):
        assert sentence in page


def set_dice(results: dict[str, Any], run: str, control_plus: float) -> None:
    for own, control in zip(results["runs"][run], results["runs"]["control"], strict=True):
        for case, other in zip(own["cases"], control["cases"], strict=True):
            case["labels"]["spleen"]["dice"] = other["labels"]["spleen"]["dice"] + control_plus


def test_where_all_rows_lose_the_page_says_so(small_results: dict[str, Any]) -> None:
    set_dice(small_results, "b", -0.2)
    set_dice(small_results, "pmd", -0.1)
    page = markdown_report(small_results)
    assert "none is better than the control (S1, control), 2 are worse, and the interval of none holds 0." in page
    assert "The smallest loss is that of PMD: −0.100" in page
    assert "largest gain" not in page


def test_rows_beside_the_distilled_ones_are_no_finding(small_results: dict[str, Any]) -> None:
    for run in ("b", "pmd"):
        small_results["missing"] += [f"{run}-0", f"{run}-1"]
        del small_results["runs"][run]
    assert "None of the distilled rows can be compared with the control yet." in markdown_report(small_results)


def test_one_row_is_told_in_the_singular(small_results: dict[str, Any]) -> None:
    small_results["study"]["tables"][0] |= {"rows": ["control", "pmd"], "distilled": ["pmd"]}
    page = markdown_report(small_results)
    assert "The one distilled row beside the control cannot be told apart from it (S1, control)." in page
    assert "With 6 volumes" not in page  # One p can be 0.031.
    assert "On average" not in page


def test_with_one_seed_is_told_where_intervals_lie(small_results: dict[str, Any]) -> None:
    del small_results["runs"]["control"][1]
    page = markdown_report(small_results)
    assert "Of the intervals of 2 distilled rows beside the control (S1, control) 2 lie above 0, none lies" in page
    assert "| 0.094 | above 0 |" in page and "| 0.094 | below 0 |" in page
    table = page[page.index("## KD(T1, S1)") :]
    assert "better" not in table and "worse" not in table
    assert "A row with one seed is only said to lie above or below 0" in page
    small_results["study"]["tables"][0] |= {"rows": ["alone", "control"], "distilled": []}
    page = markdown_report(small_results)
    assert "The interval of the one row beside the control (S1, control) lies below 0." in page


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (None, "- Data: btcv\n"),
        ({"train": 3, "student": None, "val": 1, "test": 2}, "btcv: 3 volumes to train, 1 to choose the epoch, 2 to"),
    ],
)
def test_the_split_is_told_as_far_as_it_is_known(small_results: dict[str, Any], split: Any, words: str) -> None:
    small_results["split"] = split
    assert words in markdown_report(small_results)


def test_what_every_run_was_is_folded_away(small_results: dict[str, Any]) -> None:
    small_results["study"]["runs"][1]["overrides"] = {"epochs": "$3 * 4 | 5", "loss": "`dice`"}
    folded = markdown_report(small_results).split("<summary>What every run was</summary>")[1].split("</details>")[0]
    for row in (
        "| `big` | T1 | spleen_ct_teacher/train | multitask_unet | – | – | – |",
        "| `alone` | S1 alone | spleen_ct_student/train | – | – | – | `epochs $3 * 4 \\| 5` `` loss `dice` `` |",
        "| `control` | S1, control | spleen_ct_student/distill | – | big | of the recipe | `weights::pmd 0.0` |",
        "| `b` | B | spleen_ct_student/distill | – | big | own.yaml | – |",
    ):
        assert row in folded


def test_evaluations_are_no_training(small_results: dict[str, Any]) -> None:
    small_results["study"]["runs"].append({**small_results["study"]["runs"][3], "name": "again", "of": "b"})
    small_results["runs"]["again"] = small_results["runs"]["b"]
    assert "summed over 10 runs" in markdown_report(small_results)


def test_rows_that_are_not_distilled_are_compared_where_no_other_is(small_results: dict[str, Any]) -> None:
    small_results["study"]["tables"][0] |= {"rows": ["alone", "control"], "distilled": []}
    page = markdown_report(small_results)
    assert "The one row beside the control is worse than it (S1, control)." in page
    assert "ANOVA" not in page


def test_unfinished_runs_are_named(small_results: dict[str, Any]) -> None:
    del small_results["runs"]["b"]
    del small_results["runs"]["pmd"][1]
    small_results["failed"] = {"b-0": "the disk is full | really: free some space."}
    small_results["missing"] = ["b-1", "pmd-1"]
    page = markdown_report(small_results)
    assert "The study is not finished: of 10 runs 7 are done, and 1 failed." in page
    assert "Not finished: 3 of the 8 runs of this table." in page
    assert "| B (0 of 2 seeds) | – | – | – | – | – | 0.763 (+0.048) |" in page
    assert "| PMD (1 of 2 seeds) | 0.620 |" in page
    assert "- `b-0` failed: the disk is full \\| really: free some space." in page
    assert "- Not run: `b-1`, `pmd-1`" in page


def test_nothing_finished_is_a_page_too(small_results: dict[str, Any]) -> None:
    small_results |= {"runs": {}, "machine": None, "seconds": 0.0, "latency": {}}
    small_results["missing"] = [f"{run['name']}-{seed}" for run in small_results["study"]["runs"] for seed in (0, 1)]
    page = markdown_report(small_results)
    assert "of 10 runs none is done, and none failed" in page
    assert "No row can be compared with the control (S1, control)" in page
    assert "## Networks" not in page


def test_without_published_figures_there_is_no_such_column(small_results: dict[str, Any]) -> None:
    small_results["published"] = {}
    page = markdown_report(small_results)
    assert "published" not in page.lower()
    assert lines_of(small_results, "| B |")[0].endswith("| 0.740 (+0.230) |")


def test_figures_that_few_look_for_are_folded_away(small_results: dict[str, Any]) -> None:
    folded = markdown_report(small_results).split("<details>")[1].split("</details>")[0]
    # PMD has no published IoU.
    assert "| B | 2 | 0.500 | 0.700 | 0.800 | 57,297 | 213 | 0.617 | 0.704 | 0.833 |" in folded
    assert "| PMD | 2 | 0.500 | 0.700 | 0.800 | 57,297 | 213 | – | – | – |" in folded


def test_networks_scale_and_origin(small_results: dict[str, Any]) -> None:
    page = markdown_report(small_results)
    for words in (
        "| `multitask_unet` | 1 | 43,000,000 | 16,000 | 500.0 | 0.910 | `big` |",
        "| `unet_s1` | 4 | 57,297 | 213 | 20.2 | 0.500 to 0.730 | `b` |",
        "- Ten epochs instead of 120.",
        "| recipe distill | `epochs 10` `schedule cosine` |",
        "- Command: `medkd study run hand.yaml --scale small --data btcv --out DIR`",
        "- Data: btcv: 12 volumes to train the teacher, 6 of them to train the student, 2 to choose the epoch, 6 to",
        "- Machine: Some CPU, 2 cores",
        "- Versions: medkd 0.1.0, Python 3.11.7, PyTorch 2.8.0, MONAI 1.6.1",
        "- Training: 16 min 40 s, summed over 10 runs, without evaluation",
    ):
        assert words in page
    assert "/home" not in page


def test_several_machines_are_all_named(small_results: dict[str, Any]) -> None:
    other = {**small_results["machine"], "gpu": "Some GPU", "torch": "2.9.0"}
    small_results["other_machines"] = [other, {**other, "threads": 4}]
    page = markdown_report(small_results)
    assert "- Machine: Some CPU, 2 cores; Some GPU, Some CPU, 2 cores\n" in page
    assert "PyTorch 2.8.0, MONAI 1.6.1; medkd 0.1.0, Python 3.11.7, PyTorch 2.9.0" in page


def test_the_same_results_give_the_same_page(small_results: dict[str, Any]) -> None:
    again = copy.deepcopy(small_results)
    assert markdown_report(small_results) == markdown_report(again)
    assert small_results == again


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([0], "knows nothing of the chance of training"),
        ([0], "six volumes and 1 seed, in which"),
        ([0], "about 8 of 20 rows without any effect miss 0"),
        ([0, 1], "six volumes and 2 seeds"),
        ([0, 1], "3 or 4 of 20 rows"),
        ([0, 1, 2], "2 or 3 of 20 rows"),
        ([0, 1, 2, 3], "1 or 2 of 20 rows"),
        ([0, 1], "misses the true gain in 50 of 100"),
        ([0, 1, 2], "misses the true gain in 25 of 100"),
        ([0, 1, 2, 3], "rather too narrow"),
    ],
)
def test_readers_are_told_how_far_to_trust_an_interval(
    small_results: dict[str, Any], seeds: list[int], words: str
) -> None:
    small_results["study"]["seeds"] = seeds
    assert words in " ".join(wording.reading(small_results, study_tables(small_results)))


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0321, "+0.032"), (-0.0101, "−0.010"), (0.0004, "0.000"), (-0.0004, "0.000"), (-1, "−1.000"), (None, "–")],
)
def test_signed_figures(value: float | None, words: str) -> None:
    assert wording.signed(value) == words


@pytest.mark.parametrize(
    ("p", "words"),
    [(0.03125, "0.031"), (0.00098, "< 0.001"), (0.001, "0.001"), (0.9994, "0.999"), (1.0, "1"), (None, "–")],
)
def test_p_values(p: float | None, words: str) -> None:
    assert wording.p_value(p) == words
