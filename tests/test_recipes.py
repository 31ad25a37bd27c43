"""Recipes end to end on a task that a tiny network learns in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from ignite.engine import Events

from medkd.bundle import STUDENT, TEACHER, bundle_folder
from medkd.engines import DistillationTrainer
from medkd.engines.saved_model import load_tensors
from medkd.errors import UserError
from medkd.inference import Segmenter
from medkd.recipes import parse_overrides, run_recipe

SMALL = {"network_def::channels": [4, 8], "epochs": 2, "batch_size": 4, "cache_dir": None}


def common(task: Path) -> dict[str, object]:
    return {"dataset_dir": str(task), **SMALL}


@pytest.fixture(scope="module")
def teacher(tiny_task, tmp_path_factory) -> Path:
    """A teacher that has learnt the tiny task well enough to teach."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    overrides = common(tiny_task) | {
        "size": 32, "network_def::channels": [8, 16, 32], "epochs": 12, "learning_rate": 0.01
    }  # fmt: skip
    return run_recipe(TEACHER, "train", overrides, out)


def history(run: Path) -> list[dict[str, float]]:
    return json.loads((run / "history.json").read_text())


def without_seconds(run: Path) -> list[dict[str, float]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history(run)]


def test_the_teacher_learns_and_its_folder_is_a_model(teacher, tiny_task):
    rows = history(teacher)
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert max(row["val_dice"] for row in rows) > 0.7
    assert Segmenter.load(teacher, "torch").model.labels == {0: "background", 1: "block"}


def test_distilling_writes_every_term_and_a_student_without_projectors(teacher, tiny_task, tmp_path):
    overrides = common(tiny_task) | {
        "teacher_run": str(teacher), "weights::encoder": 0.1, "weights::decoder": 0.1, "learning_rate": 0.001
    }  # fmt: skip
    run = run_recipe(STUDENT, "distill", overrides, tmp_path / "student")
    row = history(run)[-1]
    assert {"segmentation", "pmd", "encoder", "bottleneck", "decoder", "val_dice"} < set(row)
    total = 0.4 * row["segmentation"] + 0.2 * row["pmd"] + 0.2 * row["bottleneck"]
    assert row["loss"] == pytest.approx(total + 0.1 * row["encoder"] + 0.1 * row["decoder"], rel=1e-4)
    assert not [key for key in load_tensors(run / "model.pt") if "projector" in key]
    assert [key for key in load_tensors(run / "checkpoint.pt")["projectors"] if "projector" in key]
    assert Segmenter.load(run, "torch").model.preprocessing == Segmenter.load(teacher, "torch").model.preprocessing


@pytest.mark.parametrize("augment", [False, "turns"])
def test_keeping_the_teachers_outputs_changes_no_loss(augment, teacher, tiny_task, tmp_path):
    """A first and a second run over one cache, in another folder, and one without."""
    overrides = common(tiny_task) | {
        "teacher_run": str(teacher), "weights::encoder": 0.1, "learning_rate": 0.001, "augment": augment,
        "cache_dir": str(tmp_path / "cache"),
    }  # fmt: skip
    cold, warm = (run_recipe(STUDENT, "distill", overrides, tmp_path / name) for name in ("cold", "warm"))
    assert list((tmp_path / "cache" / "teacher").rglob("*.npy"))
    assert without_seconds(cold) == without_seconds(warm)
    if augment is False:
        anew = run_recipe(STUDENT, "distill", overrides | {"teacher_cache": False}, tmp_path / "anew")
        for kept, computed in zip(history(cold), history(anew), strict=True):
            assert kept["loss"] == pytest.approx(computed["loss"], rel=1e-3)


def test_augmented_slices_are_no_ones_that_the_teacher_has_seen(teacher, tiny_task, tmp_path):
    overrides = common(tiny_task) | {"teacher_run": str(teacher), "epochs": 1, "augment": True}
    run_recipe(STUDENT, "distill", overrides | {"cache_dir": str(tmp_path / "cache")}, tmp_path / "anew")
    assert not (tmp_path / "cache" / "teacher").exists()
    with pytest.raises(UserError, match="--teacher_cache false"):
        run_recipe(STUDENT, "distill", overrides | {"teacher_cache": True}, tmp_path / "kept")


def test_a_student_is_never_tested_on_what_its_teacher_has_seen(tiny_task, tmp_path):
    """Drawn with another seed than the student would draw: the student follows its teacher."""
    overrides = common(tiny_task) | {"epochs": 1, "size": 32, "split_seed": 5}
    teacher = run_recipe(TEACHER, "train", overrides, tmp_path / "teacher")
    student = run_recipe(
        STUDENT, "distill", common(tiny_task) | {"epochs": 1, "teacher_run": str(teacher)}, tmp_path / "student"
    )
    alone = run_recipe(STUDENT, "train", common(tiny_task) | {"epochs": 1, "size": 32}, tmp_path / "alone")
    splits = [json.loads((run / "splits.json").read_text()) for run in (teacher, student, alone)]
    assert splits[0] == splits[1] != splits[2]


