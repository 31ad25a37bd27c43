"""Every distillation method at one fixed budget on btcv_spleen, beside the control without distillation.

    python benchmarks/methods.py run --data $MEDKD_DATA/btcv_spleen --out runs/methods
    python benchmarks/methods.py cost --data $MEDKD_DATA/btcv_spleen --out runs/methods
    python benchmarks/methods.py report

``run`` trains the teacher and what is missing of the students (a stopped run goes on), evaluates on the test volumes
and gathers ``docs/results/methods.json``; ``--methods`` and ``--seeds`` limit it, so that several processes can share
the work. ``cost`` measures time per step and memory of each method beside the control's, one process a method.
``report`` writes ``docs/methods.md`` from the stored JSON and the configs alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from btcv_spleen import KD_SCALE, STUDENT_SCALE, TEACHER_RECIPE, evaluate_run
from methods_page import write_methods_page
from peak_memory import peak_mib

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.methods import method_file, method_names
from medkd.recipes import WITHOUT_DISTILLATION, run_recipe

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results" / "methods.json"
COST = ROOT / "docs" / "results" / "methods_cost.json"
LOSSES = ROOT / "docs" / "results" / "losses.json"
CONTROL = "control"
SEEDS = (0, 1)
COST_STEPS = 8
BUDGET = STUDENT_SCALE | KD_SCALE | {"epochs": 16}


def run(data: Path, out: Path, methods: list[str], seeds: list[int]) -> None:
    """Train and evaluate what is missing, then gather all evaluations."""
    import torch

    torch.set_num_threads(1)
    common = {"dataset_dir": str(data)}
    teacher = run_recipe(TEACHER, "train", common | TEACHER_RECIPE, out / "teacher")
    evaluate_run(teacher, data)
    for seed in seeds:
        for method in methods:
            overrides = common | _overrides(method, teacher) | {"seed": seed}
            folder = out / f"{method}-{seed}"
            run_recipe(STUDENT, "distill", overrides, folder, None if method == CONTROL else method)
            evaluate_run(folder, data)
    gather(out)


def _overrides(method: str, teacher: Path) -> dict[str, Any]:
    scale = BUDGET | {"teacher_run": str(teacher)}
    return scale | WITHOUT_DISTILLATION if method == CONTROL else scale


def gather(out: Path) -> None:
    """Write the evaluations that exist, with the terms of the last epoch and the machine, to one JSON."""
    from medkd.files import write_json
    from medkd.machine import machine_facts

    methods: dict[str, list[dict[str, Any]]] = {}
    for method in ("teacher", CONTROL, *method_names()):
        folders = {0: out / "teacher"} if method == "teacher" else {seed: out / f"{method}-{seed}" for seed in SEEDS}
        methods[method] = [_run_facts(seed, folder) for seed, folder in folders.items() if _is_evaluated(folder)]
    scale = {"teacher": TEACHER_RECIPE, "students": BUDGET}
    write_json(RESULTS, {"machine": machine_facts(), "scale": scale, "methods": methods})


def _is_evaluated(folder: Path) -> bool:
    return (folder / "evaluation.json").is_file()


def _run_facts(seed: int, folder: Path) -> dict[str, Any]:
    history = json.loads((folder / "history.json").read_text(encoding="utf-8"))
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    facts = {"seed": seed, "best_val_dice": max(row.get("val_dice", 0.0) for row in history), **report}
    if "gradient" in history[0]:
        facts["terms"] = [history[0], history[-1]]
    return facts


def cost(data: Path, out: Path) -> None:
    """Measure every method in a process of its own."""
    from medkd.files import write_json
    from medkd.machine import machine_facts

    rows = {}
    for method in method_names():
        words = [sys.executable, __file__, "cost-one", "--data", str(data), "--out", str(out), "--method", method]
        printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        rows[method] = json.loads(printed.splitlines()[-1])  # MONAI logs above it
        print(method, rows[method], flush=True)
    write_json(COST, {"machine": machine_facts(), "steps": COST_STEPS, "rows": rows})


def cost_one(data: Path, out: Path, method: str) -> dict[str, float]:
    """Milliseconds per step and peak memory in MiB: of the control, then of the method, in this process."""
    import torch

    torch.set_num_threads(2)
    figures: dict[str, float] = {}
    for side, name in (("control", CONTROL), ("method", method)):
        times: list[float] = []
        _, figures[f"{side}_peak_mib"] = peak_mib(partial(_time_steps, data, out, name, times))
        figures[f"{side}_ms"] = 1000 * median(times)
    return figures


def _time_steps(data: Path, out: Path, method: str, times: list[float]) -> None:
    """Note the seconds of each training step, from taking a batch to the optimiser's, after the first."""
    from ignite.engine import Events
    from monai.bundle import ConfigWorkflow

    folder = bundle_folder(STUDENT)
    own = None if method == CONTROL else method_file(method)
    files = [folder / "configs" / "distill.yaml", *([own] if own else [])]
    overrides = {
        "dataset_dir": str(data), **_overrides(method, out / "teacher"),
        "epochs": 1, "train::trainer::epoch_length": COST_STEPS + 1, "val_interval": 2,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        workflow = ConfigWorkflow(
            config_file=[str(file) for file in files], logging_file=False,
            output_dir=temporary, bundle_root=str(folder), **overrides,
        )  # fmt: skip
        workflow.initialize()
        trainer = workflow.parser.get_parsed_content("train::trainer")
        ends: list[float] = []
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: ends.append(time.perf_counter()))
        workflow.run()
    times += [after - before for before, after in pairwise(ends)]


def main() -> None:
    """Parse and call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    names = [CONTROL, *method_names()]
    for name in ("run", "cost", "cost-one"):
        command = commands.add_parser(name)
        command.add_argument("--data", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
        if name == "run":
            command.add_argument("--methods", nargs="*", choices=names, default=names)
            command.add_argument("--seeds", nargs="*", type=int, choices=SEEDS, default=list(SEEDS))
        if name == "cost-one":
            command.add_argument("--method", choices=names, required=True)
    commands.add_parser("report")
    options = parser.parse_args()
    if options.command == "run":
        run(options.data, options.out, options.methods, options.seeds)
    elif options.command == "cost":
        cost(options.data, options.out)
    elif options.command == "cost-one":
        print(json.dumps(cost_one(options.data, options.out, options.method)))
    else:
        content = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in _stored().items()}
        write_methods_page(ROOT / "docs" / "methods.md", **content)


def _stored() -> dict[str, Path]:
    return {"results": RESULTS, "cost": COST, "losses": LOSSES}


if __name__ == "__main__":
    main()
