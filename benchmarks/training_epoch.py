"""Where the time of two epochs of distillation goes, on a real task folder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from medkd.bundle import STUDENT, bundle_folder
from medkd.data import DecathlonTask, Preprocessing
from medkd.engines import SavedModel
from medkd.engines.saved_model import save_tensors
from medkd.networks import create_network, network_definition
from medkd.run_folder import SPLIT_FILE, WEIGHTS_FILE

SIZE, TEACHER = 128, "multitask_unet"


def measure_epochs(data: Path) -> dict[str, Any]:
    """Run the distillation recipe for two epochs, the first with an empty teacher's cache, the second with a full one.

    The teacher is T1 at full width with random weights, since its time does not depend on them.

    Args:
        data: task folder.
    """
    with tempfile.TemporaryDirectory() as folder:
        teacher = Path(folder) / "teacher"
        _write_teacher(teacher, data)
        configs = bundle_folder(STUDENT) / "configs"
        workflow = ConfigWorkflow(
            config_file=str(configs / "distill.yaml"), meta_file=str(configs / "metadata.json"), logging_file=False,
            output_dir=str(Path(folder) / "student"), teacher_run=str(teacher), dataset_dir=str(data), epochs=2,
            cache_dir=str(Path(folder) / "cache"),
        )  # fmt: skip
        workflow.initialize()
        trainer = workflow.parser.get_parsed_content("train::trainer")
        evaluator = workflow.parser.get_parsed_content("validate::evaluator")
        clock: dict[str, float] = {}
        trainer._process_function = _timed(clock, "step", trainer._process_function)
        trainer._cached_teacher = _timed(clock, "teacher", trainer._cached_teacher)
        evaluator.run = _timed(clock, "validation", evaluator.run)
        epochs: list[dict[str, float]] = []
        start = {"epoch": 0.0, "batch": 0.0}

        def begin() -> None:
            clock.clear()
            start["epoch"] = time.perf_counter()

        def finish() -> None:
            total = time.perf_counter() - start["epoch"]
            steps = trainer.state.epoch_length
            student = clock["step"] - clock["teacher"]
            logging = total - clock["step"] - clock["data"] - clock["validation"]
            shares = {"data": clock["data"], "teacher": clock["teacher"], "student and losses": student}
            epochs.append(
                {"seconds": total, "steps": steps, **shares, "validation": clock["validation"], "logging": logging}
            )

        def fetch() -> None:
            start["batch"] = time.perf_counter()

        def fetched() -> None:
            clock["data"] = clock.get("data", 0.0) + time.perf_counter() - start["batch"]

        trainer.add_event_handler(Events.EPOCH_STARTED, begin)
        trainer.add_event_handler(Events.GET_BATCH_STARTED, fetch)
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, fetched)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, finish)
        workflow.run()
        kept = sum(file.stat().st_size for file in (Path(folder) / "cache" / "teacher").rglob("*.npy"))
    return {"data": data.name, "size": SIZE, "batch": 20, "epochs": epochs, "cache_bytes": kept}


def _timed(clock: dict[str, float], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            clock[name] = clock.get(name, 0.0) + time.perf_counter() - start

    return call


def _write_teacher(folder: Path, data: Path) -> None:
    """A run folder with a teacher that has learnt nothing."""
    torch.manual_seed(0)
    task = DecathlonTask.load(data)
    network = create_network(TEACHER)
    SavedModel(network_definition(network), Preprocessing(size=SIZE), task.labels).write_description(folder)
    save_tensors(folder / WEIGHTS_FILE, network.state_dict())
    task.split(seed=0).write(folder / SPLIT_FILE)
