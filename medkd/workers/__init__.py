"""Who does tasks: this process, others of this machine, or those of a Ray cluster."""

from __future__ import annotations

from medkd.workers.here import Here
from medkd.workers.local import LocalWorkers
from medkd.workers.protocol import Died, Workers
from medkd.workers.ray import RayWorkers

__all__ = ["Died", "Here", "LocalWorkers", "RayWorkers", "Workers"]
