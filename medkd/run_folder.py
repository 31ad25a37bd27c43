"""What the files of a run are called."""

from __future__ import annotations

RECIPE_FILE = "recipe.json"
DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "model.pt"
SPLIT_FILE = "splits.json"
CHECKPOINT_FILE = "checkpoint.pt"
HISTORY_FILE = "history.json"

# What a row of the history has for each term of a distillation, beside its value.
TERM_FIGURES = ("weighted", "gradient")
