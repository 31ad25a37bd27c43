from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from medkd.errors import UserError
from medkd.study.job import jobs_of
from medkd.study.plan import Study
from medkd.study.study_file import SCALES, count_runs, load_study, published_figures, ready_studies

STUDY: dict[str, Any] = {
    "title": "Two students",
    "weights": {"pmd": 0.3},
    "runs": {
        "control": {"recipe": "distill", "network": "unet_s1", "teacher": "big", "terms": []},
        "both": {"title": "B + PMD", "recipe": "distill", "network": "unet_s1", "teacher": "big",
                 "terms": ["pmd", "bottleneck"]},
        "big": {"recipe": "teacher", "network": "multitask_unet", "overrides": {"epochs": 7}},
        "again": {"of": "big", "slices": "held_out"},
    },
    "tables": [{"title": "All", "control": "control", "rows": ["big", "control", "both"]}],
    "scales": {
        "smoke": {"phantom": {"volumes": 3, "seed": 0}},
        "small": {
            "seeds": [0, 1],
            "threads": 2,
            "networks": {"multitask_unet": {"network_def::channels": [4, 8, 16, 32]}},
            "recipes": {"teacher": {"epochs": 5, "size": 32}, "distill": {"epochs": 3}},
            "weights": {"bottleneck": 0.05},
        },
    },
}  # fmt: skip


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump({**STUDY, **changes}, sort_keys=False))
    return file


def run(**spec: Any) -> dict[str, Any]:
    return {"runs": {**STUDY["runs"], "odd": spec}}


@pytest.fixture
def data(tiny_task: Path) -> Path:
    return tiny_task


def test_a_run_has_the_overrides_of_its_network_its_recipe_and_its_own_in_this_order(
    tmp_path: Path, data: Path
) -> None:
    study = load_study(write(tmp_path), "small", data)
    assert study.run("big").overrides == {
        "network_name": "multitask_unet",
        "network_def::channels": [4, 8, 16, 32],
        "size": 32,
        "epochs": 7,
    }
    assert (study.seeds, study.threads, study.data) == ((0, 1), 2, str(data))


def test_terms_that_a_run_lists_have_the_weights_of_scale_study_or_method_and_the_others_none(
    tmp_path: Path, data: Path
) -> None:
    small = load_study(write(tmp_path), "small", data)
    weights = {"weights::pmd": 0.3, "weights::encoder": 0.0, "weights::bottleneck": 0.05, "weights::decoder": 0.0}
    assert (small.run("both").overrides or {}).items() >= weights.items()
    smoke = load_study(write(tmp_path), "smoke")
    assert (smoke.run("both").overrides or {})["weights::bottleneck"] == 0.2
    control = small.run("control").overrides or {}
    assert [value for key, value in control.items() if key.startswith("weights::")] == [0.0] * 4


def test_teachers_run_before_their_students(tmp_path: Path, data: Path) -> None:
    assert [run.name for run in load_study(write(tmp_path), "small", data).runs] == ["big", "control", "both", "again"]


def test_a_run_of_one_seed_counts_once_and_so_does_what_evaluates_it(tmp_path: Path, data: Path) -> None:
    file = write(tmp_path, runs={**STUDY["runs"], "big": {**STUDY["runs"]["big"], "once": True}})
    study = load_study(file, "small", data)
    assert {run.name: study.seeds_of(run) for run in study.runs} == {
        "big": (0,), "control": (0, 1), "both": (0, 1), "again": (0,),
    }  # fmt: skip
    assert count_runs(file, "small") == len(jobs_of(study, tmp_path)) == 6


def test_only_students_that_listen_to_a_teacher_count_as_distilled(tmp_path: Path, data: Path) -> None:
    assert load_study(write(tmp_path), "small", data).tables[0].distilled == ("both",)


def test_a_scale_may_be_that_of_another_study(tmp_path: Path, data: Path) -> None:
    own = load_study(write(tmp_path, scales="mtms_tables"), "small", data)
    assert own.run("control").overrides == load_study("mtms_tables", "small", data).run("s1-control").overrides