def stop_after(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    """Make the next training die in the middle of an epoch."""
    original = DistillationTrainer.__init__

    def dying(self, **arguments):
        original(self, **arguments)

        @self.on(Events.ITERATION_COMPLETED(once=iteration))
        def die(engine):
            raise KeyboardInterrupt

    monkeypatch.setattr(DistillationTrainer, "__init__", dying)


def test_a_killed_run_resumes_with_the_same_curve_and_weights(teacher, tiny_task, tmp_path, monkeypatch):
    overrides = common(tiny_task) | {
        "teacher_run": str(teacher), "epochs": 4, "learning_rate": 0.001, "schedule": "cosine", "augment": True,
        "granularity": "pixel", "empty_per_foreground": 0.5,
    }  # fmt: skip
    whole = run_recipe(STUDENT, "distill", overrides, tmp_path / "whole")
    steps = load_tensors(whole / "checkpoint.pt")["trainer"]["iteration"] // 4
    with monkeypatch.context() as patch:
        stop_after(patch, 2 * steps + 1)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(STUDENT, "distill", overrides, tmp_path / "killed")
    assert len(history(tmp_path / "killed")) == 2
    killed = run_recipe(STUDENT, "distill", overrides, tmp_path / "killed")
    assert without_seconds(killed) == without_seconds(whole)
    for file in ("model.pt", "checkpoint.pt"):
        ours, theirs = load_tensors(killed / file), load_tensors(whole / file)
        ours, theirs = ours.get("network", ours), theirs.get("network", theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), file


def test_a_finished_run_is_left_alone_and_another_recipe_is_refused(teacher, tiny_task, tmp_path):
    overrides = common(tiny_task) | {"size": 32}
    run = run_recipe(STUDENT, "train", overrides, tmp_path / "run")
    before = history(run)
    assert history(run_recipe(STUDENT, "train", overrides, run)) == before
    with pytest.raises(UserError, match="another recipe"):
        run_recipe(STUDENT, "train", overrides | {"epochs": 3}, run)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="no run of medkd"):
        run_recipe(STUDENT, "train", overrides, tmp_path / "papers")


