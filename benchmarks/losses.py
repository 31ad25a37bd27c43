"""What each distillation loss costs, as a share of the student's own forward and backward pass.

    python benchmarks/losses.py

Measured on the maps that S1 and T1 give for a batch of 8 slices of 256x256, in the memory order the networks give them,
on 2 threads. A loss is timed from the maps to the gradient in the student's map and in its own projectors. Rounds are
interleaved, student and losses in turn, so that the ratios hold on a busy machine; each figure is the median of the
rounds. Writes ``docs/results/losses.json``, which the report of ``benchmarks/methods.py`` shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from medkd.engines import FeatureTaps, prepare_network
from medkd.files import write_json
from medkd.losses import (
    AttentionTransferLoss,
    ClassGuidedContrastiveLoss,
    ContrastiveFeatureLoss,
    ContrastiveRepresentationLoss,
    DiceBCELoss,
    HintLoss,
    HolisticAdversarialLoss,
    ImportanceMapLoss,
    IntraClassVariationLoss,
    LocalConsistencyLoss,
    PairwiseAffinityLoss,
    PixelwiseSoftTargetLoss,
    PredictionMapLoss,
    RegionAffinityLoss,
    SimilarityPreservingLoss,
)
from medkd.machine import machine_facts
from medkd.networks import create_network

BATCH, SIZE, THREADS, ROUNDS = 8, 256, 2, 7
SCALES = ("encoder", "bottleneck", "decoder")
RESULTS = Path(__file__).parent.parent / "docs" / "results" / "losses.json"

# Built for the channels of a pair of maps; the second entry says whether the loss wants the label.
FEATURE_LOSSES: dict[str, tuple[Callable[[int, int], nn.Module], bool]] = {
    "ImportanceMapLoss": (lambda s, t: ImportanceMapLoss(), False),
    "ImportanceMapLoss, EMKD's code": (lambda s, t: ImportanceMapLoss(4, "mse"), False),
    "RegionAffinityLoss": (lambda s, t: RegionAffinityLoss(), True),
    "AttentionTransferLoss": (lambda s, t: AttentionTransferLoss(), False),
    "SimilarityPreservingLoss": (lambda s, t: SimilarityPreservingLoss(), False),
    "PairwiseAffinityLoss": (lambda s, t: PairwiseAffinityLoss(), False),
    "IntraClassVariationLoss": (lambda s, t: IntraClassVariationLoss(), True),
    "HintLoss": (HintLoss, False),
    "ContrastiveFeatureLoss, image": (lambda s, t: ContrastiveFeatureLoss(s, t, "image"), False),
    "ContrastiveFeatureLoss, patch": (lambda s, t: ContrastiveFeatureLoss(s, t, "patch"), False),
    "ContrastiveFeatureLoss, pixel": (lambda s, t: ContrastiveFeatureLoss(s, t, "pixel"), False),
    "ContrastiveFeatureLoss, pixel, supervised": (
        lambda s, t: ContrastiveFeatureLoss(s, t, "pixel", supervised=True),
        True,
    ),
    "ContrastiveFeatureLoss, region, supervised": (
        lambda s, t: ContrastiveFeatureLoss(s, t, "region", supervised=True),
        True,
    ),
    "ClassGuidedContrastiveLoss": (lambda s, t: ClassGuidedContrastiveLoss(s, t), True),
    "ContrastiveRepresentationLoss": (lambda s, t: ContrastiveRepresentationLoss(s, t), False),
}
LOGIT_LOSSES: dict[str, Callable[[], nn.Module]] = {
    "PredictionMapLoss": PredictionMapLoss,
    "PixelwiseSoftTargetLoss": PixelwiseSoftTargetLoss,
    "LocalConsistencyLoss": LocalConsistencyLoss,
    "HolisticAdversarialLoss, with a step of its discriminator": lambda: HolisticAdversarialLoss(1),
}


def measure() -> dict[str, Any]:
    """Time everything in turn; see the module."""
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    image = torch.rand(BATCH, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    # An ellipse of the spleen's size in one slice of four.
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    label = (((row - 90) / 28) ** 2 + ((column - 150) / 20) ** 2 < 1).float().repeat(BATCH, 1, 1, 1)
    label[BATCH // 4 :] = 0
    student, student_maps, logits = _maps("unet_s1", image)
    _, teacher_maps, teacher_logits = _maps("multitask_unet", image)

    def student_step() -> None:
        student.zero_grad(set_to_none=True)
        DiceBCELoss(bce_weight=0.0)(student(image), label).backward()

    jobs: dict[tuple[str, str], Callable[[], None]] = {("student", "forward and backward"): student_step}
    for name, (build, wants_label) in FEATURE_LOSSES.items():
        for scale in SCALES:
            pair = student_maps[scale], teacher_maps[scale]
            loss = build(pair[0].shape[1], pair[1].shape[1])
            jobs[name, scale] = _job(loss, *pair, *([label] if wants_label else []))
    for name, build_logit in LOGIT_LOSSES.items():
        jobs[name, "logits"] = _job(build_logit(), logits, teacher_logits)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in jobs}
    for round_index in range(ROUNDS + 1):
        for key, job in jobs.items():
            start = time.perf_counter()
            job()
            if round_index:
                times[key].append(time.perf_counter() - start)
    own = median(times.pop(("student", "forward and backward")))
    rows = [
        {"loss": name, "scale": scale, "ms": 1000 * median(values), "share": median(values) / own}
        for (name, scale), values in times.items()
    ]
    setting = {"batch": BATCH, "size": SIZE, "threads": THREADS, "rounds": ROUNDS}
    return {"machine": machine_facts(), "setting": setting, "student_ms": 1000 * own, "rows": rows}


def _maps(name: str, image: Tensor) -> tuple[nn.Module, dict[str, Tensor], Tensor]:
    network = prepare_network(create_network(name), "cpu")
    taps = FeatureTaps(network)
    for scale in SCALES:
        taps.add(scale)
    with torch.no_grad():
        logits = network(image)
    features = dict(taps.features)
    taps.remove()
    return network, features, logits


def _job(loss: nn.Module, student: Tensor, teacher: Tensor, *label: Tensor) -> Callable[[], None]:
    def step() -> None:
        leaf = student.detach().requires_grad_()
        loss(leaf, teacher, *label).backward()
        if isinstance(loss, HolisticAdversarialLoss):
            loss.train_discriminator(student, teacher)

    return step


def main() -> None:
    """Measure, print the table, store it."""
    results = measure()
    print(f"student's forward and backward: {results['student_ms']:.0f} ms")
    for row in results["rows"]:
        print(f"{row['loss']:<60}{row['scale']:<12}{row['ms']:>8.1f} ms{row['share']:>8.1%}")
    write_json(RESULTS, results)


if __name__ == "__main__":
    main()
