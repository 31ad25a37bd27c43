from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medkd.errors import UserError
from medkd.study.job import FAILED_FILE, RESULT_FILE, jobs_of
from medkd.study.latency import LATENCY_FILE
from medkd.study.plan import Study
from medkd.study.report import report_folder, write_study_report
from medkd.study.results import gather, write_results


@pytest.fixture
def out(tmp_path: Path, small_study: Study, small_results: dict[str, Any]) -> Path:
    """A folder in which all is done but one run that failed and one that has not run."""
    out = tmp_path / "study"
    for job in jobs_of(small_study, out):
        job.out.mkdir(parents=True)
        result = small_results["runs"][job.run.name][job.seed]
        result |= {"machine": small_results["machine"], "recipe": job.recipe()}
        for case in result["cases"]:
            case["labels"]["liver"] = case["labels"]["spleen"]
        result["history"][0]["pmd"] = 0.123
        if job.id == "pmd-0":
            error = f"cannot write {job.out}/model.pt or {small_study.data}/x or /tmp/other/y.nii: free some space."
            (job.out / FAILED_FILE).write_text(json.dumps({"error": error, "log": "somewhere"}))
        elif job.id != "pmd-1":
            (job.out / RESULT_FILE).write_text(json.dumps(result))
    (out / LATENCY_FILE).write_text(json.dumps({"b": 0.0123456789, "run_of_another_study": 1.0}))
    return out


def test_everything_finished_is_gathered(out: Path, small_study: Study) -> None:
    results = gather(out, small_study)
    assert {name: [result["seed"] for result in runs] for name, runs in results["runs"].items()} == {
        "big": [0, 1],
        "alone": [0, 1],
        "control": [0, 1],
        "b": [0, 1],
    }
    assert results["seconds"] == 800
    assert results["latency"] == {"b": 0.012346}
    assert (results["machine"]["processor"], results["other_machines"]) == ("Some CPU", [])


def test_only_what_reports_show_is_kept(out: Path, small_study: Study) -> None:
    result = gather(out, small_study)["runs"]["b"][1]
    assert result["cases"][0]["labels"].keys() == {"spleen"}
    assert result["history"][0] == {"epoch": 1, "loss": 0.9, "seconds": 50.0}
    assert result["history"][1]["val_dice"] == 0.76
    assert not {"recipe", "machine"} & result.keys()


def test_numbers_have_five_digits(out: Path, small_study: Study) -> None:
    file = out / "runs" / "b-0" / RESULT_FILE
    result = json.loads(file.read_text())
    result["cases"][0]["labels"]["spleen"] |= {"dice": 0.123456789, "volume_ml": 1234.5678}
    file.write_text(json.dumps(result))
    figures = gather(out, small_study)["runs"]["b"][0]["cases"][0]["labels"]["spleen"]
    assert (figures["dice"], figures["volume_ml"]) == (0.12346, 1234.6)


def test_failed_and_missing_runs_are_named_without_folders_of_this_machine(out: Path, small_study: Study) -> None:
    results = gather(out, small_study)
    assert results["failed"] == {"pmd-0": "cannot write runs/pmd-0/model.pt or x or y.nii: free some space."}
    assert results["missing"] == ["pmd-1"]
    assert results["study"]["data"] == "btcv"
    assert next(run for run in results["study"]["runs"] if run["name"] == "b")["method"] == "own.yaml"
    written = json.dumps(results)
    assert str(out) not in written and "/home" not in written


def test_a_run_of_another_recipe_is_not_shown(out: Path, small_study: Study) -> None:
    file = out / "runs" / "b-0" / RESULT_FILE
    result = json.loads(file.read_text())
    result["recipe"]["overrides"]["epochs"] = 99
    file.write_text(json.dumps(result))
    results = gather(out, small_study)
    assert [run["seed"] for run in results["runs"]["b"]] == [1]
    assert "another recipe" in results["failed"]["b-0"]


def test_several_machines_are_listed_once_each(out: Path, small_study: Study) -> None:
    for name in ("b-0", "b-1"):
        file = out / "runs" / name / RESULT_FILE
        result = json.loads(file.read_text())
        result["machine"]["gpu"] = "Some GPU"
        file.write_text(json.dumps(result))
    results = gather(out, small_study)
    assert results["machine"]["gpu"] is None
    assert [machine["gpu"] for machine in results["other_machines"]] == ["Some GPU"]


def test_published_figures_come_with_the_section_of_the_study(out: Path, small_study: Study) -> None:
    assert gather(out, small_study)["published"] == {}
    assert gather(out, replace(small_study, published="mtms"))["published"]["s1"]["dice"] == 0.715


def test_the_file_holds_what_is_returned_with_a_run_and_seed_on_each_line(out: Path, small_study: Study) -> None:
    results = write_results(out, small_study)
    written = (out / "hand.json").read_text()
    assert json.loads(written) == results == gather(out, small_study)
    lines = [line for line in written.splitlines() if '"seed": ' in line]
    assert len(lines) == 8 and all(line.count('"seed"') == 1 for line in lines)


def test_a_study_that_has_not_begun_gives_empty_results(tmp_path: Path, small_study: Study) -> None:
    results = gather(tmp_path, small_study)
    assert (results["runs"], results["machine"], results["seconds"]) == ({}, None, 0)
    assert len(results["missing"]) == 10


def test_a_report_is_written_from_what_is_finished(out: Path, small_study: Study) -> None:
    files = write_study_report(out, small_study)
    assert [file.name for file in files] == ["hand.json", "hand.md", "hand.html"]
    before = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in write_study_report(out, small_study)] == before
    for content in before:
        assert b"/home" not in content and str(out).encode() not in content


def test_every_study_of_a_folder_is_reported(out: Path, small_study: Study) -> None:
    for name in ("other", "hand"):
        plan = json.dumps(replace(small_study, name=name).to_dict())
        (out / f"{name}.plan.json").write_text(plan)
    written = [file.name for file in report_folder(out)]
    assert written == [f"{name}.{kind}" for name in ("hand", "other") for kind in ("json", "md", "html")]


def test_a_folder_without_a_study_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no study"):
        report_folder(tmp_path)