def test_seeds_repeat_and_differ(teacher, tiny_task, tmp_path):
    # Without a GPU mixed precision does nothing, but it has to run.
    overrides = common(tiny_task) | {"size": 32, "epochs": 1, "amp": True}
    curves = [
        without_seconds(run_recipe(STUDENT, "train", overrides | {"seed": seed}, tmp_path / name))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert curves[0] == curves[1] != curves[2]


def test_pretraining_reconstructs_and_starts_a_teacher(tiny_task, tmp_path):
    start = run_recipe(TEACHER, "pretrain", common(tiny_task) | {"size": 32, "learning_rate": 0.01}, tmp_path / "start")
    rows = history(start)
    assert rows[1]["loss"] < rows[0]["loss"] and "val_dice" not in rows[0]
    run = run_recipe(
        TEACHER,
        "train",
        common(tiny_task) | {"size": 32, "initial_run": str(start), "learning_rate": 0.0},
        tmp_path / "run",
    )
    ours, theirs = load_tensors(run / "model.pt"), load_tensors(start / "model.pt")
    assert all(
        torch.equal(ours[key], theirs[key]) for key in theirs if "running" not in key and "num_batches" not in key
    )


def test_the_bundle_command_does_what_the_recipe_does(teacher, tiny_task, tmp_path):
    overrides = common(tiny_task) | {"teacher_run": str(teacher), "learning_rate": 0.001}
    ours = run_recipe(STUDENT, "distill", overrides, tmp_path / "ours", method="emkd")
    words = [sys.executable, "-m", "monai.bundle", "run", "--output_dir", str(tmp_path / "theirs")]
    configs = bundle_folder(STUDENT) / "configs"
    files = [str(configs / name) for name in ("distill.yaml", "distill_emkd.yaml")]
    words += ["--config_file", str(files), "--meta_file", str(configs / "metadata.json")]
    for name, value in overrides.items():
        words += [f"--{name}", str(value)]
    subprocess.run(words, check=True, cwd=tmp_path, capture_output=True)
    assert without_seconds(tmp_path / "theirs") == without_seconds(ours)


# With terms of every kind: a projector, a memory bank, a discriminator.
MIX = """
weights: {segmentation: 1.0, hint: 0.1, class_guided: 0.1, holistic: 0.1}
distillation:
- _target_: medkd.handlers.DistillationHandler
  name: hint
  weight: '@weights::hint'
  student_tap: encoder
  teacher_tap: bottleneck
  loss:
    _target_: medkd.losses.HintLoss
    student_channels: $tap_channels(@network, 'encoder')
    teacher_channels: $tap_channels(@teacher, 'bottleneck')
- _target_: medkd.handlers.DistillationHandler
  name: class_guided
  weight: '@weights::class_guided'
  student_tap: bottleneck
  teacher_tap: bottleneck
  loss:
    _target_: medkd.losses.ClassGuidedContrastiveLoss
    student_channels: $tap_channels(@network, 'bottleneck')
    teacher_channels: $tap_channels(@teacher, 'bottleneck')
- _target_: medkd.handlers.DistillationHandler
  name: holistic
  weight: '@weights::holistic'
  warmup_epochs: 1
  loss:
    _target_: medkd.losses.HolisticAdversarialLoss
    out_channels: '@out_channels'
"""


def test_a_killed_run_of_a_mix_resumes_with_its_bank_and_discriminator(teacher, tiny_task, tmp_path, monkeypatch):
    mix = tmp_path / "mix.yaml"
    mix.write_text(MIX)
    overrides = common(tiny_task) | {"teacher_run": str(teacher), "epochs": 3, "learning_rate": 0.001}
    whole = run_recipe(STUDENT, "distill", overrides, tmp_path / "whole", mix)
    steps = load_tensors(whole / "checkpoint.pt")["trainer"]["iteration"] // 3
    with monkeypatch.context() as patch:
        stop_after(patch, steps + 1)
        with pytest.raises(KeyboardInterrupt):
            run_recipe(STUDENT, "distill", overrides, tmp_path / "killed", mix)
    killed = run_recipe(STUDENT, "distill", overrides, tmp_path / "killed", mix)
    assert without_seconds(killed) == without_seconds(whole)
    row = history(killed)[-1]
    assert set(row["gradient"]) == set(row["weighted"]) == {"segmentation", "hint", "class_guided", "holistic"}
    projectors = load_tensors(killed / "checkpoint.pt")["projectors"]
    for name, value in load_tensors(whole / "checkpoint.pt")["projectors"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(projectors[name], value), name
    mix.write_text(MIX.replace("hint: 0.1", "hint: 0.2"))
    with pytest.raises(UserError, match="another recipe"):
        run_recipe(STUDENT, "distill", overrides, killed, mix)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"epoch": 3}, "did you mean epochs"),
        ({"weights::pdm": 3}, "did you mean weights::pmd"),
        ({"nothing_like_it::x": 3}, "no option"),
    ],
)
def test_an_override_of_nothing_is_refused_before_anything_is_written(overrides, sentence, tiny_task, tmp_path):
    with pytest.raises(UserError, match=sentence):
        run_recipe(STUDENT, "distill", overrides, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--epochs", "3", "--learning_rate", "1e-3"], {"epochs": 3, "learning_rate": 0.001}),
        (["--augment", "true", "--cache_dir=/tmp/x"], {"augment": True, "cache_dir": "/tmp/x"}),
        (["--network_def::channels", "[4, 8]"], {"network_def::channels": [4, 8]}),
        (["--window", "[-160, 240]", "--initial_run", "null"], {"window": [-160, 240], "initial_run": None}),
        (["--optimizer::_target_", "torch.optim.SGD"], {"optimizer::_target_": "torch.optim.SGD"}),
    ],
)
def test_overrides_from_words(words, expected):
    assert parse_overrides(words) == expected


@pytest.mark.parametrize("words", [["epochs", "3"], ["--epochs"], ["--"]])
def test_words_that_are_no_overrides(words):
    with pytest.raises(UserError, match="--name value"):
        parse_overrides(words)


@pytest.mark.parametrize("bundle", [TEACHER, STUDENT])
def test_recipes_are_those_published(bundle):
    configs = bundle_folder(bundle) / "configs"
    recipe = {path.stem: yaml.safe_load(path.read_text()) for path in configs.glob("*.yaml")}
    if bundle == TEACHER:
        train = recipe["train"]
        assert (train["epochs"], train["batch_size"], train["learning_rate"]) == (200, 8, 1e-4)
        assert train["optimizer"]["betas"] == [0.9, 0.95] and train["optimizer"]["weight_decay"] == 0.05
        assert train["reconstruction_weight"] == 0.2 and train["size"] == 256
    else:
        train, distill = recipe["train"], recipe["distill"]
        assert (train["epochs"], train["batch_size"], train["learning_rate"]) == (120, 16, 1.5e-4)
        assert (distill["epochs"], distill["batch_size"], distill["learning_rate"]) == (120, 20, 1e-2)
        assert distill["optimizer"]["_target_"] == "torch.optim.RMSprop"
        assert train["student_share"] == distill["student_share"] == 0.5
