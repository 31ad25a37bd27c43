"""One training step in every form that ``benchmarks/training.py`` compares."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.utils.data import DataLoader

from medkd.data import SliceDataset, SliceVolume
from medkd.engines import (
    AutocastInferer,
    DistillationTrainer,
    FeatureTaps,
    PrepareMultiTaskBatch,
    TeacherCache,
    mixed_precision_pays,
    prepare_network,
    tap_channels,
)
from medkd.handlers import DistillationHandler
from medkd.losses import ContrastiveFeatureLoss, DiceBCELoss, MultiTaskLoss, PredictionMapLoss
from medkd.memory import keep_freed_memory
from medkd.networks import create_network

TEACHER, STUDENT = "multitask_unet", "unet_s1"
SCALES = {"B+PMD": ("bottleneck",), "all": ("encoder", "bottleneck", "decoder")}
WEIGHTS = {"encoder": 0.1, "bottleneck": 0.2, "decoder": 0.1}
SEGMENTATION_WEIGHT, PMD_WEIGHT, TEMPERATURE, TAU, EMBEDDING = 0.4, 0.2, 4.0, 0.4, 128
MOST_STEPS = 1000


@dataclass(frozen=True)
class Setting:
    """What is trained on: ``batch`` slices of ``size`` x ``size`` with three channels."""

    batch: int = 8
    size: int = 256
    device: str = "cpu"
    teacher_channels: tuple[int, ...] = (64, 128, 256, 512, 1024)


class TurnTaker(Protocol):
    """Says when the next step is wanted and hears when it is done."""

    def wait(self) -> bool:
        """Whether another step is wanted."""

    def done(self) -> None:
        """The step is done."""


def run_form(form: str, setting: Setting, folder: Path, turns: TurnTaker) -> None:
    """Take steps of one form as long as they are wanted.

    Args:
        form: ``teacher`` or ``student``, alone or with ``published`` (as the public code does it), ``bfloat16``,
            ``compiled`` or ``returning memory``; ``B+PMD`` or ``all`` with ``published``, ``uncached`` or ``cached``.
        setting: size of the batch.
        folder: for the teacher's cache.
        turns: asks and times.
    """
    torch.manual_seed(0)
    what, _, way = form.partition(" ")
    if way == "published":
        step = _published(what, setting)
        while turns.wait():
            step()
            turns.done()
        return
    if way != "returning memory":
        keep_freed_memory()
    trainer = _trainer(what, way, setting, TeacherCache(folder) if way == "cached" else None)

    def wait(engine: Engine) -> None:
        if not turns.wait():
            engine.terminate()

    trainer.add_event_handler(Events.GET_BATCH_STARTED, wait)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda _: turns.done())
    trainer.run()


def _published(what: str, setting: Setting) -> Callable[[], None]:
    """A step as the public code of MTMS-KD takes it: contiguous float32, all of the teacher, nothing kept."""
    dataset = _dataset(setting)
    items = [dataset[index] for index in range(setting.batch)]
    image, label = (torch.stack([item[key] for item in items]).to(setting.device) for key in ("image", "label"))
    teacher = create_network(TEACHER, channels=setting.teacher_channels).to(setting.device)
    student = create_network(STUDENT).to(setting.device)
    dice = DiceBCELoss(bce_weight=0.0)
    if what == "teacher":
        optimizer = _teacher_optimizer(teacher)
        both = DiceBCELoss()

        def teacher_step() -> None:
            optimizer.zero_grad()
            # One forward pass for each of the two losses.
            logits = teacher(image, reconstruct=True)[0]
            reconstruction = teacher(image, reconstruct=True)[1]
            (both(logits, label) + 0.2 * F.mse_loss(reconstruction, image)).backward()
            optimizer.step()

        return teacher_step
    optimizer = torch.optim.RMSprop(student.parameters(), 0.01)
    if what == "student":

        def student_step() -> None:
            optimizer.zero_grad()
            dice(student(image), label).backward()
            optimizer.step()

        return student_step
    scales = SCALES[what]
    student_taps, teacher_taps = FeatureTaps(student), FeatureTaps(teacher.eval().requires_grad_(False))
    for scale in scales:
        student_taps.add(scale)
        teacher_taps.add(scale)

    def distillation_step() -> None:
        optimizer.zero_grad()
        logits = student(image)
        with torch.no_grad():
            taught, _ = teacher(image, reconstruct=True)
        total = SEGMENTATION_WEIGHT * dice(logits, label)
        # A softmax over one channel: always 1, so this term is constant.
        soft = F.kl_div(
            F.log_softmax(logits / TEMPERATURE, 1), F.softmax(taught / TEMPERATURE, 1), reduction="batchmean"
        )
        total = total + PMD_WEIGHT * TEMPERATURE**2 * soft
        for scale in scales:
            ours, theirs = (
                # A new random projector for each side at every step.
                F.normalize(nn.Linear(pooled.shape[1], EMBEDDING).to(pooled.device)(pooled), dim=1)
                for pooled in (taps.features[scale].mean(dim=(2, 3)) for taps in (student_taps, teacher_taps))
            )
            target = torch.arange(len(ours), device=ours.device)
            total = total + WEIGHTS[scale] * F.cross_entropy(ours @ theirs.T / TAU, target)
        total.backward()
        optimizer.step()

    return distillation_step


def _trainer(what: str, way: str, setting: Setting, cache: TeacherCache | None) -> SupervisedTrainer:
    """The trainer of the recipes, on the same slices in every step."""
    device = torch.device(setting.device)
    amp = way == "bfloat16" or mixed_precision_pays(device)
    common = {
        "device": device,
        "max_epochs": 1,
        "train_data_loader": DataLoader(
            _dataset(setting), setting.batch, sampler=list(range(setting.batch)) * MOST_STEPS
        ),
        "amp": amp and device.type == "cuda",
        "inferer": AutocastInferer(amp and device.type == "cpu"),
        "decollate": False,
    }
    if what == "teacher":
        network = prepare_network(create_network(TEACHER, channels=setting.teacher_channels), device)
        return SupervisedTrainer(
            network=network,
            optimizer=_teacher_optimizer(network, fused=True),
            prepare_batch=PrepareMultiTaskBatch(network),
            loss_function=MultiTaskLoss(DiceBCELoss()),
            **common,
        )
    student = prepare_network(create_network(STUDENT), device, compile=way == "compiled")
    if what == "student":
        optimizer = torch.optim.RMSprop(student.parameters(), 0.01)
        return SupervisedTrainer(
            network=student, optimizer=optimizer, loss_function=DiceBCELoss(bce_weight=0.0), **common
        )
    teacher = prepare_network(create_network(TEACHER, channels=setting.teacher_channels), "cpu").eval()
    terms = [DistillationHandler("pmd", PredictionMapLoss(TEMPERATURE), PMD_WEIGHT)]
    for scale in SCALES[what]:
        loss = ContrastiveFeatureLoss(tap_channels(student, scale), tap_channels(teacher, scale))
        terms.append(DistillationHandler(scale, loss, WEIGHTS[scale], scale, scale))
    projectors = [parameter for term in terms for parameter in term.loss.parameters()]
    return DistillationTrainer(
        teacher=teacher,
        teacher_cache=cache,
        segmentation_weight=SEGMENTATION_WEIGHT,
        network=student,
        optimizer=torch.optim.RMSprop([*student.parameters(), *projectors], 0.01),
        loss_function=DiceBCELoss(bce_weight=0.0),
        train_handlers=terms,
        **common,
    )


def _teacher_optimizer(teacher: nn.Module, fused: bool = False) -> torch.optim.Optimizer:
    return torch.optim.AdamW(teacher.parameters(), 1e-4, betas=(0.9, 0.95), weight_decay=0.05, fused=fused)


def _dataset(setting: Setting) -> SliceDataset:
    """Slices of noise with an ellipse of the spleen's size on every fourth."""
    random = np.random.default_rng(0)
    shape = (setting.batch, setting.size, setting.size)
    row, column = np.meshgrid(*[np.linspace(0, 1, setting.size)] * 2, indexing="ij")
    label = np.broadcast_to(((row - 0.35) / 0.11) ** 2 + ((column - 0.6) / 0.08) ** 2 < 1, shape).astype(np.uint8)
    label = label * (np.arange(setting.batch) % 4 == 0)[:, None, None].astype(np.uint8)
    return SliceDataset([SliceVolume("noise", random.random(shape).astype(np.float16), label)], "neighbours")


def matrix_rate(device: str) -> float:
    """TFLOP/s of a square matrix product: bfloat16 on a GPU, float32 on a processor."""
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (4096, torch.float32)
    left, right = (torch.rand(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        product = left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    del product
    return 2 * side**3 / best / 1e12
