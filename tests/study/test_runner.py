"""Running studies: in what order, what a failure holds up, and what is left when a study is killed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from medkd.cli import main
from medkd.engines.saved_model import load_tensors
from medkd.errors import UserError
from medkd.lock import lock
from medkd.study import runner
from medkd.study.job import Job, claim, jobs_of
from medkd.study.lock import only_study_in
from medkd.study.outcome import Failure, Outcome
from medkd.study.plan import Study
from medkd.study.progress import Progress, duration, format_outcome
from medkd.study.runner import run_study
from medkd.study.study_file import load_study
from medkd.study.workers import Task, do_job
from medkd.workers import LocalWorkers

TEACHER = {"recipe": "teacher", "network": "multitask_unet"}
ALONE = {"recipe": "alone", "network": "unet_s1"}
CONTROL = {"recipe": "distill", "network": "unet_s1", "teacher": "t", "terms": []}
DISTILLED = CONTROL | {"terms": ["bottleneck", "pmd"]}
# Students stand before their teachers on purpose.
RUNS = {"alone": ALONE, "control": CONTROL, "both": DISTILLED, "t": TEACHER, "t-again": {"of": "t"}}
SCALE = {
    "networks": {
        "multitask_unet": {"network_def::channels": [4, 8, 16]},
        "unet_s1": {"network_def::channels": [4, 8]},
    },
    "recipes": {
        "teacher": {"size": 32, "epochs": 2, "batch_size": 2},
        "alone": {"size": 32, "epochs": 2, "batch_size": 2},
        "distill": {"epochs": 2, "batch_size": 2, "learning_rate": 0.001},
    },
}


def write_study(folder: Path, runs: dict[str, Any] = RUNS, **scale: Any) -> Path:
    """A study file; its runs take a second each on a tiny task."""
    content = {"label": "block", "runs": runs, "scales": {"small": {**SCALE, **scale}}}
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


@pytest.fixture
def study(tmp_path: Path, tiny_task: Path) -> Study:
    return load_study(write_study(tmp_path, seeds=[0, 1]), "small", tiny_task)


class PretendedWorkers:
    """Do nothing, but leave figures; the job that began first ends first.

    Args:
        size: how many at a time.
        failing: ids of jobs that fail.
    """

    def __init__(self, size: int = 1, failing: tuple[str, ...] = ()) -> None:
        self.size = size
        self.failing = failing
        self.events: list[str] = []
        self.under_way: list[Task] = []

    def start(self, task: Task) -> None:
        job, log = task
        log.parent.mkdir(exist_ok=True)
        log.write_text("what was printed")
        self.under_way.append(task)
        assert len(self.under_way) <= self.size
        self.events.append(f"+{job.id}")

    def wait(self) -> tuple[Task, str | None]:
        task = self.under_way.pop(0)
        job, _ = task
        self.events.append(f"-{job.id}")
        if job.id in self.failing:
            return task, f"{job.id} does not work."
        job.out.mkdir(parents=True, exist_ok=True)
        claim(job)
        (job.out / "failed.json").unlink(missing_ok=True)
        (job.out / "result.json").write_text(json.dumps(figures(job)))
        return task, None

    def stop(self) -> None:
        self.events.append("stop")


def figures(job: Job, seconds: float = 60.0) -> dict[str, Any]:
    cases = [{"labels": {label: {"dice": dice} for label in ("block", "spleen")}} for dice in (0.5, 0.75)]
    network = {"name": job.run.overrides["network_name"] if job.run.overrides else "multitask_unet"}
    return {"network": network, "size": 32, "seconds": seconds, "cases": cases}


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Callable[..., PretendedWorkers]:
    """Replace the processes of the next study, and measure nothing."""
    monkeypatch.setattr(runner, "measure_latencies", lambda *_: None)

    def replace(**arguments: Any) -> PretendedWorkers:
        workers = PretendedWorkers(**arguments)
        monkeypatch.setattr(runner, "LocalWorkers", lambda do, size: workers)
        return workers

    return replace


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # In the order of the study, in which the teacher has moved before its first student.
        (1, "+alone-0 -alone-0 +alone-1 -alone-1 +t-0 -t-0 +t-1 -t-1 +control-0 -control-0 +control-1 -control-1 "
            "+both-0 -both-0 +both-1 -both-1 +t-again-0 -t-again-0 +t-again-1 -t-again-1 stop"),
        # Two work while nobody is ready for the third: all that is left needs the one teacher or the other.
        (3, "+alone-0 +alone-1 +t-0 -alone-0 +t-1 -alone-1 -t-0 +control-0 +both-0 -t-1 +control-1 -control-0 +both-1 "
            "-both-0 +t-again-0 -control-1 +t-again-1 -both-1 -t-again-0 -t-again-1 stop"),
    ],
)  # fmt: skip
def test_runs_come_in_order_and_students_when_their_teacher_is_done(size, expected, study, pretend, tmp_path):
    workers = pretend(size=size)
    outcome = run_study(study, tmp_path / "out", size)
    assert workers.events == expected.split()
    assert outcome.is_complete and set(outcome.results) == {job.id for job in jobs_of(study, tmp_path / "out")}


def test_a_failure_holds_up_those_that_need_it_until_it_is_tried_again(study, pretend, tmp_path):
    out = tmp_path / "out"
    pretend(failing=("t-0", "alone-1"))
    outcome = run_study(study, out, 1)
    assert set(outcome.results) == {"alone-0", "t-1", "control-1", "both-1", "t-again-1"}
    log = out / "logs" / "t-0.log"
    assert outcome.failed["t-0"] == Failure("t-0 does not work.", log) and set(outcome.failed) == {"t-0", "alone-1"}
    assert outcome.waiting == {"control-0": "t-0", "both-0": "t-0", "t-again-0": "t-0"}
    failed = out / "runs" / "t-0" / "failed.json"
    assert json.loads(failed.read_text()) == {"error": "t-0 does not work.", "log": str(log)}

    workers = pretend()
    again = run_study(study, out, 1)
    assert workers.events == [] and again == outcome

    assert run_study(study, out, 1, retry=True).is_complete
    assert workers.events[:4] == ["+alone-1", "-alone-1", "+t-0", "-t-0"]
    assert len(workers.events) == 2 * 5 + 1


def test_figures_of_another_recipe_are_told_and_kept(study, pretend, tmp_path, tiny_task):
    out = tmp_path / "out"
    pretend()
    run_study(study, out, 1)
    before = (out / "runs" / "alone-0" / "result.json").read_bytes()
    changed = RUNS | {"alone": ALONE | {"overrides": {"epochs": 3}}}
    workers = pretend()
    outcome = run_study(load_study(write_study(tmp_path, changed, seeds=[0]), "small", tiny_task), out, 1)
    assert workers.events == []
    assert set(outcome.failed) == {"alone-0"} and "another recipe" in outcome.failed["alone-0"].sentence
    assert (out / "runs" / "alone-0" / "result.json").read_bytes() == before


def test_a_new_teacher_makes_its_students_new(study, pretend, tmp_path, tiny_task):
    out = tmp_path / "out"
    pretend()
    run_study(study, out, 1)
    changed = RUNS | {"t": TEACHER | {"overrides": {"learning_rate": 0.01}}}
    outcome = run_study(load_study(write_study(tmp_path, changed, seeds=[0, 1]), "small", tiny_task), out, 1)
    assert set(outcome.results) == {"alone-0", "alone-1"}
    assert all("another teacher" in failure.sentence for failure in outcome.failed.values())


def test_damaged_figures_fail_their_run_alone(study, pretend, tmp_path):
    out = tmp_path / "out"
    pretend()
    run_study(study, out, 1)
    (out / "runs" / "both-1" / "result.json").write_text('{"cases": [')
    outcome = run_study(study, out, 1)
    assert set(outcome.failed) == {"both-1"} and not outcome.failed["both-1"].retriable
    assert "damaged" in outcome.failed["both-1"].sentence


def test_a_folder_keeps_to_the_scale_of_a_study(study, pretend, tmp_path):
    out = tmp_path / "out"
    pretend()
    run_study(study, out, 1)
    before = (out / "mine.plan.json").read_bytes()
    with pytest.raises(UserError, match="holds mine at the scale small"):
        run_study(replace(study, scale="full"), out, 1)
    with pytest.raises(UserError, match="set 'label'"):
        run_study(replace(study, label="liver"), out, 1)
    assert (out / "mine.plan.json").read_bytes() == before


def test_two_studies_do_not_run_in_one_folder(study, pretend, tmp_path):
    workers = pretend()
    with only_study_in(tmp_path / "out"), pytest.raises(UserError, match="a study is running in"):
        run_study(study, tmp_path / "out", 1)
    assert workers.events == []
    assert run_study(study, tmp_path / "out", 1).is_complete


@pytest.mark.parametrize(
    ("change", "processes", "sentence"),
    [
        ({}, 0, "--jobs is 0"),
        ({"label": "spleen"}, 1, "has background, block: set 'label'"),
        ({"data": None, "phantom": {"volumes": 3, "seed": 1}}, 1, "other volumes"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(change, processes, sentence, study, pretend, tmp_path):
    workers = pretend()
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "out" / "data" / "dataset.json").touch()
    with pytest.raises(UserError, match=sentence):
        run_study(Study(**{**vars(study), **change}), tmp_path / "out", processes)
    assert workers.events == []


def test_synthetic_volumes_are_made_once(study, pretend, tmp_path):
    phantom = {"volumes": 3, "seed": 1, "shape": [16, 16, 16], "progress": False}
    synthetic = Study(**{**vars(study), "data": None, "label": "spleen", "phantom": phantom})
    times = []
    for _ in range(2):
        pretend()
        assert run_study(synthetic, tmp_path / "out", 1).is_complete
        times.append([file.stat().st_mtime_ns for file in sorted((tmp_path / "out" / "data").rglob("*.nii.gz"))])
    assert len(times[0]) == 6 and times[0] == times[1]


def test_every_run_is_told_in_a_line_of_80_columns(study, tmp_path, capsys):
    jobs = jobs_of(study, tmp_path)
    by_id = {job.id: job for job in jobs}
    progress, outcome = Progress(study, jobs, 2), Outcome()

    def done(name: str, seconds: float) -> None:
        outcome.results[name] = figures(by_id[name], seconds)
        progress.ended(by_id[name], outcome)

    progress.begin(outcome)
    done("t-0", 100.0)
    done("control-0", 1000.0)
    done("alone-0", 40.0)
    outcome.failed["t-1"] = Failure("It does not work, and what it says of that takes more than a line.", tmp_path)
    outcome.note_waiting(jobs)
    progress.ended(by_id["t-1"], outcome)
    done("t-again-0", 0.0)
    assert capsys.readouterr().out.splitlines() == [
        "mine: 0 of 10 runs done, 10 left, time unknown, 2 at a time",
        # Of 7 trainings that are left, only t-1 is of a kind that has run.
        "[ 1/10] t-0        Dice 0.625   1 min 40 s   9 left, time unknown",
        # both-0, both-1, control-1: 1000 s each; t-1: 100 s; alone-0, alone-1: 550 s, the mean of all.
        "[ 2/10] control-0  Dice 0.625  16 min 40 s   8 left, about 35 min 0 s",
        "[ 3/10] alone-0    Dice 0.625         40 s   7 left, about 26 min 10 s",
        "[ 4/10] t-1 failed: It does not work, and what it says of that takes more ...",
        # both-0 and alone-1.
        "[ 5/10] t-again-0  Dice 0.625          0 s   2 left, about 8 min 40 s",
    ]


def test_a_line_of_a_long_name_has_80_columns_and_tells_the_seed(tmp_path, tiny_task, capsys):
    runs = {"a-name-that-says-all-of-a-run-and-much-more": TEACHER}
    study = load_study(write_study(tmp_path, runs, seeds=list(range(500))), "small", tiny_task)
    jobs = jobs_of(study, tmp_path)
    Progress(study, jobs, 1).ended(jobs[123], Outcome({jobs[123].id: figures(jobs[123], 719)}))
    assert (
        capsys.readouterr().out == "[  1/500] a-name-~ore-123  Dice 0.625  11 min 59 s  499 left, about 99 h 40 min\n"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 0 min"),
     (359_940, "99 h 59 min")],
)  # fmt: skip
def test_durations_are_short(seconds, words):
    assert duration(seconds) == words


def test_what_failed_is_listed_with_its_log(tmp_path):
    log = tmp_path / "t-0.log"
    log.touch()
    words = format_outcome(Outcome({}, {"t-0": Failure("why. " * 20, log)}, {"s-0": "t-0"}))
    assert words.splitlines() == [
        "1 failed:",
        f"  t-0: {'why. ' * 13}why.",
        "    why. why. why. why. why. why.",
        f"    {log}",
        "1 waiting for them:",
        "  s-0 for t-0",
        "--retry tries them again.",
    ]


def figures_of(out: Path) -> dict[str, Any]:
    """All figures and weights of a folder, without what differs from one time to the next."""
    figures = {}
    for file in sorted(out.glob("runs/*/result.json")):
        result = json.loads(file.read_text())
        for key in ("seconds", "machine"):
            del result[key]
        for row in result["history"]:
            del row["seconds"]
        figures[file.parent.name] = result
        if (file.parent / "model.pt").is_file():
            figures[f"{file.parent.name} weights"] = {
                name: tensor.numpy().tobytes() for name, tensor in load_tensors(file.parent / "model.pt").items()
            }
    return figures


def children(pid: int) -> set[int]:
    """Processes that a process has started, and they."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def wait_until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def open_files(pid: int | None) -> set[Path]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(link.readlink())
    return found


