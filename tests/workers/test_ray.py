"""Tasks through Ray."""

from __future__ import annotations

import os
import sys

import pytest

from medkd.errors import UserError
from medkd.workers import Died, RayWorkers


def divide(number: int) -> float:
    """What the workers do; one number ends the process."""
    if number == 13:
        os._exit(3)
    return 12 / number


def test_tasks_come_back_and_one_that_dies_is_told():
    ray = pytest.importorskip("ray")
    workers = RayWorkers(divide, "", 1, 2)
    try:
        for number in (1, 13, 4):
            workers.start(number)
        ended = dict(workers.wait() for _ in range(3))
    finally:
        workers.stop()
    assert not ray.is_initialized()
    died = ended.pop(13)
    assert ended == {1: 12.0, 4: 3.0}
    assert isinstance(died, Died) and died.how.startswith("Ray has lost it (WorkerCrashedError: ") and not died.memory


def test_without_ray_the_user_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install medkd\[ray\]"):
        RayWorkers(divide, "", 1)


def test_an_address_where_nothing_answers():
    pytest.importorskip("ray")
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "):
        RayWorkers(divide, "127.0.0.1:1", 1)
