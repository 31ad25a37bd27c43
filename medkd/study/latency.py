"""How long the networks of a study take for a slice."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medkd.files import write_json
from medkd.study.job import read_json
from medkd.study.plan import Study

WARMUP, PASSES = 3, 20


def measure_latencies(study: Study, out: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Measure the seconds per slice of every network that has not been measured in this folder.

    Args:
        study: whose number of threads is used.
        out: folder of the study; nothing else should be running.
        results: of finished jobs, by id.
    """
    known = _known(out)
    for result in results.values():
        key = _key(result, study)
        if key not in known:
            print(f"measuring the time of {result['run']}'s network", flush=True)
            known[key] = _seconds_per_slice(result["network"], result["size"], study.threads)
            write_json(_file(out), known)


def latencies(out: Path, study: Study, results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """The seconds per slice of runs whose network was measured.

    Args:
        out: folder of the study.
        study: whose number of threads is asked for.
        results: of finished jobs, by id.

    Returns:
        Name of the run to seconds.
    """
    known = _known(out)
    keys = {result["run"]: _key(result, study) for result in results.values()}
    return {name: known[key] for name, key in keys.items() if key in known}


def _file(out: Path) -> Path:
    return out / "runs" / "latency.json"


def _known(out: Path) -> dict[str, float]:
    return read_json(_file(out)) if _file(out).is_file() else {}


def _key(result: Mapping[str, Any], study: Study) -> str:
    """What the time depends on, but for the machine."""
    return json.dumps([result["network"], result["size"], study.threads], sort_keys=True)


def _seconds_per_slice(definition: Mapping[str, Any], size: int, threads: int) -> float:
    """The median of some forward passes on one slice, on the processor; the time does not depend on the weights."""
    import torch

    from medkd.networks import create_network
    from medkd.networks.layout import channels_last

    network = channels_last(create_network(**definition)).eval()
    image = torch.rand(1, definition["in_channels"], size, size).contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    seconds = []
    try:
        with torch.inference_mode():
            for _ in range(WARMUP + PASSES):
                started = time.perf_counter()
                network(image)
                seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(before)
    return statistics.median(seconds[WARMUP:])
