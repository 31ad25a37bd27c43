"""The networks of a study: how large they are, how long they take and how well their runs do."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NetworkRow:
    """One network of the study.

    Attributes:
        name: in the registry, with what sets it apart where the study has two of that name.
        runs: names of its runs.
        parameters: how many.
        macs: multiply-adds for one slice.
        size: of that slice, pixels.
        latency: seconds for one slice, median over its runs; None where not measured.
        lowest: Dice of its worst run, mean over volumes and seeds.
        highest: of its best run.
        best: name of the best run.
    """

    name: str
    runs: tuple[str, ...]
    parameters: int
    macs: int
    size: int
    latency: float | None
    lowest: float
    highest: float
    best: str


def network_rows(results: Mapping[str, Any]) -> list[NetworkRow]:
    """The networks of all finished runs that train or teach, largest first.

    Args:
        results: what :func:`medkd.study.results.gather` returns.
    """
    label, latency = results["study"]["label"], results["latency"]
    users: dict[str, list[dict[str, Any]]] = {}
    for run in results["study"]["runs"]:
        # A run that evaluates the model of another, or on other slices, says nothing new about a network.
        if run["name"] in results["runs"] and run["of"] is None and run["slices"] is None:
            own = results["runs"][run["name"]][0]
            users.setdefault(json.dumps([own["network"], own["size"]], sort_keys=True), []).append(run)
    first = [results["runs"][runs[0]["name"]][0] for runs in users.values()]
    names = _network_names([{**own["network"], "size": own["size"]} for own in first])
    rows = []
    for name, own, runs in zip(names, first, users.values(), strict=True):
        dice = {run["name"]: _mean_dice(results["runs"][run["name"]], label) for run in runs}
        seconds = [latency[run["name"]] for run in runs if run["name"] in latency]
        rows.append(
            NetworkRow(
                name=name,
                runs=tuple(dice),
                parameters=own["parameters"],
                macs=own["macs"],
                size=own["size"],
                latency=statistics.median(seconds) if seconds else None,
                lowest=min(dice.values()),
                highest=max(dice.values()),
                best=max(dice, key=dice.__getitem__),
            )
        )
    return sorted(rows, key=lambda row: -row.parameters)


def _network_names(networks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names as in the registry; of two with one name, also the arguments that differ."""
    names = []
    for network in networks:
        others = [other for other in networks if other["name"] == network["name"]]
        differing = sorted(key for key in network if any(other.get(key) != network[key] for other in others))
        arguments = ", ".join(f"{key} {network[key]}" for key in differing)
        names.append(f"{network['name']} ({arguments})" if arguments else str(network["name"]))
    return names


def _mean_dice(results: Sequence[Mapping[str, Any]], label: str) -> float:
    return statistics.fmean(case["labels"][label]["dice"] for result in results for case in result["cases"])
