"""The term on mixed slices: what is mixed, what is compared, and what is left alone."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from medkd.engines import DistillationTrainer
from medkd.engines.frozen_teacher import FrozenTeacher
from medkd.errors import UserError
from medkd.handlers import DistillationHandler, MixedSlicesHandler
from medkd.handlers.mixed_slices import mix_slices
from medkd.losses import ClassGuidedContrastiveLoss, DiceBCELoss, HintLoss, PredictionMapLoss
from medkd.networks import MultiTaskUNet, UNet


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = (torch.rand(4, 1, 16, 16, generator=generator) > 0.6).float()
    return {"image": torch.rand(4, 3, 16, 16, generator=generator), "label": label}


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return UNet(channels=(4, 6, 8), convs_per_block=1), MultiTaskUNet(channels=(4, 6, 8, 10))


def step(student: nn.Module, teacher: nn.Module, terms: list[DistillationHandler]) -> dict[str, float]:
    """One step; the values of its terms."""
    engine = DistillationTrainer(
        teacher=teacher,
        device="cpu",
        max_epochs=1,
        train_data_loader=[batch()],
        network=student,
        optimizer=torch.optim.SGD(student.parameters(), lr=0.1),
        loss_function=DiceBCELoss(),
        train_handlers=terms,
    )
    torch.manual_seed(3)
    engine.run()
    return {name: float(value) for name, value in engine.state.output["terms"].items()}


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (8, 3, 64, 48), (1, 3, 16, 16)])
def test_a_square_of_the_slice_before_is_in_each_at_its_place(shape):
    torch.manual_seed(0)
    image = torch.rand(shape)
    before = image.clone()
    mixed = mix_slices(image)
    assert torch.equal(image, before)
    for number in range(shape[0]):
        given = image[number - 1]
        taken = (mixed[number] == given).all(dim=0)
        assert torch.equal(mixed[number], torch.where(taken, given, image[number])), "all channels alike"
        if shape[0] > 1:
            rows, columns = taken.any(dim=1), taken.any(dim=0)
            assert torch.equal(taken, rows[:, None] & columns[None, :]), "a rectangle"
            assert rows.nonzero().diff(dim=0).eq(1).all() and columns.nonzero().diff(dim=0).eq(1).all(), "in one piece"
            assert float(rows.float().mean() - columns.float().mean()) == pytest.approx(0, abs=2 / min(shape[2:]))


def test_volumes_get_a_cube():
    torch.manual_seed(0)
    image = torch.rand(2, 1, 20, 20, 20)
    taken = mix_slices(image)[0, 0] != image[0, 0]
    along = [taken.any(dim=axes) for axes in ((1, 2), (0, 2), (0, 1))]
    assert torch.equal(taken, along[0][:, None, None] & along[1][:, None] & along[2])
    assert 0.15 < float(taken.float().mean()) < 0.65
    assert {int(line.sum()) for line in along} <= {int(along[0].sum()) + step for step in (-1, 0, 1)}


def test_squares_have_a_fifth_to_three_fifths_of_the_area_and_lie_everywhere():
    torch.manual_seed(0)
    image = torch.tensor([0.0, 1.0]).repeat(500)[:, None, None, None].expand(-1, 1, 50, 50)
    taken = (mix_slices(image) != image).float()
    shares = taken.mean(dim=(1, 2, 3))
    assert 0.17 < shares.min() < 0.25 and 0.55 < shares.max() < 0.63
    for rows in (taken.mean(dim=(0, 1, 3)), taken.mean(dim=(0, 1, 2))):
        assert rows.min() > 0 and int(rows.argmax()) == pytest.approx(25, abs=8)
        torch.testing.assert_close(rows, rows.flip(0), atol=0.05, rtol=0)


def test_its_value_is_the_loss_of_both_networks_on_mixed_slices():
    student, teacher = networks()
    data = batch()
    with torch.no_grad():
        copy = deepcopy(student).train()
        segmentation = DiceBCELoss()(copy(data["image"]), data["label"])
        torch.manual_seed(3)
        mixed = mix_slices(data["image"])
        expected = PredictionMapLoss()(copy(mixed), teacher.eval()(mixed))
    terms = step(student, teacher, [MixedSlicesHandler("mix", PredictionMapLoss(), 0.5)])
    assert terms["mix"] == pytest.approx(float(expected), rel=1e-5)
    assert terms["segmentation"] == pytest.approx(float(segmentation), rel=1e-5), "of the slices as they are"


def test_terms_on_the_slices_as_they_are_do_not_notice_it():
    def others() -> list[DistillationHandler]:
        torch.manual_seed(1)
        hint = HintLoss(8, 10)
        return [DistillationHandler("hint", hint, 1.0, "bottleneck", "bottleneck"), DistillationHandler(
            "pmd", PredictionMapLoss(), 1.0
        )]  # fmt: skip

    student, teacher = networks()
    alone = step(student, teacher, others())
    student, teacher = networks()
    beside = step(student, teacher, [MixedSlicesHandler("mix", PredictionMapLoss()), *others()])
    assert beside.pop("mix") > 0
    assert beside == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize(("weight", "passes"), [(0.0, 0), (1.0, 1)])
def test_the_teacher_sees_mixed_slices_alone_if_no_other_term_asks(weight, passes, monkeypatch):
    student, teacher = networks()
    seen: list[torch.Tensor] = []
    ask = FrozenTeacher.__call__
    monkeypatch.setattr(FrozenTeacher, "__call__", lambda self, image: seen.append(image) or ask(self, image))
    step(student, teacher, [MixedSlicesHandler("mix", PredictionMapLoss(), weight)])
    assert len(seen) == passes
    assert not any(torch.equal(image, batch()["image"]) for image in seen)


def test_a_loss_that_needs_a_label_is_refused():
    with pytest.raises(UserError, match="mixed slices do not have"):
        MixedSlicesHandler("mix", ClassGuidedContrastiveLoss(8, 10))
