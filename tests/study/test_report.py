"""All files of a report tell of the same runs, and what is wrong with one study is no matter of the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from medkd.errors import UserError
from medkd.files import write_json
from medkd.study import report
from medkd.study.plan import Study
from medkd.study.report import report_folder, write_study_report


def plan(folder: Path, study: Study, name: str) -> None:
    write_json(folder / f"{name}.plan.json", replace(study, name=name).to_dict())


def test_a_report_is_written_from_what_is_finished(done_folder: Path, small_study: Study) -> None:
    files = write_study_report(done_folder, small_study)
    assert [file.name for file in files] == ["hand.json", "hand.md", "hand.html"]
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in write_study_report(done_folder, small_study)] == before
    for content in before:
        assert b"/home" not in content and str(done_folder).encode() not in content


def test_a_run_of_another_recipe_leaves_the_report_of_the_others(done_folder: Path, small_study: Study) -> None:
    pictures = {"teacher": "big", "student": "alone", "distilled": "b"}
    (done_folder / "runs" / "big-0.json").write_text(json.dumps({"another": "recipe"}))
    write_study_report(done_folder, replace(small_study, pictures=pictures))
    for kind in ("json", "md", "html"):
        assert "holds a run of another recipe" in (done_folder / f"hand.{kind}").read_text()


def test_nothing_is_written_where_the_page_cannot_be_made(
    done_folder: Path, small_study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(out: Path, study: Study) -> None:
        raise UserError("model.pt is damaged.")

    write_study_report(done_folder, small_study)
    before = (done_folder / "hand.json").read_bytes()
    monkeypatch.setattr(report, "study_pictures", fail)
    with pytest.raises(UserError, match=r"model\.pt is damaged"):
        write_study_report(done_folder, replace(small_study, title="Another"))
    assert (done_folder / "hand.json").read_bytes() == before


def test_every_study_of_a_folder_is_reported(done_folder: Path, small_study: Study) -> None:
    for name in ("other", "hand"):
        plan(done_folder, small_study, name)
    written = [file.name for file in report_folder(done_folder)]
    assert written == [f"{name}.{kind}" for name in ("hand", "other") for kind in ("json", "md", "html")]


@pytest.mark.parametrize(
    "damaged", [b"{", b"[]", b"{}", b'{"runs": 3, "tables": []}', b'{"runs": [{"a": 1}], "tables": []}', b"\xff"]
)
def test_a_bad_plan_is_named_and_the_others_are_reported(done_folder: Path, small_study: Study, damaged: bytes) -> None:
    (done_folder / "bad.plan.json").write_bytes(damaged)
    for name in ("a", "hand"):
        plan(done_folder, small_study, name)
    with pytest.raises(UserError, match=r"bad\.plan\.json is no plan .* give medkd study run bad again, or delete it"):
        report_folder(done_folder)
    assert all((done_folder / f"{name}.html").is_file() for name in ("a", "hand"))
    assert not (done_folder / "bad.html").exists()


def test_a_folder_without_a_study_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no study"):
        report_folder(tmp_path)
