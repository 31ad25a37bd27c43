"""What every loss must stand: any size, channels, classes, precision; absent classes, flat maps, a frozen teacher."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medkd.losses import (
    AttentionTransferLoss,
    ClassGuidedContrastiveLoss,
    ContrastiveFeatureLoss,
    ContrastiveRepresentationLoss,
    DiceBCELoss,
    FixedProjectorsLoss,
    HintLoss,
    HolisticAdversarialLoss,
    ImportanceMapLoss,
    InfoNCELoss,
    IntraClassVariationLoss,
    LocalConsistencyLoss,
    PairwiseAffinityLoss,
    PixelwiseSoftTargetLoss,
    PredictionMapLoss,
    RedrawnProjectorsLoss,
    RegionAffinityLoss,
    SimilarityPreservingLoss,
)

torch.set_num_threads(1)


class Case(NamedTuple):
    """How to build a loss for maps of given channels, and how to call it with student, teacher and label."""

    build: Callable[[int, int], nn.Module]
    call: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
    on_logits: bool = False


def rows(feature_map: Tensor) -> Tensor:
    # MONAI's tensors refuse to be cut out of a batch.
    return feature_map.as_subclass(torch.Tensor).flatten(2).transpose(1, 2).flatten(0, 1)[:20, :3]


def contrastive(
    granularity: str, supervised: bool, kind: type[ContrastiveFeatureLoss] = ContrastiveFeatureLoss
) -> Case:
    return Case(
        lambda s, t: kind(s, t, granularity, supervised=supervised, embedding_channels=8, grid=4),
        lambda loss, s, t, y: loss(s, t, y),
    )


def after_a_first_batch(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """The bank of CRD is empty before: nothing is contrasted with the first batch."""
    loss(student.detach(), teacher.detach())
    return loss(student, teacher)


def with_a_trained_critic(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """Before its first step the critic judges everything to be 0."""
    loss.train_discriminator(student, teacher)
    return loss(student, teacher)


CASES = {
    "dice_bce": Case(lambda s, t: DiceBCELoss(), lambda loss, s, t, y: loss(s, y), on_logits=True),
    "dice": Case(lambda s, t: DiceBCELoss(bce_weight=0), lambda loss, s, t, y: loss(s, y), on_logits=True),
    "bce": Case(lambda s, t: DiceBCELoss(dice_weight=0), lambda loss, s, t, y: loss(s, y), on_logits=True),
    "pmd": Case(lambda s, t: PredictionMapLoss(), lambda loss, s, t, y: loss(s, t), on_logits=True),
    "info_nce": Case(lambda s, t: InfoNCELoss(), lambda loss, s, t, y: loss(rows(s), rows(t.detach()))),
    "info_nce-supervised": Case(
        lambda s, t: InfoNCELoss(), lambda loss, s, t, y: loss(rows(s), rows(t.detach()), rows(y)[:, 0])
    ),
    "importance_map": Case(lambda s, t: ImportanceMapLoss(), lambda loss, s, t, y: loss(s, t)),
    "importance_map-emkd_code": Case(lambda s, t: ImportanceMapLoss(4, "mse"), lambda loss, s, t, y: loss(s, t)),
    "importance_map-odd": Case(lambda s, t: ImportanceMapLoss(3), lambda loss, s, t, y: loss(s, t)),
    "attention_transfer": Case(lambda s, t: AttentionTransferLoss(), lambda loss, s, t, y: loss(s, t)),
    "similarity_preserving": Case(lambda s, t: SimilarityPreservingLoss(), lambda loss, s, t, y: loss(s, t)),
    "pairwise_affinity": Case(lambda s, t: PairwiseAffinityLoss(), lambda loss, s, t, y: loss(s, t)),
    "region_affinity": Case(lambda s, t: RegionAffinityLoss(), lambda loss, s, t, y: loss(s, t, y)),
    "region_affinity-vector": Case(
        lambda s, t: RegionAffinityLoss("mse", "vector"), lambda loss, s, t, y: loss(s, t, y)
    ),
    "intra_class_variation": Case(lambda s, t: IntraClassVariationLoss(), lambda loss, s, t, y: loss(s, t, y)),
    "local_consistency": Case(lambda s, t: LocalConsistencyLoss(), lambda loss, s, t, y: loss(s, t), on_logits=True),
    "pixelwise_soft_target": Case(
        lambda s, t: PixelwiseSoftTargetLoss(), lambda loss, s, t, y: loss(s, t), on_logits=True
    ),
    "class_guided": Case(
        lambda s, t: ClassGuidedContrastiveLoss(s, t, num_classes=5, bank_slots=16, embedding_channels=8),
        lambda loss, s, t, y: loss(s, t, y),
    ),
    "representation": Case(
        lambda s, t: ContrastiveRepresentationLoss(s, t, bank_slots=16, embedding_channels=8),
        lambda loss, s, t, y: after_a_first_batch(loss, s, t),
    ),
    "holistic": Case(
        lambda s, t: HolisticAdversarialLoss(s, channels=(8, 8)),
        lambda loss, s, t, y: with_a_trained_critic(loss, s, t),
        on_logits=True,
    ),
    "hint": Case(HintLoss, lambda loss, s, t, y: loss(s, t)),
    "image": contrastive("image", False),
    "patch": contrastive("patch", False),
    "patch-supervised": contrastive("patch", True),
    "pixel": contrastive("pixel", False),
    "pixel-supervised": contrastive("pixel", True),
    "region": contrastive("region", False),
    "region-supervised": contrastive("region", True),
    "image-fixed_projectors": contrastive("image", False, FixedProjectorsLoss),
    "patch-supervised-fixed_projectors": contrastive("patch", True, FixedProjectorsLoss),
    "image-redrawn_projectors": contrastive("image", False, RedrawnProjectorsLoss),
    "patch-supervised-redrawn_projectors": contrastive("patch", True, RedrawnProjectorsLoss),
}
# Spatial size of the student's map and of the teacher's, both with at least 20 positions (see rows).
SIZES = {
    "2d-same": ((8, 8), (8, 8)),
    "2d-teacher-smaller": ((12, 8), (5, 4)),
    "2d-teacher-larger": ((7, 5), (16, 12)),
    "3d-same": ((4, 4, 4), (4, 4, 4)),
    "3d-different": ((6, 4, 3), (3, 4, 5)),
}
CLASSES = (1, 2, 5)


def inputs(case: Case, size: str = "2d-teacher-larger", classes: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Student map, teacher map and label; the label of feature maps has twice their resolution."""
    student_size, teacher_size = SIZES[size]
    student_channels, teacher_channels = (classes, classes) if case.on_logits else (3, 5)
    student = torch.randn(3, student_channels, *student_size)
    teacher = torch.randn(3, teacher_channels, *teacher_size)
    label_size = student_size if case.on_logits else [2 * length for length in student_size]
    return student, teacher, torch.randint(0, max(classes, 2), (3, 1, *label_size))


