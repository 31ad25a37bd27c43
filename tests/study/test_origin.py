from __future__ import annotations

from typing import Any

import pytest

from medkd.study.origin import run_facts

TRAINED = {"name": "r", "title": "R", "bundle": "spleen_ct_student", "config": "distill", "overrides": None}
TRAINED |= {"method": None, "teacher": None, "of": None, "slices": None}


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({}, {"recipe": "spleen_ct_student/distill", "network": "–", "teacher": "–", "method": "–", "overrides": ()}),
        ({"teacher": "t1"}, {"teacher": "t1", "method": "of the recipe"}),
        ({"teacher": "t1", "method": "emkd"}, {"method": "emkd"}),
        ({"teacher": "t1", "method": "/some/where/own.yaml"}, {"method": "own.yaml"}),
        ({"slices": "held_out"}, {"recipe": "spleen_ct_student/distill, evaluated on held-out slices"}),
        ({"of": "s1", "bundle": "", "config": ""}, {"recipe": "evaluates s1", "network": "–"}),
        ({"of": "s1", "slices": "held_out"}, {"recipe": "evaluates s1 on held-out slices"}),
        (
            {"overrides": {"network_name": "enet", "epochs": 3, "network_def::channels": [4, 8]}},
            {"network": "enet", "overrides": (("epochs", "3"), ("network_def::channels", "[4, 8]"))},
        ),
    ],
)
def test_what_a_run_was(change: dict[str, Any], shown: dict[str, Any]) -> None:
    results = {"study": {"runs": [TRAINED | change]}}
    (facts,) = run_facts(results)
    assert vars(facts).items() >= {"name": "r", "title": "R", **shown}.items()
