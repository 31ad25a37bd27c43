from __future__ import annotations

from typing import Any

import pytest

from medkd.study.networks import network_rows


def test_networks_with_their_runs(small_results: dict[str, Any]) -> None:
    big, small = network_rows(small_results)
    assert (big.name, big.runs, big.parameters, big.latency) == ("multitask_unet", ("big",), 43_000_000, 0.5)
    assert small.runs == ("alone", "control", "b", "pmd")
    assert (small.lowest, small.highest, small.best) == (pytest.approx(0.50), pytest.approx(0.73), "b")
    # Between the two that were measured.
    assert small.latency == pytest.approx(0.0202)


def test_networks_of_one_name_tell_what_differs(small_results: dict[str, Any]) -> None:
    for result in small_results["runs"]["b"]:
        result["network"]["channels"] = [8, 16]
        result["size"] = 128
    names = [row.name for row in network_rows(small_results)]
    assert names == ["multitask_unet", "unet_s1 (size 64)", "unet_s1 (channels [8, 16], size 128)"]


def test_runs_that_train_nothing_do_not_count_for_their_network(small_results: dict[str, Any]) -> None:
    again = {**small_results["study"]["runs"][3], "name": "again", "of": "b"}
    small_results["study"]["runs"].append(again)
    small_results["runs"]["again"] = small_results["runs"]["b"]
    assert "again" not in network_rows(small_results)[1].runs
