"""Every kind of loss for ten steps: two processes against one with the same batches.

In float64, so that what is left of a difference is no rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from ignite.engine import Events
from torch import nn

from medkd.distributed import GlobalBatchLoss, data_parallel, process_count, process_rank
from medkd.engines import DistillationTrainer, prepare_network
from medkd.handlers import DistillationHandler, MixedSlicesHandler
from medkd.losses import (
    ClassGuidedContrastiveLoss,
    ContrastiveFeatureLoss,
    ContrastiveRepresentationLoss,
    DiceBCELoss,
    HintLoss,
    HolisticAdversarialLoss,
    ImportanceMapLoss,
    PredictionMapLoss,
    RedrawnProjectorsLoss,
    SimilarityPreservingLoss,
)
from medkd.networks import MultiTaskUNet, UNet

STEPS, EPOCHS = 5, 2


class Case(NamedTuple):
    """A loss; on the bottlenecks, unless it compares logits, of the slices as they are or mixed."""

    build: Callable[[], nn.Module]
    on_logits: bool = False
    mixed: bool = False


def contrastive(granularity: str, supervised: bool = False) -> Case:
    return Case(lambda: ContrastiveFeatureLoss(8, 10, granularity, supervised=supervised, samples=20, grid=2))


CASES = {
    "pmd": Case(PredictionMapLoss, on_logits=True),
    "mixed": Case(PredictionMapLoss, on_logits=True, mixed=True),
    "adversarial": Case(lambda: HolisticAdversarialLoss(1, channels=(8, 8)), on_logits=True),
    "patch": contrastive("patch"),
    "pixel_supervised": contrastive("pixel", supervised=True),
    "region": contrastive("region"),
    "redrawn_projectors": Case(lambda: RedrawnProjectorsLoss(8, 10, "image")),
    "class_guided": Case(lambda: ClassGuidedContrastiveLoss(8, 10, bank_slots=6)),
    "representation": Case(lambda: ContrastiveRepresentationLoss(8, 10, bank_slots=6)),
    "hint": Case(lambda: HintLoss(8, 10)),
    "importance_map": Case(ImportanceMapLoss),
    "similarity": Case(SimilarityPreservingLoss),
}
STUDENTS: dict[str, Callable[[], nn.Module]] = {
    "unet": lambda: UNet(channels=(4, 6, 8), convs_per_block=1),
    # Its reconstruction decoder is idle.
    "multitask": lambda: MultiTaskUNet(channels=(4, 6, 8), convs_per_block=1),
}


def batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(STEPS):
        image = torch.rand(4, 3, 16, 16, generator=generator, dtype=torch.float64)
        # Four blocks, some of which hold no foreground.
        label = (torch.rand(4, 1, 4, 4, generator=generator) > 0.7).float().repeat_interleave(4, 2)
        rows.append({"image": image, "label": label.repeat_interleave(4, 3)})
    return rows


def curve(name: str, student_name: str) -> list[dict[str, float]]:
    """Loss, terms and gradients of every step; of two processes each gets half of every batch."""
    case = CASES[name]
    torch.manual_seed(0)
    student = prepare_network(STUDENTS[student_name]().double(), "cpu")
    teacher = MultiTaskUNet(channels=(4, 6, 8, 10)).double()
    places = () if case.on_logits else ("bottleneck", "bottleneck")
    handler = MixedSlicesHandler if case.mixed else DistillationHandler
    term = handler(name, case.build().double(), 0.5, *places)
    parameters = [*student.parameters(), *(p for p in term.loss.parameters() if p.requires_grad)]
    together = process_count() > 1
    if process_rank() == 1:
        # As after arithmetic that is not the same twice: the main process's projectors count.
        for tensor in (*term.loss.parameters(), *term.loss.buffers()):
            tensor.data += 1
    engine = DistillationTrainer(
        teacher=teacher,
        device="cpu",
        max_epochs=EPOCHS,
        train_data_loader=[
            {key: value.chunk(process_count())[process_rank()] for key, value in batch.items()} for batch in batches()
        ],
        network=data_parallel(student, "cpu") if together else student,
        optimizer=torch.optim.SGD(parameters, lr=0.02, momentum=0.5),
        loss_function=GlobalBatchLoss(DiceBCELoss()) if together else DiceBCELoss(),
        train_handlers=[term],
    )
    rows: list[dict[str, float]] = []

    @engine.on(Events.ITERATION_COMPLETED)
    def note(engine: DistillationTrainer) -> None:
        output = engine.state.output
        figures = {"loss": output["loss"], **output["terms"]}
        figures |= {f"gradient {of}": value for of, value in output["gradient"].items()}
        rows.append({key: float(value.detach()) for key, value in figures.items()})

    torch.manual_seed(1)
    engine.run()
    statistics = [value.norm() for key, value in student.state_dict().items() if "running" in key]
    rows.append({"weights": float(sum(p.detach().norm() for p in parameters)), "statistics": float(sum(statistics))})
    return rows


@pytest.mark.parametrize(("name", "student"), [*((name, "unet") for name in CASES), ("pmd", "multitask")])
def test_ten_steps_in_two_processes_equal_ten_in_one(in_two_processes, name, student):
    alone = curve(name, student)
    assert len(alone) == STEPS * EPOCHS + 1 and any(row[name] != 0 for row in alone[:-1])
    for found in in_two_processes(curve, name, student):
        for expected, row in zip(alone, found, strict=True):
            assert row == pytest.approx(expected, rel=1e-6, abs=1e-6)