def test_a_plan_can_be_written_and_read(tmp_path: Path, data: Path) -> None:
    study = load_study(write(tmp_path), "small", data)
    assert Study.from_dict(json.loads(json.dumps(study.to_dict()))) == study


def test_the_data_folder_may_come_from_the_environment(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, data="$SOME_DATA/" + data.name)
    monkeypatch.delenv("SOME_DATA", raising=False)
    with pytest.raises(UserError, match="SOME_DATA"):
        load_study(file, "small")
    monkeypatch.setenv("SOME_DATA", str(data.parent))
    assert load_study(file, "small").data == str(data)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ready_studies())
def test_ready_studies_expand_and_every_run_stands_in_a_table(name: str, scale: str, data: Path) -> None:
    study = load_study(name, scale, None if scale == "smoke" else data)
    in_tables = {row for table in study.tables for row in table.rows}
    assert {run.name for run in study.runs} == in_tables
    assert study.scaled and set(study.pictures) == {"teacher", "student", "distilled"}


@pytest.mark.parametrize("name", ready_studies())
def test_small_studies_have_two_seeds(name: str, data: Path) -> None:
    assert len(load_study(name, "small", data).seeds) >= 2


@pytest.mark.parametrize("name", [name for name in ready_studies() if name.endswith("_tables")])
def test_every_published_figure_belongs_to_a_run(name: str, data: Path) -> None:
    study = load_study(name, "small", data)
    published = published_figures(study.published)
    assert set(published) <= {run.name for run in study.runs}
    for table in study.tables:
        if table.published_control:
            assert table.published_control in published


def test_published_figures_agree_with_each_other() -> None:
    # Dice and IoU of one count: IoU = Dice / (2 - Dice); printed with three digits, and rounded twice.
    for name, row in published_figures("mtms").items():
        assert row["iou"] == pytest.approx(row["dice"] / (2 - row["dice"]), abs=0.002), name


def test_mtms_tables_has_all_combinations_of_scales_with_and_without_prediction_maps(data: Path) -> None:
    study = load_study("mtms_tables", "small", data)
    table = next(table for table in study.tables if table.title.startswith("KD(T1, S1), scales"))
    terms = set()
    for row in table.distilled:
        weights = study.run(row).overrides or {}
        terms.add(tuple(sorted(key for key, value in weights.items() if key.startswith("weights::") and value)))
    assert len(terms) == 2**4 - 1