def run(
    case: Case, student: Tensor, teacher: Tensor, label: Tensor, autocast: bool = False
) -> tuple[Tensor, Tensor, nn.Module]:
    """Value, gradient of the student's map, and the loss with the gradients of its parameters."""
    torch.manual_seed(1)
    loss = case.build(student.shape[1], teacher.shape[1])
    if student.dtype == torch.float64:
        loss = loss.double()
    leaf = student.detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = case.call(loss, leaf, teacher, label)
    value.backward()
    assert value.shape == ()
    assert torch.isfinite(value)
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()
    for parameter in (p for p in loss.parameters() if p.requires_grad):
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all()
    return value.detach(), leaf.grad, loss


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_loss
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("classes", CLASSES)
def test_gradient_reaches_student_and_projectors_but_never_the_teacher(case: Case, size: str, classes: int) -> None:
    student, teacher, label = inputs(case, size, classes)
    teacher.requires_grad_()
    value, gradient, loss = run(case, student, teacher, label)
    assert value != 0
    assert gradient.abs().max() > 0
    assert all(parameter.grad.abs().max() > 0 for parameter in loss.parameters() if parameter.grad is not None)
    assert teacher.grad is None


@every_loss
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("only", (0, 1))
def test_absent_classes_are_finite(case: Case, classes: int, only: int) -> None:
    student, teacher, label = inputs(case, classes=classes)
    run(case, student, teacher, torch.full_like(label, only))
    label[0] = only
    run(case, student, teacher, label)


