from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from medkd.files import spread_json, write_json
from medkd.study.job import RESULT_FILE, jobs_of
from medkd.study.plan import Study
from medkd.study.results import gather


def test_everything_finished_is_gathered(done_folder: Path, small_study: Study) -> None:
    results = gather(done_folder, small_study)
    assert {name: [result["seed"] for result in runs] for name, runs in results["runs"].items()} == {
        "big": [0, 1],
        "alone": [0, 1],
        "control": [0, 1],
        "b": [0, 1],
    }
    assert results["seconds"] == 800
    assert (results["machine"]["processor"], results["other_machines"]) == ("Some CPU", [])


def test_only_what_reports_show_is_kept(done_folder: Path, small_study: Study) -> None:
    result = gather(done_folder, small_study)["runs"]["b"][1]
    assert result["cases"][0]["labels"].keys() == {"spleen"}
    assert result["history"][0] == {"epoch": 1, "loss": 0.9, "seconds": 50.0}
    assert result["history"][1]["val_dice"] == 0.76
    assert not {"recipe", "machine"} & result.keys()


def test_numbers_have_five_digits(done_folder: Path, small_study: Study) -> None:
    file = done_folder / "runs" / "b-0" / RESULT_FILE
    result = json.loads(file.read_text())
    result["cases"][0]["labels"]["spleen"] |= {"dice": 0.123456789, "volume_ml": 1234.5678}
    file.write_text(json.dumps(result))
    figures = gather(done_folder, small_study)["runs"]["b"][0]["cases"][0]["labels"]["spleen"]
    assert (figures["dice"], figures["volume_ml"]) == (0.12346, 1234.6)


def test_failed_and_missing_runs_are_named_without_folders_of_this_machine(
    done_folder: Path, small_study: Study
) -> None:
    results = gather(done_folder, small_study)
    assert results["failed"] == {"pmd-0": "cannot write runs/pmd-0/model.pt or x or y.nii: free some space."}
    assert results["missing"] == ["pmd-1"]
    assert results["study"]["data"] == "btcv"
    assert next(run for run in results["study"]["runs"] if run["name"] == "b")["method"] == "own.yaml"
    written = json.dumps(results)
    assert str(done_folder) not in written and "/home" not in written


def test_a_run_of_another_recipe_is_not_shown(done_folder: Path, small_study: Study) -> None:
    job = next(job for job in jobs_of(small_study, done_folder) if job.id == "b-0")
    write_json(done_folder / "runs" / "b-0.json", {**job.recipe, "overrides": {"epochs": 99}})
    results = gather(done_folder, small_study)
    assert [run["seed"] for run in results["runs"]["b"]] == [1]
    assert "another recipe" in results["failed"]["b-0"]


def test_several_machines_are_listed_once_each(done_folder: Path, small_study: Study) -> None:
    for name in ("b-0", "b-1"):
        file = done_folder / "runs" / name / RESULT_FILE
        result = json.loads(file.read_text())
        result["machine"]["gpu"] = "Some GPU"
        file.write_text(json.dumps(result))
    results = gather(done_folder, small_study)
    assert results["machine"]["gpu"] is None
    assert [machine["gpu"] for machine in results["other_machines"]] == ["Some GPU"]


def test_published_figures_come_with_the_section_of_the_study(done_folder: Path, small_study: Study) -> None:
    assert gather(done_folder, small_study)["published"] == {}
    assert gather(done_folder, replace(small_study, published="mtms"))["published"]["s1"]["dice"] == 0.715


def test_the_text_holds_the_results_with_a_run_and_seed_on_each_line(done_folder: Path, small_study: Study) -> None:
    results = gather(done_folder, small_study)
    written = spread_json(results)
    assert json.loads(written) == results
    lines = [line for line in written.splitlines() if '"seed": ' in line]
    assert len(lines) == 8 and all(line.count('"seed"') == 1 for line in lines)


def test_the_split_is_that_of_the_first_run_that_has_one(done_folder: Path, small_study: Study) -> None:
    assert gather(done_folder, small_study)["split"] is None
    split = {"unit": "volume", "teacher_train": ["a", "b", "c"], "val": ["d"], "test": ["e", "f"]}
    write_json(done_folder / "runs" / "control-1" / "splits.json", split)
    assert gather(done_folder, small_study)["split"] == {"train": 3, "student": None, "val": 1, "test": 2}
    write_json(done_folder / "runs" / "big-1" / "splits.json", {**split, "student_train_half": ["a", "c"]})
    assert gather(done_folder, small_study)["split"] == {"train": 3, "student": 2, "val": 1, "test": 2}


def test_times_are_those_of_the_networks_of_the_runs(done_folder: Path, small_study: Study) -> None:
    measured = {
        json.dumps([result["network"], 64, threads], sort_keys=True): seconds
        for result, threads, seconds in (
            (json.loads((done_folder / "runs" / "big-0" / RESULT_FILE).read_text()), 2, 9.0),
            (json.loads((done_folder / "runs" / "b-0" / RESULT_FILE).read_text()), 1, 0.0123456789),
        )
    }
    write_json(done_folder / "runs" / "latency.json", measured)
    assert gather(done_folder, small_study)["latency"] == dict.fromkeys(("alone", "control", "b"), 0.012346)


def test_a_study_that_has_not_begun_gives_empty_results(tmp_path: Path, small_study: Study) -> None:
    results = gather(tmp_path, small_study)
    assert (results["runs"], results["machine"], results["seconds"], results["split"]) == ({}, None, 0, None)
    assert len(results["missing"]) == 10
