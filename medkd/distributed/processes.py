"""The processes of one training: how many there are, which one this is, where it computes."""

from __future__ import annotations

import logging
import os

import torch
import torch.distributed as dist

from medkd.errors import UserError

# What torchrun tells each of its processes.
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def process_count() -> int:
    """How many processes train together; 1 where no group was started."""
    return dist.get_world_size() if _is_started() else 1


def process_rank() -> int:
    """The number of this process among them, from 0."""
    return dist.get_rank() if _is_started() else 0


def is_main_process() -> bool:
    """Whether this is the process that writes files and bars."""
    return process_rank() == 0


def local_device() -> torch.device:
    """The device of this process: the GPU of its number on this machine, or the CPU where there is no GPU.

    Raises:
        UserError: there are more processes than GPUs.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK", 0))
    if number >= torch.cuda.device_count():
        raise UserError(
            f"process {number + 1} of this machine finds {torch.cuda.device_count()} GPU(s): give torchrun a "
            "--nproc_per_node of no more than that."
        )
    return torch.device("cuda", number)


def start_processes(device: str | torch.device) -> None:
    """Join the other processes of ``torchrun``, with NCCL on GPUs and gloo on CPUs.

    Only the main process logs from then on, but for warnings.

    Args:
        device: of this process, see :func:`local_device`.

    Raises:
        UserError: ``torchrun`` has not started this process.
    """
    missing = [name for name in ENVIRONMENT if name not in os.environ]
    if missing:
        raise UserError(
            f"{missing[0]} is not set, so there are no other processes: start with torchrun, or leave "
            "multi_gpu_train.yaml out."
        )
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    if not is_main_process():
        logging.disable(logging.INFO)


def stop_processes() -> None:
    """Leave the group; without one nothing happens."""
    if _is_started():
        dist.destroy_process_group()
        logging.disable(logging.NOTSET)


def _is_started() -> bool:
    return dist.is_available() and dist.is_initialized()
