"""Tasks in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from medkd.workers import Died, LocalWorkers

# What the workers do here is to evaluate Python: a function of the tests is none that their processes can import.
PROCESS = "__import__('os').getpid()"
SLEEP = "__import__('time').sleep(60)"


def test_one_process_does_task_after_task():
    workers = LocalWorkers(eval, 1)
    try:
        ended = []
        for task in ("6 * 7", PROCESS, PROCESS):
            workers.start(task)
            ended.append(workers.wait())
    finally:
        workers.stop()
    assert [task for task, _ in ended] == ["6 * 7", PROCESS, PROCESS]
    assert ended[0][1] == 42 and ended[1][1] == ended[2][1] != os.getpid()


def test_several_work_at_a_time():
    workers = LocalWorkers(eval, 2)
    try:
        workers.start(SLEEP)
        workers.start("6 * 7")
        assert workers.wait() == ("6 * 7", 42)
    finally:
        workers.stop()


@pytest.mark.parametrize(
    ("task", "died"),
    [
        (f"__import__('os').kill({PROCESS}, 9)", Died("its process ended with SIGKILL", memory=True)),
        (f"__import__('os').kill({PROCESS}, 11)", Died("its process ended with SIGSEGV")),
        ("__import__('os')._exit(3)", Died("its process ended with code 3")),
    ],
)
def test_one_that_dies_is_told_and_replaced(task, died):
    workers = LocalWorkers(eval, 1)
    try:
        workers.start(task)
        assert workers.wait() == (task, died)
        workers.start("6 * 7")
        assert workers.wait() == ("6 * 7", 42)
    finally:
        workers.stop()


def test_an_idle_one_that_dies_fails_its_next_task_alone():
    workers = LocalWorkers(eval, 1)
    try:
        workers.start(PROCESS)
        _, process = workers.wait()
        os.kill(process, signal.SIGKILL)
        workers.start("6 * 7")
        assert workers.wait() == ("6 * 7", Died("its process ended with SIGKILL", memory=True))
        workers.start("6 * 7")
        assert workers.wait() == ("6 * 7", 42)
    finally:
        workers.stop()


def test_stop_ends_the_busy_and_the_idle():
    workers = LocalWorkers(eval, 2)
    workers.start(SLEEP)
    workers.start(PROCESS)
    _, idle = workers.wait()
    processes = [child.pid for child in multiprocessing.active_children()]
    assert len(processes) == 2 and idle in processes
    workers.stop()
    assert multiprocessing.active_children() == []


def test_workers_end_with_their_parent(tmp_path):
    """One that sleeps too; the parent is killed and cannot stop them."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, time\n"
        "from pathlib import Path\n"
        "from medkd.workers import LocalWorkers\n"
        "def do(task):\n"
        "    Path(task).write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    workers = LocalWorkers(do, 1)\n"
        f"    file = {str(tmp_path / 'pid')!r}\n"
        "    workers.start(file)\n"
        "    while not (os.path.exists(file) and os.path.getsize(file)):\n"
        "        time.sleep(0.01)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, program], check=False).returncode == -signal.SIGKILL
    folder = Path("/proc") / (tmp_path / "pid").read_text()
    deadline = time.monotonic() + 30
    while folder.exists() and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_package_needs_no_torch():
    check = "import sys, medkd.workers; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
