"""How long the networks of a study take for a slice."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medkd.files import write_json
from medkd.study.job import Job
from medkd.study.outcome import Outcome
from medkd.study.plan import Study

LATENCY_FILE = "latency.json"
WARMUP, PASSES = 3, 20


def measure_latencies(study: Study, out: Path, jobs: Sequence[Job], outcome: Outcome) -> None:
    """Write the seconds per slice of every finished run's network to ``latency.json``, by the name of the run.

    Runs with the same network, arguments and size share one measurement. What the file holds already stays.

    Args:
        study: whose number of threads is used.
        out: folder of the study; nothing else should be running.
        jobs: of the study.
        outcome: which of them are finished.
    """
    file = out / LATENCY_FILE
    known: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    by_network: dict[str, float] = {}
    finished = [job for job in jobs if job.id in outcome.results]
    # Those that are known first, so that others with their networks take over what was measured.
    for job in sorted(finished, key=lambda job: job.run.name not in known):
        result = outcome.results[job.id]
        network = json.dumps([result["network"], result["size"]], sort_keys=True)
        if job.run.name not in known:
            if network not in by_network:
                print(f"measuring the time of {job.run.name}'s network", flush=True)
                by_network[network] = _seconds_per_slice(result["network"], result["size"], study.threads)
            known[job.run.name] = by_network[network]
            write_json(file, known)
        by_network.setdefault(network, known[job.run.name])


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
