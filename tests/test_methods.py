"""Methods of distillation: what is listed is what is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from medkd.bundle import STUDENT, bundle_folder
from medkd.errors import UserError
from medkd.methods import describe_method, format_methods, format_terms, method_file, method_names

# name -> weight of the segmentation, and (loss, weight, tap of both networks) of each term, from the papers.
TERMS = {
    "mtms": (0.4, {("PredictionMapLoss", 0.2, None), ("ContrastiveFeatureLoss", 0.2, "bottleneck")}),
    "emkd": (
        1.0,
        {
            ("PredictionMapLoss", 0.1, None),
            ("ImportanceMapLoss", 0.9, "encoder"),
            ("ImportanceMapLoss", 0.9, "decoder"),
            ("RegionAffinityLoss", 0.9, "encoder"),
            ("RegionAffinityLoss", 0.9, "decoder"),
        },
    ),
    "pncd": (
        1.0,
        {
            ("PredictionMapLoss", 0.1, None),
            ("ImportanceMapLoss", 0.9, "encoder"),
            ("ImportanceMapLoss", 0.9, "decoder"),
            ("RegionAffinityLoss", 0.9, "encoder"),
            ("RegionAffinityLoss", 0.9, "decoder"),
            ("ClassGuidedContrastiveLoss", 0.9, "bottleneck"),
        },
    ),
    "kd": (1.0, {("PredictionMapLoss", 0.1, None)}),
    "at": (1.0, {("AttentionTransferLoss", 1000.0, tap) for tap in ("encoder", "bottleneck", "decoder")}),
    "spkd": (1.0, {("SimilarityPreservingLoss", 3000.0, "bottleneck")}),
    "pa": (1.0, {("PairwiseAffinityLoss", 0.5, "bottleneck")}),
    "skd": (
        1.0,
        {
            ("PixelwiseSoftTargetLoss", 10.0, None),
            ("PairwiseAffinityLoss", 0.5, "bottleneck"),
            ("HolisticAdversarialLoss", 0.1, None),
        },
    ),
    "ifvd": (
        1.0,
        {
            ("IntraClassVariationLoss", 200.0, "decoder"),
            ("PixelwiseSoftTargetLoss", 10.0, None),
            ("HolisticAdversarialLoss", 0.001, None),
        },
    ),
    "mimic": (1.0, {("HintLoss", 1.0, "bottleneck")}),
    "local": (1.0, {("LocalConsistencyLoss", 0.1, None)}),
    "mix": (1.0, {("PredictionMapLoss", 1.0, None)}),
    "crd": (1.0, {("ContrastiveRepresentationLoss", 0.8, "bottleneck")}),
}


def test_every_method_of_the_papers_is_there_and_none_else() -> None:
    assert set(method_names()) == set(TERMS)
    assert method_names()[0] == "mtms"


@pytest.mark.parametrize("name", TERMS)
def test_terms_and_weights(name: str) -> None:
    description = describe_method(name)
    weight, terms = TERMS[name]
    assert description["name"] == name and description["paper"]
    assert description["segmentation_weight"] == weight
    assert {(term["loss"], term["weight"], term["teacher_tap"]) for term in description["terms"]} == terms
    assert all(term["student_tap"] == term["teacher_tap"] for term in description["terms"])
    assert len({term["name"] for term in description["terms"]}) == len(terms), "each term has a curve of its own"


@pytest.mark.parametrize("name", TERMS)
def test_every_weight_of_a_method_is_used_by_a_term(name: str) -> None:
    file = method_file(name) or bundle_folder(STUDENT) / "configs" / "distill.yaml"
    content = yaml.safe_load(file.read_text())
    used = {term["weight"].removeprefix("@weights::") for term in content["distillation"]}
    assert used | {"segmentation"} == set(content["weights"])
    assert all(term["warmup_epochs"] == "@warmup_epochs" for term in content["distillation"])


def test_what_a_term_on_mixed_slices_compares_is_told() -> None:
    assert "mixed slices" in format_methods([describe_method("mix")])


def own(folder: Path, text: str) -> Path:
    file = folder / "mine.yaml"
    file.write_text(text)
    return file


MINE = """
weights: {segmentation: 1.0, hint: 0.5}
distillation:
- _target_: medkd.handlers.DistillationHandler
  name: hint
  weight: '@weights::hint'
  student_tap: encoder
  teacher_tap: bottleneck
  loss: {_target_: medkd.losses.HintLoss, student_channels: 8, teacher_channels: 32}
"""


def test_a_mix_of_ones_own(tmp_path: Path) -> None:
    description = describe_method(own(tmp_path, MINE))
    assert description["name"] == "mine" and description["paper"] is None
    expected = {
        "name": "hint", "loss": "HintLoss", "weight": 0.5, "student_tap": "encoder", "teacher_tap": "bottleneck",
        "place": "encoder / bottleneck",
    }  # fmt: skip
    assert description["terms"] == [expected]
    assert "encoder / bottleneck" in format_methods([description])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("weights: {segmentation: 1}", "'weights' and 'distillation'"),
        ("weights: {segmentation: 1}\ndistillation: []\nepochs: 3", "sets epochs"),
        ("weights: {pmd: 1}\ndistillation: []", "add 'segmentation'"),
        ("weights: {segmentation: 1}\ndistillation: {pmd: 3}", "list"),
        ("weights: [", "no YAML"),
        ("weights: {segmentation: 1e-3}\ndistillation: []", "write a number"),
        ("weights: {segmentation: 1}\ndistillation: [hint]", "give each a '_target_'"),
        ("weights: {segmentation: 1}\ndistillation: [{_target_: a, name: b, loss: c}]", "has no loss"),
        (MINE.replace("@weights::hint", "@weights::hnit"), "no weight 'hnit'"),
        (MINE + "method: mine", "no mapping"),
        ("just text", "no method"),
    ],
)
def test_a_file_that_is_no_method(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        method_file(own(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "words"), [("emdk", "did you mean emkd"), ("zzz", "choose one of mtms"), ("none.yaml", "missing")]
)
def test_an_unknown_method(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        method_file(name)


def test_the_list_fits_a_terminal() -> None:
    listed = format_methods([describe_method(name) for name in method_names()])
    assert max(map(len, listed.splitlines())) <= 80


def test_what_each_term_did_by_name() -> None:
    row = {
        "epoch": 3, "segmentation": 0.5, "pmd": 2.0,
        "weighted": {"segmentation": 0.2, "pmd": 0.4}, "gradient": {"segmentation": 0.01, "pmd": 0.03},
    }  # fmt: skip
    lines = format_terms(row).splitlines()
    assert lines[0].split() == ["epoch", "3", "value", "weighted", "gradient", "norm"]
    assert lines[1].split() == ["segmentation", "0.5", "0.2", "0.01"]
    assert lines[2].split() == ["pmd", "2", "0.4", "0.03"]
