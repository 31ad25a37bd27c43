"""The distillation trainer: what it adds to the loss, what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn

from medkd.engines import DistillationTrainer, FeatureTaps
from medkd.engines.distillation import _gradient_norm
from medkd.errors import UserError
from medkd.handlers import DistillationHandler
from medkd.losses import (
    ContrastiveFeatureLoss,
    DiceBCELoss,
    HintLoss,
    HolisticAdversarialLoss,
    PredictionMapLoss,
)
from medkd.networks import MultiTaskUNet, UNet, create_network


def batches(count: int = 2) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.rand(4, 3, 16, 16, generator=generator),
            "label": (torch.rand(4, 1, 16, 16, generator=generator) > 0.6).float(),
        }
        for _ in range(count)
    ]


def networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return UNet(channels=(4, 6, 8), convs_per_block=1), MultiTaskUNet(channels=(4, 6, 8, 10))


def trainer(student: nn.Module, teacher: nn.Module, handlers: list, data=None, **arguments) -> DistillationTrainer:
    losses = nn.ModuleList([handler.loss for handler in handlers])
    return DistillationTrainer(
        teacher=teacher,
        device="cpu",
        max_epochs=1,
        train_data_loader=data or batches(),
        network=student,
        optimizer=torch.optim.SGD([*student.parameters(), *losses.parameters()], lr=0.1),
        loss_function=DiceBCELoss(),
        train_handlers=handlers,
        decollate=False,
        **arguments,
    )


def test_total_is_the_weighted_sum_of_terms_computed_outside():
    student, teacher = networks()
    data = batches(1)
    with torch.no_grad():
        seen = student.train()(data[0]["image"])
        taught = teacher.eval()(data[0]["image"])
        segmentation = DiceBCELoss()(seen, data[0]["label"])
        pmd = PredictionMapLoss()(seen, taught)
    student, teacher = networks()
    pmd_term = DistillationHandler("pmd", PredictionMapLoss(), weight=0.2)
    engine = trainer(student, teacher, [pmd_term], data, segmentation_weight=0.4)
    engine.run()
    terms = engine.state.output["terms"]
    assert float(terms["segmentation"]) == pytest.approx(float(segmentation), rel=1e-5)
    assert float(terms["pmd"]) == pytest.approx(float(pmd), rel=1e-5)
    assert float(engine.state.output["loss"]) == pytest.approx(0.4 * float(segmentation) + 0.2 * float(pmd), rel=1e-5)


def test_the_teacher_is_frozen_and_the_projectors_learn():
    student, teacher = networks()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    term = DistillationHandler("bottleneck", ContrastiveFeatureLoss(8, 10), 1.0, "bottleneck", "bottleneck")
    projector_before = [parameter.clone() for parameter in term.loss.parameters()]
    student_before = [parameter.clone() for parameter in student.parameters()]
    trainer(student, teacher, [term]).run()
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items()), "batch norm included"
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(term.loss.parameters(), projector_before, strict=True))
    # Biases in front of batch norm may stay; the rest of the student moves.
    moved = [not torch.equal(a, b) for a, b in zip(student.parameters(), student_before, strict=True)]
    assert sum(moved) > 0.7 * len(moved)


def test_with_all_weights_zero_it_is_the_plain_trainer_and_the_teacher_never_runs():
    student, teacher = networks()
    calls = []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    terms = [
        DistillationHandler("pmd", PredictionMapLoss(), weight=0.0),
        DistillationHandler("encoder", HintLoss(6, 6), 0.0, "encoder", "encoder"),
    ]
    trainer(student, teacher, terms).run()
    plain, _ = networks()
    SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=batches(),
        network=plain,
        optimizer=torch.optim.SGD(plain.parameters(), lr=0.1),
        loss_function=DiceBCELoss(),
        decollate=False,
    ).run()
    assert calls == []
    for ours, theirs in zip(student.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_a_loss_that_wants_the_label_gets_it():
    student, teacher = networks()
    term = DistillationHandler(
        "region", ContrastiveFeatureLoss(8, 10, granularity="region"), 1.0, "bottleneck", "bottleneck"
    )
    engine = trainer(student, teacher, [term])
    engine.run()
    assert torch.isfinite(engine.state.output["terms"]["region"])


def test_each_terms_share_and_gradient_are_noted():
    student, teacher = networks()
    data = batches(1)
    expected = {}
    with torch.no_grad():
        taught = teacher.eval()(data[0]["image"])
    for name, weight, loss, target in (
        ("segmentation", 0.4, DiceBCELoss(), data[0]["label"]),
        ("pmd", 0.2, PredictionMapLoss(), taught),
    ):
        copy, _ = networks()
        value = loss(copy.train()(data[0]["image"]), target)
        (weight * value).backward()
        squares = sum(float(p.grad.square().sum()) for p in copy.parameters() if p.grad is not None)
        expected[name] = (float(value), weight * float(value), squares**0.5)
    engine = trainer(
        student, teacher, [DistillationHandler("pmd", PredictionMapLoss(), 0.2)], data, segmentation_weight=0.4
    )
    engine.run()
    output = engine.state.output
    for name, figures in expected.items():
        found = [float(output[of][name]) for of in ("terms", "weighted", "gradient")]
        assert found == pytest.approx(figures, rel=1e-4)


def test_noting_gradients_changes_nothing_and_happens_once_an_epoch(monkeypatch):
    noted = []

    def run() -> nn.Module:
        student, teacher = networks()
        engine = trainer(student, teacher, [DistillationHandler("pmd", PredictionMapLoss(), 0.2)], batches(3))
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: noted.append(set(e.state.output["gradient"])))
        engine.run()
        return student

    ours = run()
    assert noted == [{"segmentation", "pmd"}, set(), set()]
    monkeypatch.setattr("medkd.engines.distillation._gradient_norm", lambda *_: torch.zeros(()))
    for a, b in zip(ours.parameters(), run().parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_warm_up_raises_the_weight_linearly_then_keeps_it():
    student, teacher = networks()
    term = DistillationHandler("pmd", PredictionMapLoss(), 0.8, warmup_epochs=2)
    engine = trainer(student, teacher, [term], batches(2))
    engine.state.max_epochs = 3
    factors = []

    @engine.on(Events.ITERATION_COMPLETED)
    def note(engine):
        factors.append(float(engine.state.output["weighted"]["pmd"] / engine.state.output["terms"]["pmd"]))

    engine.run()
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_a_discriminator_learns_by_its_own_optimiser_alone():
    student, teacher = networks()
    loss = HolisticAdversarialLoss(1)
    before = [parameter.clone() for parameter in loss.parameters()]
    engine = trainer(student, teacher, [DistillationHandler("holistic", loss, 1.0)], batches(1))
    engine.run()
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in loss.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(loss.parameters(), before, strict=True))
    other, other_teacher = networks()
    frozen = HolisticAdversarialLoss(1)
    frozen.load_state_dict(loss.state_dict())
    frozen.train_discriminator = lambda *_: None
    weights = [parameter.clone() for parameter in frozen.parameters()]
    trainer(other, other_teacher, [DistillationHandler("holistic", frozen, 1.0)], batches(1)).run()
    assert all(torch.equal(a, b) for a, b in zip(frozen.parameters(), weights, strict=True))


def test_stock_monai_networks_by_module_path():
    arguments = {"spatial_dims": 2, "in_channels": 3, "out_channels": 1, "strides": (2, 2)}
    teacher = create_network("monai.networks.nets.UNet", channels=(8, 12, 16), **arguments)
    student = create_network("monai.networks.nets.UNet", channels=(4, 6, 8), **arguments)
    term = DistillationHandler("middle", HintLoss(6, 12), 1.0, "model.1.submodule.0", "model.1.submodule.0")
    engine = trainer(student, teacher, [term])
    engine.run()
    assert float(engine.state.output["terms"]["middle"]) > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"weight": -1.0}, "0 or more"),
        ({"warmup_epochs": -1}, "0 or more"),
        ({"name": "loss"}, "cannot be called 'loss'"),
        ({"name": "keys"}, "cannot be called"),
        ({"name": "a.b"}, "cannot be called"),
        ({"student_tap": "encoder"}, "both student_tap and teacher_tap"),
    ],
)
def test_a_term_without_sense_is_told(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        DistillationHandler(**{"name": "x", "loss": PredictionMapLoss(), **arguments})


def test_two_terms_of_one_name_are_told():
    student, teacher = networks()
    terms = [DistillationHandler("pmd", PredictionMapLoss()) for _ in range(2)]
    with pytest.raises(UserError, match="two terms are called 'pmd'"):
        trainer(student, teacher, terms)


def test_a_negative_weight_of_the_segmentation_is_told():
    with pytest.raises(UserError, match="0 or more"):
        trainer(*networks(), [], segmentation_weight=-1.0)


def test_a_tap_that_gives_no_single_map_is_told():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    student, _ = networks()
    student.pair = Pair()
    taps = FeatureTaps(student)
    taps.add("pair")
    with pytest.raises(UserError, match="not one map"):
        student.pair(torch.zeros(1))


def test_gradients_are_noted_at_the_scale_of_mixed_precision():
    """A gradient below the range of float16 is not reported as 0."""
    parameter = nn.Parameter(torch.ones(()))
    network = nn.Module()
    network.weight = parameter

    class Scaler:
        def get_scale(self):
            return 1024.0

    tiny = (parameter.half() * 1e-4) * 1e-5
    assert float(_gradient_norm(tiny.float(), network, None)) == 0
    assert float(_gradient_norm(tiny.float(), network, Scaler())) == pytest.approx(1e-9, rel=0.1)
