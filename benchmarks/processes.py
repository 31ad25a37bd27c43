"""How far two processes, and one with other rounding, drift from one process: the loss of every step, and Dice.

    python benchmarks/processes.py run --out runs/processes
    python benchmarks/processes.py report

``run`` trains every recipe of the table three times on phantoms: in one process, in two with half of its batch each,
and in one with another number of threads, which only changes the order of additions. Finished runs are kept. It writes
``docs/results/processes.json``; ``report`` writes the table of ``docs/cluster.md`` from it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from processes_page import summarize, write_table

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.data.phantom import write_phantom_task
from medkd.files import write_json
from medkd.machine import machine_facts

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "processes.json"
PAGE = ROOT / "docs" / "cluster.md"

# An epoch is one step: 20 of the 24 slices of one volume. Two volumes to validate on are one for each process.
SHAPE, BATCH, STEPS, SEED = (64, 64, 24), 20, 20, 0
SPLIT = {"teacher_train": ["spleen_1"], "val": ["spleen_2", "spleen_3"], "test": ["spleen_4"]}


class Arm(NamedTuple):
    """A recipe: its config files, and what is changed of them."""

    name: str
    bundle: str
    configs: tuple[str, ...]
    overrides: dict[str, Any]


class Way(NamedTuple):
    """How a recipe is run."""

    processes: int
    threads: int


ALL_SCALES = {"weights::encoder": 0.1, "weights::decoder": 0.1}
MOMENTUM = {"optimizer::_target_": "torch.optim.SGD", "optimizer::momentum": 0.9}
# Whether the biases in front of batch norms, whose gradient is 0 but for rounding, are what differs.
FROZEN = {
    "network": "$(lambda network: ([block[0].bias.requires_grad_(False) for block in network.modules()"
    " if type(block).__name__ == 'ConvBlock'], network)[1])(prepare_network(@network_def, @device))"
}
# Whether anything but rounding differs.
_TO_FLOAT64 = "$(lambda n: (n.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),)), n.double())[1])"
FLOAT64 = {
    "network": f"{_TO_FLOAT64}(prepare_network(@network_def, @device))",
    "teacher": f"{_TO_FLOAT64}(load_teacher(@teacher_run, @task.labels))",
    "projectors": "$torch.nn.ModuleDict({term.name: term.loss for term in @distillation if term.weight > 0}).double()",
}
# The first one gives the teacher of the others.
ARMS = {
    "teacher": Arm(
        "teacher `train` (AdamW), narrow", TEACHER, ("train",), {"network_def::channels": [8, 16, 32, 64], "size": 64}
    ),
    "train": Arm("`train` (AdamW)", STUDENT, ("train",), {"size": 64}),
    "distill": Arm("`distill` (RMSprop)", STUDENT, ("distill",), {}),
    "float64": Arm("`distill` in float64", STUDENT, ("distill",), FLOAT64),
    "frozen": Arm("`distill`, biases before batch norms frozen", STUDENT, ("distill",), FROZEN),
    "all_scales": Arm("`distill`, all scales", STUDENT, ("distill",), ALL_SCALES),
    "crd": Arm("`distill` with `distill_crd`", STUDENT, ("distill", "distill_crd"), {}),
    "crd_float64": Arm("`distill` with `distill_crd` in float64", STUDENT, ("distill", "distill_crd"), FLOAT64),
    "momentum": Arm("`distill`, all scales, SGD with momentum", STUDENT, ("distill",), ALL_SCALES | MOMENTUM),
}
WAYS = {"one": Way(1, 1), "two_processes": Way(2, 1), "two_threads": Way(1, 2)}


def run(out: Path) -> None:
    """Train what is missing, then write the curves and how they differ."""
    data = out / "data"
    if not (data / "dataset.json").is_file():
        write_phantom_task(data, sum(map(len, SPLIT.values())), SEED, shape=SHAPE, progress=False)
    write_json(data / "splits.json", SPLIT)
    arms = {}
    for key, arm in ARMS.items():
        curves = {way_key: train(key, way_key, out) for way_key in WAYS}
        arms[key] = {**arm._asdict(), "runs": curves, "differences": summarize(curves)}
        print(key, arms[key]["differences"], flush=True)
    facts = {"shape": SHAPE, "split": SPLIT, "seed": SEED, "batch": BATCH, "steps": STEPS}
    write_json(RESULTS, {"machine": machine_facts(), **facts, "arms": arms})


def train(key: str, way_key: str, out: Path) -> dict[str, Any]:
    """The curves of one run, which is made if it is not finished."""
    arm, way = ARMS[key], WAYS[way_key]
    folder = out / key / way_key
    options = {
        "dataset_dir": out / "data",
        # Each run asks the teacher itself.
        "cache_dir": out / "cache" / key / way_key,
        "output_dir": folder,
        "seed": SEED,
        "epochs": STEPS,
        "batch_size": BATCH // way.processes,
        **arm.overrides,
    }
    configs = [*arm.configs]
    if arm.configs[0] == "distill":
        options["teacher_run"] = out / "teacher" / "one"
    words = [sys.executable]
    if way.processes > 1:
        configs.append("multi_gpu_train")
        words += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={way.processes}"]
    at = bundle_folder(arm.bundle) / "configs"
    words += ["-m", "monai.bundle", "run", "--config_file", str([str(at / f"{name}.yaml") for name in configs])]
    words += ["--meta_file", str(at / "metadata.json")]
    words += [word for option, value in options.items() for word in (f"--{option}", str(value))]
    file = folder / "history.json"
    if not file.is_file() or len(json.loads(file.read_text(encoding="utf-8"))) < STEPS:
        # Passive, so that a waiting thread leaves its core to others: a busy machine is many times slower otherwise.
        threads = {"OMP_NUM_THREADS": str(way.threads), "OMP_WAIT_POLICY": "PASSIVE"}
        environment = os.environ | threads | {"CUDA_VISIBLE_DEVICES": ""}
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=environment)
    rows = json.loads(file.read_text(encoding="utf-8"))
    curves = {figure: [row[figure] for row in rows] for figure in ("loss", "val_dice")}
    return {**way._asdict(), "batch_size": options["batch_size"], **curves}


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run").add_argument("--out", type=Path, required=True)
    commands.add_parser("report")
    options = parser.parse_args()
    if options.command == "run":
        run(options.out.resolve())
    else:
        write_table(PAGE, json.loads(RESULTS.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
