"""The demo, shrunk to seconds: every file it promises, and going on after an interruption."""

from __future__ import annotations

import json
from functools import partial

import nibabel
import pytest

from medkd.data.phantom import write_phantom_task
from medkd.study import demo


@pytest.fixture
def tiny_demo(monkeypatch):
    monkeypatch.setattr(demo, "VOLUMES", 5)
    monkeypatch.setattr(demo, "SIZE", 32)
    monkeypatch.setattr(demo, "TEACHER_CHANNELS", [4, 6, 8])
    monkeypatch.setattr(demo, "TEACHER_EPOCHS", 1)
    monkeypatch.setitem(demo.STUDENT_RECIPE, "epochs", 2)
    monkeypatch.setattr(demo, "write_phantom_task", partial(write_phantom_task, shape=(40, 40, 16), progress=False))


def test_everything_promised_is_there(tiny_demo, tmp_path, capsys):
    out = tmp_path / "demo"
    demo.run_demo(out)
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["models"]) == ["teacher", "student", "distilled"]
    assert summary["models"]["student"]["parameters"] == summary["models"]["distilled"]["parameters"] == 57_297
    assert "psnr" in summary["models"]["teacher"] and "psnr" not in summary["models"]["student"]
    # The control: same curve length, no teacher's term in it.
    assert "pmd" in summary["models"]["distilled"]["history"][0]
    assert "pmd" not in summary["models"]["student"]["history"][0]
    mask = nibabel.load(out / summary["inference"]["mask"])
    scan = nibabel.load(out / "Task09_Phantom" / "imagesTr" / summary["inference"]["scan"])
    assert mask.shape == scan.shape
    assert "<html" in (out / "report.html").read_text()
    assert "report.html" in capsys.readouterr().out


def test_an_interrupted_demo_goes_on(tiny_demo, tmp_path, monkeypatch):
    out = tmp_path / "demo"
    evaluate = demo.evaluate

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "evaluate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    monkeypatch.setattr(demo, "evaluate", evaluate)
    demo.run_demo(out)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}.items()
    assert (out / "report.html").is_file()
