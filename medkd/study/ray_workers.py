"""Jobs of a study as tasks of Ray, on one machine or on many."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path
from typing import Any

from medkd.errors import UserError
from medkd.study.job import Job
from medkd.study.workers import do_job


class RayWorkers:
    """Ray chooses the node of every job; all nodes must see the study's folder and its data under the same path.

    Nothing is sent to Ray's makers, and no dashboard is started.

    Args:
        address: of a cluster; nothing for the one of this machine, which is started if there is none.
        threads: of every job, the processors that Ray keeps for it; a GPU too where the cluster has some.
        size: how many jobs at a time; as many as the cluster has room for by default.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, address: str, threads: int, size: int | None = None) -> None:
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
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
                where = address or "this machine"
                raise UserError(f"no Ray cluster answers at {where} ({reason}): check the address.") from error
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        # A task must fit on one node.
        rooms = [int(node["Resources"].get("CPU", 0)) // threads for node in ray.nodes() if node["Alive"]]
        room = sum(rooms)
        if room == 0:
            raise UserError(f"a run takes {threads} threads and no node of Ray has as many: set 'threads' lower.")
        self.size = size or max(1, min(room, gpus) if gpus else room)
        # A job that dies is told to the user, who may try it again; Ray alone would hide why it died.
        self._task = ray.remote(num_cpus=threads, num_gpus=1 if gpus else 0, max_retries=0)(do_job_on_node)
        self._jobs: dict[Any, Job] = {}

    def start(self, job: Job, log: Path) -> None:
        """See :class:`medkd.study.workers.Workers`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        self._jobs[self._task.remote(job, log)] = job

    def wait(self) -> tuple[Job, str | None]:
        """See :class:`medkd.study.workers.Workers`."""
        (task,), _ = self._ray.wait(list(self._jobs), num_returns=1)
        job = self._jobs.pop(task)
        try:
            return job, self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            return job, f"Ray has lost it ({type(error).__name__}: {reason})."

    def stop(self) -> None:
        """See :class:`medkd.study.workers.Workers`."""
        for task in self._jobs:
            self._ray.cancel(task, force=True)
        self._jobs.clear()
        if self._starts:
            self._ray.shutdown()


def _knock(address: str) -> None:
    """Try the door of a cluster: where nobody is, Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def do_job_on_node(job: Job, log: Path) -> str | None:
    """Do a job on a node of a cluster if that sees the log, which the study has made: see :func:`do_job`."""
    if not log.is_file():
        return (
            f"{socket.gethostname()} does not see {log}: choose an --out on a file system that all nodes of the "
            "cluster share."
        )
    return do_job(job, log)