def test_the_studies_of_mtms_share_their_runs(data: Path) -> None:
    tables, controls = (load_study(name, "small", data) for name in ("mtms_tables", "mtms_controls"))
    shared = {run.name for run in tables.runs} & {run.name for run in controls.runs}
    assert {"t1", "s1", "s1-control", "t1-s1-b-pmd"} <= shared
    for name in shared:
        assert tables.run(name).overrides == controls.run(name).overrides


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tabels": []}, "did you mean tables"),
        ({"runs": {}}, "no runs"),
        (run(recipe="teach", network="unet"), "recipe"),
        (run(recipe="teacher"), "network"),
        (run(recipe="teacher", network="unet", teacher="big"), "teacher"),
        (run(recipe="distill", network="unet_s1"), "teacher"),
        (run(recipe="teacher", network="unet", terms=[]), "not distilled"),
        (run(recipe="distill", network="unet_s1", teacher="bigg"), "did you mean big"),
        (run(recipe="distill", network="unet_s1", teacher="again"), "trains no model"),
        (run(recipe="distill", network="unet_s1", teacher="big", terms=["pnd"]), "no term 'pnd'"),
        (run(recipe="distill", network="unet_s1", teacher="big", method="emdk"), "did you mean emkd"),
        (run(recipe="distill", network="unet_s1", teacher="big", method="nowhere.yaml"), "missing"),
        (run(recipe="teacher", network="unet", overrides={"epoch": 3}), "did you mean epochs"),
        (run(of="big", network="unet"), "remove it"),
        (run(of="big", once=True), "remove it"),
        (run(recipe="teacher", network="unet", once="yes"), "true or false"),
        (
            {**run(recipe="teacher", network="unet", once=True),
             "tables": [{"title": "x", "control": "odd", "rows": ["odd", "big"]}]},
            "gains need every seed",
        ),
        (run(of="big", slices="every_other"), "held_out"),
        ({"runs": {"a b": {"recipe": "teacher", "network": "unet"}}}, "letters"),
        (
            {"runs": {"a": {"recipe": "distill", "network": "unet_s1", "teacher": "b"},
                      "b": {"recipe": "distill", "network": "unet_s1", "teacher": "a"}}},
            "need each other",
        ),
        (
            {"runs": {"a": {"recipe": "alone", "network": "unet_s1", "start": "b"},
                      "b": {"recipe": "alone", "network": "unet_s1", "start": "a"}}},
            "need each other",
        ),
        (run(recipe="alone", network="unet_s1", start="bgi"), "did you mean big"),
        ({"tables": [{"title": "x", "rows": []}]}, "without control"),
        ({"tables": [{"title": "x", "control": "big", "rows": ["bgi"]}]}, "did you mean big"),
        ({"pictures": {"teacher": "bog"}}, "did you mean big"),
        ({"scales": {"small": {"seeds": [0, 0]}}}, "different numbers"),
        ({"scales": {"small": {"seeds": ["a"]}}}, "whole numbers"),
        ({"scales": {"small": {"epochs": 3}}}, "no key 'epochs'"),
        ({"scales": {"small": {"recipes": {"students": {}}}}}, "no key 'students'"),
        ({"scales": {"small": {"recipes": {"teacher": [1]}}}}, "give a mapping"),
        ({"scales": {"small": {"threads": "two"}}}, "give a whole number"),
        ({"scales": {"small": {"threads": 0}}}, "1 or more"),
        ({"scales": {"small": {"scaled": "less"}}}, "give a list"),
        ({"scales": {"small": {"networks": {"unet_s9": {}}}}}, "did you mean unet_s"),
        ({"scales": {"small": {"weights": {"pdm": 1.0}}}}, "did you mean pmd"),
        ({"scales": {"small": {"weights": {"pmd": "much"}}}}, "give a number"),
        (run(recipe="teacher", network="unett"), "did you mean unet"),
        (run(recipe="teacher", network="unet", overrides=[1]), "give a mapping"),
        (run(recipe="distill", network="unet_s1", teacher="big", terms=None), "give a list"),
        ({"runs": ["a"]}, "give a mapping"),
        ({"published": "mtmss"}, "no figures"),
        ({"tables": [{"title": "x", "control": "big", "rows": []}]}, "no row"),
        ({"tables": [{"title": "x", "control": "big", "rows": ["big", "big"]}]}, "one twice"),
        ({"tables": [{"title": "x", "control": "big", "rows": ["big"], "published_control": "s1"}]}, "no published"),
        ({"pictures": {"studnt": "big"}}, "did you mean student"),
        ({"split_file": "nowhere.json"}, "nowhere.json is missing"),
        ({"scales": {"tiny": {}}}, "no scale 'small'"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_study_file_is_said(changes: dict[str, Any], words: str, tmp_path: Path, data: Path) -> None:
    with pytest.raises(UserError, match=words):
        load_study(write(tmp_path, **changes), "small", data)


def test_phantoms_take_only_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean volumes"):
        load_study(write(tmp_path, scales={"smoke": {"phantom": {"volume": 3}}}), "smoke")


def test_weights_of_the_study_hold_for_all_terms_where_a_run_lists_none(tmp_path: Path, data: Path) -> None:
    own = {"recipe": "distill", "network": "unet_s1", "teacher": "big", "method": "emkd"}
    study = load_study(write(tmp_path, **run(**own)), "small", data)
    weights = {key: value for key, value in (study.run("odd").overrides or {}).items() if key.startswith("weights::")}
    assert weights == {"weights::pmd": 0.3}


@pytest.mark.parametrize(
    ("changes", "distilled"),
    [
        ({"overrides": {"weights::pmd": 0.0}}, True),  # Two other terms are left.
        ({"overrides": {"weights::pmd": 0.0, "weights::importance": 0.0, "weights::region": 0.0}}, False),
        ({"terms": [], "overrides": {"weights::segmentation": 1.0}}, False),
        ({"terms": [], "overrides": {"unlabelled": True}}, True),  # Its labels are the teacher's.
        ({"terms": [], "overrides": {"unlabelled": False}}, False),
        ({"terms": ["region"]}, True),
        ({}, True),
    ],
)
def test_a_run_is_distilled_if_a_term_of_its_teacher_counts(
    changes: dict[str, Any], distilled: bool, tmp_path: Path, data: Path
) -> None:
    own = {"recipe": "distill", "network": "unet_s1", "teacher": "big", "method": "emkd", **changes}
    table = {"title": "One", "control": "control", "rows": ["odd"]}
    study = load_study(write(tmp_path, **run(**own), tables=[table]), "small", data)
    assert study.tables[0].distilled == (("odd",) if distilled else ())
    again = {"runs": {**run(**own)["runs"], "again": {"of": "odd"}}, "tables": [{**table, "rows": ["again"]}]}
    assert load_study(write(tmp_path, **again), "small", data).tables[0].distilled == (("again",) if distilled else ())


def test_files_that_a_study_names_lie_beside_it(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "split.json").write_text("{}")
    (tmp_path / "mine" / "other.yaml").write_text(yaml.safe_dump({"scales": STUDY["scales"]}))
    (tmp_path / "Task").symlink_to(data)
    file = write(tmp_path / "mine", data="../Task", split_file="split.json", scales="other.yaml")
    study = load_study(file, "small")
    assert study.data == str(data) and study.seeds == (0, 1)
    assert (study.run("big").overrides or {})["split_file"] == str(tmp_path / "mine" / "split.json")


@pytest.mark.parametrize(
    ("section", "name", "dice"),
    [
        ("mtms", "t1", 0.974),
        ("mtms", "t2-s1-e-pmd", 0.767),
        ("mtms", "t1-s2-b-pmd", 0.794),
        ("mtms", "mse-be-pmd", 0.705),
        ("mtms", "full-bed-pmd", 0.764),
        ("emkd", "emkd-raunet-enet", 0.676),
        ("emkd", "emkd-unetplusplus-enet", 0.648),
        ("emkd", "emkd-spkd", 0.602),
        ("emkd", "emkd-part-importance-region", 0.670),
        ("pncd", "pncd-dcsaunet-enet", 0.8566),
        ("pncd", "pncd-resnet18-control", 0.7783),
        ("pncd", "pncd-part-class_guided", 0.8369),
    ],
)
def test_published_figures_are_those_of_the_papers(section: str, name: str, dice: float) -> None:
    assert published_figures(section)[name]["dice"] == dice


def test_studies_share_no_names_of_different_runs(data: Path) -> None:
    runs: dict[str, Any] = {}
    for study in ready_studies():
        for own in load_study(study, "small", data).runs:
            other = runs.setdefault(own.name, own)
            assert (own.bundle, own.config, own.overrides, own.method) == (
                other.bundle, other.config, other.overrides, other.method
            ), own.name  # fmt: skip


def test_unknown_studies_and_missing_files_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean mtms_tables"):
        load_study("mtms_table", "smoke")
    with pytest.raises(UserError, match="missing"):
        load_study(tmp_path / "none.yaml", "smoke")
    with pytest.raises(UserError, match="no task folder"):
        load_study("mtms_tables", "small", tmp_path)
    (tmp_path / "odd.yaml").write_text("a: [")
    with pytest.raises(UserError, match="no YAML"):
        load_study(tmp_path / "odd.yaml", "smoke")