class StartedStudy:
    """``medkd study run`` in a process of its own."""

    def __init__(self, file: Path, data: Path, out: Path, *more: str) -> None:
        words = ["study", "run", str(file), "--data", str(data), "--out", str(out), *more]
        # As at a terminal, whether or not what runs the tests ignores interrupts, which its children would inherit.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "medkd", *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
        finally:
            signal.signal(signal.SIGINT, before)

    def end(self, number: int, *, everyone: bool = False) -> tuple[int, str]:
        """Send a signal to the study, or as a terminal does to all its processes; see that none of them is left."""
        workers = children(self.process.pid)
        assert workers
        (os.killpg if everyone else os.kill)(self.process.pid, number)
        _, errors = self.process.communicate(timeout=240)
        wait_until(lambda: not any(map(is_running, workers)), "workers outlive their study")
        return self.process.returncode, errors


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")


@needs_proc
def test_a_study_that_is_killed_twice_ends_with_the_same_figures(tmp_path, tiny_task):
    recipes = {name: recipe | {"epochs": 6, "batch_size": 4} for name, recipe in SCALE["recipes"].items()}
    runs = RUNS | {"u": TEACHER | {"overrides": {"learning_rate": 0.01}}}
    file = write_study(tmp_path, runs, recipes=recipes)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_study(load_study(file, "small", tiny_task), whole, 1).is_complete

    def finished() -> dict[Path, int]:
        return {result: result.stat().st_mtime_ns for result in killed.glob("runs/*/result.json")}

    def in_training(epochs: int) -> list[Path]:
        """Runs that are not done and have had no more epochs than so many."""
        histories = [path for path in killed.glob("runs/*/history.json") if not path.with_name("result.json").exists()]
        return [path for path in histories if len(json.loads(path.read_text())) <= epochs]

    done: dict[Path, int] = {}
    for count, jobs in ((0, 1), (2, 2)):
        study = StartedStudy(file, tiny_task, killed, "--jobs", str(jobs))
        wait_until(lambda: len(finished()) >= count and in_training(3), "no run is being trained")  # noqa: B023
        assert study.end(signal.SIGKILL)[0] == -signal.SIGKILL
        assert in_training(5) and done.items() <= finished().items()
        done = finished()
    assert 2 <= len(done) < 6
    assert main(["study", "run", str(file), "--data", str(tiny_task), "--out", str(killed), "--jobs", "1"]) == 0
    assert done.items() <= finished().items() and len(finished()) == 6
    assert figures_of(killed) == figures_of(whole)


