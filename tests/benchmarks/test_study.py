"""The page of the studies is what its command makes of the stored results."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_the_page_of_the_studies_is_rendered_from_the_stored_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    study = importlib.import_module("study")
    assert study.PAGE.read_text(encoding="utf-8") == study.study_page()
