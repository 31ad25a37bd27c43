"""What the files of a run are called, and how its folder is known."""

from __future__ import annotations

from pathlib import Path

RECIPE_FILE = "recipe.json"
DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "model.pt"
SPLIT_FILE = "splits.json"
CHECKPOINT_FILE = "checkpoint.pt"
HISTORY_FILE = "history.json"

# What a row of the history has for each term of a distillation, beside its value.
TERM_FIGURES = ("weighted", "gradient")


def is_run_or_bundle(folder: Path) -> bool:
    """Whether a folder is that of a run, finished or not, or of a bundle."""
    of_run = (DESCRIPTION_FILE, WEIGHTS_FILE, CHECKPOINT_FILE, RECIPE_FILE)
    return any((folder / file).is_file() for file in (*of_run, f"models/{DESCRIPTION_FILE}", "configs/metadata.json"))