@needs_proc
def test_a_job_waits_for_a_worker_that_has_outlived_its_study(study, pretend, tmp_path):
    """What that one holds is the lock of the log; the job is done then, so that no training follows here."""
    pretend()
    assert run_study(study, tmp_path, 1).is_complete
    job, log = jobs_of(study, tmp_path)[0], tmp_path / "own.log"
    workers = LocalWorkers(do_job, 1)
    try:
        with log.open("a") as stream:
            lock(stream, wait=True)
            workers.start((job, log))
            (process,) = multiprocessing.active_children()
            wait_until(lambda: log in open_files(process.pid), "nobody opens the log")
            time.sleep(0.2)
            assert log.read_text() == ""
        assert workers.wait() == ((job, log), None)
    finally:
        workers.stop()
    assert job.id in log.read_text()


def test_a_log_that_cannot_be_written_fails_its_job_and_not_the_worker(study, tmp_path):
    (tmp_path / "file").touch()
    sentence = do_job((jobs_of(study, tmp_path)[0], tmp_path / "file" / "t-0.log"))
    assert sentence is not None and "t-0.log cannot be written" in sentence


@needs_proc
def test_an_interrupt_leaves_one_sentence_and_no_process(tmp_path, tiny_task):
    study = StartedStudy(write_study(tmp_path), tiny_task, tmp_path / "out", "--jobs", "2")
    wait_until(lambda: (tmp_path / "out" / "logs" / "t-0.log").exists(), "no run is being trained")
    code, errors = study.end(signal.SIGINT, everyone=True)
    assert (code, errors) == (130, "medkd: interrupted: give the same command again to go on.\n")


