"""Workers that are tasks of Ray, on one machine or on many."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any, Generic

from medkd.errors import UserError, first_line
from medkd.workers.protocol import Died, Result, Task


class RayWorkers(Generic[Task, Result]):
    """Ray chooses the node of every task; all nodes must see the files that it names under the same path.

    Nothing is sent to Ray's makers, and no dashboard is started.

    Args:
        do: what is done with a task.
        address: of a cluster; nothing for the one of this machine, which is started if there is none.
        threads: of every task, the processors that Ray keeps for it; a GPU too where the cluster has some.
        size: how many tasks at a time; as many as the cluster has room for by default.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, do: Callable[[Task], Result], address: str, threads: int, size: int | None = None) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is not installed: pip install medkd[ray], or leave --ray out.") from error
        self._ray: Any = ray
        self._starts = not ray.is_initialized()
        if self._starts:
            address = address or os.environ.get("RAY_ADDRESS", "")
            try:
                _knock(address)
                ray.init(address or None, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, RuntimeError, ValueError) as error:
                reason = first_line(error)
                where = address or "this machine"
                raise UserError(f"no Ray cluster answers at {where} ({reason}): check the address.") from error
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        # A task must fit on one node.
        rooms = [int(node["Resources"].get("CPU", 0)) // threads for node in ray.nodes() if node["Alive"]]
        room = sum(rooms)
        if room == 0:
            raise UserError(f"each task takes {threads} threads and no node of Ray has as many: set fewer threads.")
        self.size = size or max(1, min(room, gpus) if gpus else room)
        # A task that dies is told to the user, who may try it again; Ray alone would hide why it died.
        self._remote = ray.remote(num_cpus=threads, num_gpus=1 if gpus else 0, max_retries=0)(_call)
        self._do = do
        self._tasks: dict[Any, Task] = {}

    def start(self, task: Task) -> None:
        """See :class:`medkd.workers.Workers`."""
        self._tasks[self._remote.remote(self._do, task)] = task

    def wait(self) -> tuple[Task, Result | Died]:
        """See :class:`medkd.workers.Workers`."""
        (reference,), _ = self._ray.wait(list(self._tasks), num_returns=1)
        task = self._tasks.pop(reference)
        try:
            return task, self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            memory = isinstance(error, self._ray.exceptions.OutOfMemoryError)
            return task, Died(f"Ray has lost it ({type(error).__name__}: {reason})", memory)

    def stop(self) -> None:
        """See :class:`medkd.workers.Workers`."""
        for reference in self._tasks:
            self._ray.cancel(reference, force=True)
        self._tasks.clear()
        if self._starts:
            self._ray.shutdown()


def _knock(address: str) -> None:
    """Try the door of a cluster: where nobody is, Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _call(do: Callable[[Any], Any], task: Any) -> Any:
    return do(task)
