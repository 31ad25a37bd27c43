"""One training in several processes, on several GPUs, CPUs or machines."""

from __future__ import annotations

from medkd.distributed.batch_norm import SharedBatchNorm, synchronize_batch_norm
from medkd.distributed.gather import GlobalBatchLoss, gather_batch, mean_over_processes
from medkd.distributed.parallel import broadcast_state, data_parallel, plain_network
from medkd.distributed.processes import (
    is_main_process,
    local_device,
    process_count,
    process_rank,
    start_processes,
    stop_processes,
)
from medkd.distributed.sampling import SharedSampler, validation_sampler

__all__ = [
    "GlobalBatchLoss",
    "SharedBatchNorm",
    "SharedSampler",
    "broadcast_state",
    "data_parallel",
    "gather_batch",
    "is_main_process",
    "local_device",
    "mean_over_processes",
    "plain_network",
    "process_count",
    "process_rank",
    "start_processes",
    "stop_processes",
    "synchronize_batch_norm",
    "validation_sampler",
]
