"""Exporting from the command line: what is printed, what is refused, what is left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medkd.cli import main
from medkd.data import Preprocessing
from medkd.engines import SavedModel, load_model
from medkd.errors import UserError
from medkd.export import FORMATS, export_model
from medkd.export import exporter as exporter_module
from medkd.networks import create_network, network_definition

ALL = sorted(FORMATS)


def words(run: Path, format: str, out: Path, *more: str) -> list[str]:
    return ["export", str(run), "--format", format, "--out", str(out), *more]


@pytest.mark.parametrize("format", ALL)
def test_each_format_agrees_and_says_so(format, run, tmp_path, capsys):
    out = tmp_path / "new" / "exported"
    assert main(words(run, format, out)) == 0
    first, second = capsys.readouterr().out.splitlines()
    parameters = sum(parameter.numel() for parameter in load_model(run).parameters())
    assert first.startswith(f"{out}: {format}, {parameters:,} parameters, ") and first.endswith(" kB")
    assert "Dice of the masks block 1.0000" in second and "18 slices of 3 volumes" in second
    assert [path.name for path in out.parent.iterdir()] == ["exported"]


def other_networks(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make what is loaded again say the opposite of what was written."""
    load = FORMATS[format]
    monkeypatch.setitem(FORMATS, format, lambda path: lambda slices: -load(path)(slices))


@pytest.mark.parametrize("format", ALL)
def test_a_file_that_disagrees_is_refused_and_nothing_is_left(format, run, tmp_path, monkeypatch, capsys):
    other_networks(format, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    assert main(words(run, format, tmp_path / "new" / "exported")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "was not written" in line and "block 0.0000" in line and "0.999" in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("dice", "written"), [(0.9989, False), (0.999, True), (float("nan"), False)])
def test_the_threshold(dice, written, run, tmp_path, monkeypatch):
    from medkd.export import Agreement

    monkeypatch.setattr(exporter_module, "compare", lambda *_: Agreement({"block": dice, "rest": 1.0}, 0.1, 6, 1))
    if written:
        export_model(run, "torchscript", tmp_path / "model.ts")
    else:
        with pytest.raises(UserError, match="was not written"):
            export_model(run, "torchscript", tmp_path / "model.ts")
    assert (tmp_path / "model.ts").exists() == written


def compared_cases(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the cases that the next export is compared on."""
    names: list[str] = []
    original = exporter_module.compare

    def compare(reference, exported, model, cases):
        names.extend(case.name for case in cases)
        return original(reference, exported, model, cases)

    monkeypatch.setattr(exporter_module, "compare", compare)
    return names


@pytest.mark.parametrize("give_data", [False, True])
def test_slices_come_from_cases_that_the_model_has_not_trained_on(give_data, run, tiny_task, tmp_path, monkeypatch):
    names = compared_cases(monkeypatch)
    export_model(run, "torchscript", tmp_path / "model.ts", tiny_task if give_data else None)
    assert names == ["tiny_2", "tiny_3", "tiny_4"]


@pytest.mark.parametrize("split", [None, {"teacher_train": ["a"], "val": ["b"], "test": ["c"]}])
def test_all_cases_where_the_split_is_of_other_data(split, run, tiny_task, tmp_path, monkeypatch):
    (run / "splits.json").unlink()
    if split:
        (run / "splits.json").write_text(json.dumps(split))
    names = compared_cases(monkeypatch)
    export_model(run, "torchscript", tmp_path / "model.ts", tiny_task)
    assert names == [f"tiny_{index}" for index in range(5)]


def no_recipe(run: Path) -> None:
    (run / "recipe.json").unlink()


def data_has_moved(run: Path) -> None:
    recipe = json.loads((run / "recipe.json").read_text())
    recipe["overrides"]["dataset_dir"] = str(run / "nowhere")
    (run / "recipe.json").write_text(json.dumps(recipe))


def shows_nothing(run: Path) -> None:
    network = load_model(run)
    network.head.weight.data.zero_()
    network.head.bias.data.fill_(-1.0)
    SavedModel.read(run).save(run, network.state_dict())


def in_three_dimensions(run: Path) -> None:
    network = create_network("unet_s1", channels=(4, 8), spatial_dims=3)
    SavedModel(network_definition(network), Preprocessing(32), {0: "background", 1: "block"}).save(
        run, network.state_dict()
    )


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_recipe, "its data is not known: give a task folder by --data"),
        (data_has_moved, "no longer in .*: give a task folder by --data"),
        (shows_nothing, "finds none of block on 18 slices"),
        (in_three_dimensions, "takes volumes"),
        (lambda run: (run / "model.pt").unlink(), "model.pt is missing"),
        (lambda run: (run / "model.json").unlink(), "no trained model"),
    ],
)
@pytest.mark.parametrize("format", ALL)
def test_what_cannot_be_exported_is_told_and_nothing_is_left(spoil, sentence, format, run, tmp_path):
    spoil(run)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=sentence):
        export_model(run, format, tmp_path / "exported")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("format", ALL)
def test_nothing_is_written_over(format, run, tmp_path, capsys):
    out = tmp_path / "papers"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    assert main(words(run, format, out)) == 2
    assert "papers exists" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(("format", "accepted"), [("bundle", True), ("onnx", False)])
def test_an_empty_folder_is_a_place_for_a_bundle(format, accepted, run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert main(words(run, format, tmp_path / "empty")) == (0 if accepted else 2)
    assert (tmp_path / "empty" / "models" / "model.pt").is_file() == accepted


def test_a_bundle_is_written_to_the_folder_one_stands_in(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(words(run, "bundle", Path())) == 0
    assert {path.name for path in Path.cwd().iterdir()} == {"LICENSE", "configs", "docs", "models"}
    assert " 0 kB" not in capsys.readouterr().out


def test_an_unknown_format(run, tmp_path):
    with pytest.raises(UserError, match="choose one of bundle, onnx, torchscript"):
        export_model(run, "keras", tmp_path / "exported")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(("format", "file"), [("onnx", ""), ("torchscript", ""), ("bundle", "LICENSE")])
def test_a_full_disk_is_one_sentence(format, file, run, tmp_path, monkeypatch, capsys):
    from medkd.export import staging

    # What a full disk does to a write: the file leads to a device that is always full.
    original = staging.tempfile.mkdtemp

    def full(**arguments):
        holder = Path(original(**arguments))
        target = holder / "exported" / file if file else holder / "exported"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to("/dev/full")
        return str(holder)

    monkeypatch.setattr(staging.tempfile, "mkdtemp", full)
    assert main(words(run, format, tmp_path / "exported")) == 2
    error = capsys.readouterr().err
    assert f"cannot write {tmp_path / 'exported'} (" in error and "free some space" in error
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_a_run_that_has_moved_still_exports(run, tiny_task, tmp_path):
    moved = Path(shutil.move(run, tmp_path / "moved"))
    assert export_model(moved, "torchscript", tmp_path / "model.ts", tiny_task).lowest_dice == 1.0
