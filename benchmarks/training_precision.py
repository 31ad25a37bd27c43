"""Whether a student trained in bfloat16 is as good as one trained in float32."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from btcv_spleen import evaluate_run

from medkd.bundle import STUDENT
from medkd.recipes import run_recipe

SEEDS = (0, 1, 2)
SCALE = {"size": 128, "epochs": 5, "augment": True, "schedule": "cosine", "learning_rate": 0.002}


def measure_precision(data: Path) -> dict[str, Any]:
    """Train S1 alone in both precisions, three seeds each, and evaluate it on the test volumes.

    Args:
        data: task folder.
    """
    dice: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            for name, amp in (("float32", False), ("bfloat16", True)):
                run = Path(folder) / f"{name}-{seed}"
                overrides = {"dataset_dir": str(data), "seed": seed, "amp": amp, **SCALE}
                run_recipe(STUDENT, "train", overrides, run)
                evaluate_run(run, data)
                labels = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["mean"]
                dice[name].append(mean(figures["dice"] for figures in labels.values()))
                print(f"{name}, seed {seed}: {dice[name][-1]:.3f}", flush=True)
    spread = {name: {"mean": mean(values), "sd": stdev(values)} for name, values in dice.items()}
    return {"data": data.name, "scale": SCALE, "dice": dice, **spread}