@every_loss
@pytest.mark.parametrize("samples", (1, 2))
@pytest.mark.parametrize("only", (None, 0))
def test_a_smaller_last_batch_is_finite(case: Case, samples: int, only: int | None) -> None:
    """After a whole batch, so that what a loss remembers is there; also without foreground."""
    torch.manual_seed(1)
    student, teacher, label = inputs(case)
    loss = case.build(student.shape[1], teacher.shape[1])
    case.call(loss, student, teacher, label)
    leaf = student[:samples].requires_grad_()
    last = label[:samples] if only is None else torch.full_like(label[:samples], only)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        value = case.call(loss, leaf, teacher[:samples], last)
    value.backward()
    assert torch.isfinite(value)
    assert leaf.grad is not None and torch.isfinite(leaf.grad).all()


@every_loss
@pytest.mark.parametrize("level", (0.0, 3.0))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float16, torch.bfloat16))
def test_constant_maps_are_finite(case: Case, level: float, dtype: torch.dtype) -> None:
    student, teacher, label = inputs(case)
    run(case, torch.full_like(student, level, dtype=dtype), torch.full_like(teacher, level, dtype=dtype), label)


@every_loss
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_is_computed_in_float32(case: Case, size: str, dtype: torch.dtype) -> None:
    student, teacher, label = inputs(case, size)
    student, teacher = student.to(dtype), teacher.to(dtype)
    expected, expected_gradient, _ = run(case, student.float(), teacher.float(), label)
    value, gradient, _ = run(case, student, teacher, label)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=1e-2, atol=1e-6)


@every_loss
def test_autocast_does_not_round_the_loss(case: Case) -> None:
    student, teacher, label = inputs(case)
    expected, expected_gradient, _ = run(case, student, teacher, label)
    value, gradient, _ = run(case, student, teacher, label, autocast=True)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-8)


@every_loss
@pytest.mark.parametrize("size", ("2d-same", "2d-teacher-smaller", "2d-teacher-larger"))
def test_volume_of_one_slice_equals_the_slice(case: Case, size: str) -> None:
    student, teacher, label = inputs(case, size, classes=5)
    student, teacher = student.double(), teacher.double()
    expected, expected_gradient, _ = run(case, student, teacher, label)
    value, gradient, _ = run(case, student[..., None], teacher[..., None], label[..., None])
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient[..., 0], expected_gradient, rtol=1e-9, atol=1e-14)


@every_loss
@pytest.mark.parametrize("size", ("2d-same", "2d-teacher-larger"))
def test_teacher_may_come_from_inference_mode(case: Case, size: str) -> None:
    student, teacher, label = inputs(case, size)
    expected, _, _ = run(case, student, teacher, label)
    with torch.inference_mode():
        teacher = teacher + 0
    value, _, _ = run(case, student, teacher, label)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)


@every_loss
def test_channels_last_and_float_labels_and_monai_tensors_change_nothing(case: Case) -> None:
    student, teacher, label = inputs(case)
    expected, expected_gradient, _ = run(case, student, teacher, label)
    student, teacher, label = (
        MetaTensor(x) for x in (student.to(memory_format=torch.channels_last), teacher, label.float())
    )
    for tensor in (student, teacher, label):
        tensor.is_batch = True
    value, gradient, _ = run(case, student, teacher, label)
    torch.testing.assert_close(torch.as_tensor(value), expected, rtol=1e-5, atol=0, check_dtype=True)
    torch.testing.assert_close(gradient.as_subclass(torch.Tensor), expected_gradient, rtol=1e-4, atol=1e-7)