def test_what_fails_or_dies_is_told_and_the_rest_goes_on(tmp_path, tiny_task, capfd, monkeypatch):
    """A run that fails until a file is there, one whose process is killed, and others, in one process at a time."""
    there = tmp_path / "there"
    epochs = f"$__import__('os').system('echo hello') + (1 if __import__('os').path.exists('{there}') else 1 / 0)"
    runs = {
        "t": TEACHER | {"overrides": {"epochs": epochs}},
        "control": CONTROL,
        "dies": ALONE,
        "alone": ALONE,
    }
    file = write_study(tmp_path, runs)
    words = ["study", "run", str(file), "--data", str(tiny_task), "--out", str(tmp_path / "out"), "--jobs", "1"]
    logs = tmp_path / "out" / "logs"

    class KillingWorkers(LocalWorkers):
        def start(self, task: Task) -> None:
            super().start(task)
            if task[0].id == "dies-0":
                multiprocessing.active_children()[0].kill()

    with monkeypatch.context() as patch:
        patch.setattr(runner, "LocalWorkers", KillingWorkers)
        assert main(words) == 1
    printed, errors = capfd.readouterr()
    assert "hello" not in printed + errors and "Traceback" not in printed + errors
    assert "2 failed:" in errors and str(logs / "t-0.log") in errors and "control-0 for t-0" in errors
    assert "dies-0: its process ended with SIGKILL" in errors
    log = (logs / "t-0.log").read_text()
    assert "hello\n" in log and "ZeroDivisionError" in log
    assert [path.parent.name for path in (tmp_path / "out").glob("runs/*/result.json")] == ["alone-0"]

    there.touch()
    # As a process leaves it that is killed while it writes the recipe.
    (tmp_path / "out" / "runs" / "t-0" / ".writing-123-recipe.json").touch()
    assert main([*words, "--retry"]) == 0
    assert len(figures_of(tmp_path / "out")) == 2 * 4
    assert not [*(tmp_path / "out").glob("runs/*/failed.json"), *(tmp_path / "out").glob("runs/*/.writing-*")]
