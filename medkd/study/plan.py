"""What a study is: runs, tables, seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Run:
    """One model of a study, trained with each seed.

    Attributes:
        name: letters, digits and dashes.
        title: for people.
        bundle: whose config trains it; empty where ``of`` is set.
        config: of the bundle.
        overrides: of the config, without folders and seed.
        method: of distillation.
        teacher: name of the run that teaches.
        of: name of the run whose model is evaluated, where this one trains none.
        slices: ``held_out`` evaluates on those slices alone (:func:`medkd.data.held_out_slices`).
        once: trained with the first seed alone; runs of every seed that need it share it.
        start: name of the run whose weights it starts from.
        dataset: file in the task folder to use instead of ``dataset.json``, of the same cases with other labels.
    """

    name: str
    title: str
    bundle: str = ""
    config: str = ""
    overrides: Mapping[str, Any] | None = None
    method: str | None = None
    teacher: str | None = None
    of: str | None = None
    slices: str | None = None
    once: bool = False
    start: str | None = None
    dataset: str | None = None


@dataclass(frozen=True)
class Table:
    """One table of the report.

    Attributes:
        title: what it compares.
        source: where it is published.
        note: a sentence for readers.
        control: run that the others are compared with.
        published_control: run whose published figure the published gains are counted from; empty for none.
        rows: names of runs.
        distilled: those of them that were distilled.
    """

    title: str
    source: str
    note: str
    control: str
    published_control: str
    rows: tuple[str, ...]
    distilled: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """A study at one scale; see the files in ``medkd/study/studies`` for how one is written."""

    name: str
    title: str
    about: str
    scale: str
    scaled: tuple[str, ...]
    data: str | None
    phantom: Mapping[str, Any] | None
    label: str
    seeds: tuple[int, ...]
    threads: int
    published: str
    pictures: Mapping[str, str]
    runs: tuple[Run, ...]
    tables: tuple[Table, ...]
    recipes: Mapping[str, Any]

    def run(self, name: str) -> Run:
        """The run of this name."""
        return next(run for run in self.runs if run.name == name)

    def seeds_of(self, run: Run) -> tuple[int, ...]:
        """The seeds that a run is trained with, or the one whose model it evaluates."""
        trained = run if run.of is None else self.run(run.of)
        return self.seeds[:1] if trained.once else self.seeds

    def to_dict(self) -> dict[str, Any]:
        """The study as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Study:
        """The study that :meth:`to_dict` wrote."""
        values: dict[str, Any] = {key: _tuple(value) for key, value in content.items()}
        values["runs"] = tuple(Run(**run) for run in content["runs"])
        tables: list[dict[str, Any]] = [
            {key: _tuple(value) for key, value in table.items()} for table in content["tables"]
        ]
        values["tables"] = tuple(Table(**table) for table in tables)
        return cls(**{field.name: values[field.name] for field in fields(cls)})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
