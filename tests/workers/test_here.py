"""Tasks in this process."""

from __future__ import annotations

import os

from medkd.workers import Here


def test_a_task_is_done_here_while_it_is_waited_for():
    done = []
    workers = Here(lambda task: (done.append(task), os.getpid())[1])
    for task in ("a", "b"):
        workers.start(task)
        assert done == [] if task == "a" else ["a"]
        assert workers.wait() == (task, os.getpid())
    assert workers.size == 1 and done == ["a", "b"]
    workers.stop()
