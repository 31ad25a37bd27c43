"""How long networks take for a slice: measured once for each, with a pretended clock and for real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medkd.study import latency
from medkd.study.latency import latencies, measure_latencies
from medkd.study.plan import Study

NETWORK = {"name": "unet_s1", "channels": [4, 8], "in_channels": 3}


def study(threads: int = 1) -> Study:
    return Study(
        name="mine", title="", about="", scale="small", scaled=(), data="", phantom=None, label="", seeds=(0,),
        threads=threads, published="", pictures={}, runs=(), tables=(), recipes={},
    )  # fmt: skip


def measure(out: Path, results: dict[str, dict[str, Any]], threads: int = 1) -> dict[str, float]:
    """Measure the networks of runs with one seed each, all of which are finished."""
    by_id = {f"{name}-0": {"run": name, **result} for name, result in results.items()}
    measure_latencies(study(threads), out, by_id)
    return latencies(out, study(threads), by_id)


def test_runs_with_one_network_share_a_measurement(tmp_path, capsys):
    results = {
        "a": {"network": NETWORK, "size": 32},
        "same": {"network": dict(reversed(NETWORK.items())), "size": 32},
        "larger": {"network": NETWORK, "size": 64},
        "wider": {"network": NETWORK | {"channels": [4, 12]}, "size": 32},
    }
    seconds = measure(tmp_path, results)
    assert list(seconds) == list(results)
    assert seconds["a"] == seconds["same"] and len(set(seconds.values())) == 3
    assert all(value > 0 for value in seconds.values())
    assert capsys.readouterr().out.count("measuring") == 3


def test_what_is_measured_stays_as_long_as_network_size_and_threads_do(tmp_path, capsys):
    results = {"old": {"network": NETWORK, "size": 32}}
    first = measure(tmp_path, results)["old"]
    capsys.readouterr()
    again = measure(tmp_path, {"new": {"network": NETWORK, "size": 32}, **results})
    assert again == {"new": first, "old": first} and not capsys.readouterr().out
    for changed in ({"network": NETWORK | {"channels": [8, 8]}, "size": 32}, {"network": NETWORK, "size": 64}):
        assert measure(tmp_path, {"old": changed})["old"] != first
    assert latencies(tmp_path, study(threads=2), {"old-0": {"run": "old", **results["old"]}}) == {}


def test_it_is_the_median_without_the_first_passes(tmp_path, monkeypatch):
    # Passes of 100, 100, 100, 1, 2, ..., 20 s.
    moments = [0.0]
    for seconds in [100] * 3 + list(range(1, 21)):
        moments += [moments[-1] + seconds, moments[-1] + seconds]
    clock = iter(moments)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
    assert measure(tmp_path, {"a": {"network": NETWORK, "size": 32}}) == {"a": 10.5}


@pytest.mark.parametrize("threads", [1, 2])
def test_it_has_the_threads_of_the_study_and_gives_them_back(threads, tmp_path, monkeypatch):
    before = torch.get_num_threads()
    seen = []
    clock = latency.time.perf_counter

    def look() -> float:
        seen.append(torch.get_num_threads())
        return clock()

    monkeypatch.setattr(latency.time, "perf_counter", look)
    measure(tmp_path, {"a": {"network": NETWORK, "size": 32}}, threads)
    assert set(seen) == {threads} and torch.get_num_threads() == before
