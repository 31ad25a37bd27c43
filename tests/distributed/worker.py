"""One of the two processes of :mod:`conftest`: joins their group and runs functions of test files on request."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import traceback
from datetime import timedelta
from types import ModuleType

import torch
import torch.distributed as dist


def load(file: str, modules: dict[str, ModuleType]) -> ModuleType:
    if file not in modules:
        spec = importlib.util.spec_from_file_location(f"body_{len(modules)}", file)
        assert spec is not None and spec.loader is not None
        modules[file] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[file])
    return modules[file]


def main(rank: int, count: int, group_file: str) -> None:
    # Answers have a pipe of their own: what a library prints goes to the errors.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{group_file}", rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    modules: dict[str, ModuleType] = {}
    while True:
        try:
            file, name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = (getattr(load(file, modules), name)(*arguments), None)
        except Exception:
            answer = (None, traceback.format_exc())
        pickle.dump(answer, answers)
        answers.flush()
        if answer[1] is not None:
            # The other process may wait for this one: leaving ends its wait.
            os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
