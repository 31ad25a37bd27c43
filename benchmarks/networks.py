"""Every network of the registry: size, multiply-adds, time and memory of one slice on a CPU.

    python benchmarks/networks.py run
    python benchmarks/networks.py report

``run`` measures each network in a process of its own and writes ``docs/results/networks.json``; ``report`` writes
``docs/networks.md`` from it. Parameters and multiply-adds are of the published configuration; time and memory of a
256x256 slice with three channels in and one logit out, as medkd runs a student or teacher: channels-last, float32,
2 threads, median of 5 after a warm-up.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peak_memory import peak_mib

from medkd.engines import prepare_network
from medkd.files import write_json
from medkd.machine import machine_facts
from medkd.networks import create_network, describe_network, network_names

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "networks.json"
THREADS, ROUNDS, SIZE = 2, 5, 256

# What the papers print or their code has, where it was measured: parameters, giga multiply-adds, at which input.
PUBLISHED = {
    "multitask_unet": ("43,236,036", "79.3 at 256"),
    "multitask_transunet": ("172,625,028", "31.4 at 256"),
    "unet": ("31,043,521", "48.2 at 256"),
    "unet_s1": ("57,297", "0.85 at 256"),
    "unet_s2": ("227,233", "3.35 at 256"),
    "unet_tiny": ("", ""),
    "enet": ("353,761", "1.02 at 384"),
    "espnet": ("183,725", "0.61 at 384"),
    "erfnet": ("2,063,130", "7.43 at 384"),
    "mobilenetv2": ("2,228,996", "9.57 at 384"),
    "resnet18": ("11,177,538", "5.33 at 384"),
    "raunet": ("22,143,394", "13.2 at 384"),
    "pspnet": ("46,706,626", "103.6 at 384"),
    "unetplusplus": (
        "36,628,546; printed 20.6 M, a misprint: the printed operations are of the 36.6 M net",
        "310 at 384",
    ),
    "unet_nearest": ("34,525,954", "146.9 at 384"),
    "deeplabv3plus": ("56,795,962", "136.2 at 384"),
    "dcsaunet": ("2,598,785; printed 6.3 M, a misprint: the official code has 2.6 M", "14.8 at 384"),
    "fanet": ("7,720,266", ""),
    "swin_unet": ("27,168,900", ""),
    "attention_unet": ("34,877,486", "149.3 at 384"),
}


def run() -> None:
    """Measure every network in turn."""
    rows = []
    for name in network_names():
        words = [sys.executable, __file__, "one", "--network", name]
        measured = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        rows.append({**describe_network(name), **measured})
        print(f"{name:<21}{measured['ms']:>8.0f} ms{measured['peak_mib']:>8.0f} MiB", flush=True)
    write_json(RESULTS, {"machine": machine_facts() | {"threads": THREADS}, "rows": rows})


def measure(name: str) -> dict[str, float]:
    """Median milliseconds of a slice, and how much the process grows while it runs, in MiB."""
    torch.set_num_threads(THREADS)
    network = prepare_network(create_network(name, in_channels=3, out_channels=1), "cpu").eval()
    image = torch.rand(1, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        before, peak = peak_mib(lambda: network(image))
        for _ in range(ROUNDS):
            start = time.perf_counter()
            network(image)
            times.append(1000 * (time.perf_counter() - start))
    return {"ms": median(times), "peak_mib": peak - before}


def write_page(results: dict[str, Any], path: Path) -> None:
    """Write the table."""
    machine = results["machine"]
    rows = sorted(results["rows"], key=lambda row: (row["role"], -row["parameters"]))
    lines = [
        "# Networks",
        "",
        "Made by `python benchmarks/networks.py report` from `docs/results/networks.json`, which `... run` writes; do",
        "not edit. `medkd networks` lists the same on the command line. Any other network of MONAI is used by its",
        "name, `monai.networks.nets.SegResNet`, and tapped by module paths.",
        "",
        "Parameters and multiply-adds are of the published configuration, at the size of the stated multiply-adds.",
        f"Time and memory are of one {SIZE} x {SIZE} slice, three channels in and one logit out, float32,",
        f"channels-last; median of {ROUNDS}, {THREADS} threads of {machine['processor']}, torch {machine['torch']}.",
        "Memory is by how much the process grows beyond the loaded network. A reconstruction decoder counts in the",
        "parameters and multiply-adds; it does not run on a slice to be segmented, so not in time and memory.",
        "",
        "| network | role | parameters | published | G multiply-adds | published | ms per slice | MiB | reference |",
        "| --- | --- | ---: | --- | --- | --- | ---: | ---: | --- |",
    ]
    for row in rows:
        at = "x".join(map(str, row["input_shape"]))
        parameters, macs = PUBLISHED[row["name"]]
        cells = [f"`{row['name']}`", row["role"], f"{row['parameters']:,}", parameters]
        cells += [f"{row['macs'] / 1e9:.2f} at {at}", macs, f"{row['ms']:.0f}", f"{row['peak_mib']:.0f}"]
        lines.append(f"| {' | '.join([*cells, row['reference']])} |")
    lines += ["", "Where a count differs from the published one:", ""]
    lines += [f"- `{row['name']}`: {row['difference']}." for row in rows if row["difference"]]
    lines += [
        "- `enet`: the published code builds a block of 17,795 parameters that it never calls; the paper has it, and",
        "  here it is called, which costs the 0.04 G multiply-adds above the published ones.",
        "- `fanet`: two passes, the second with the mask of the first; one takes half.",
        "",
        "Other layers that published code builds and never calls are left out: no parameter goes without a gradient.",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run")
    one = commands.add_parser("one")
    one.add_argument("--network", choices=network_names(), required=True)
    commands.add_parser("report")
    options = parser.parse_args()
    if options.command == "run":
        run()
    elif options.command == "one":
        print(json.dumps(measure(options.network)))
    else:
        write_page(json.loads(RESULTS.read_text(encoding="utf-8")), ROOT / "docs" / "networks.md")


if __name__ == "__main__":
    main()
