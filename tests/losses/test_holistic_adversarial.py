from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medkd.errors import UserError
from medkd.losses.holistic_adversarial import HolisticAdversarialLoss

torch.set_num_threads(1)


def build(out_channels: int = 1, channels: tuple[int, ...] = (4, 8), **options: float) -> HolisticAdversarialLoss:
    """With a critic that has an opinion."""
    torch.manual_seed(1)
    loss = HolisticAdversarialLoss(out_channels, channels=channels, **options)
    loss.critic.head.weight.normal_()
    return loss


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def parameters_of(loss: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in loss.parameters()]


# --- the student's part


def slow_probabilities(logits: Tensor) -> Tensor:
    """One logit counts as two classes."""
    result = []
    for sample in logits:
        for place in np.ndindex(*logits.shape[2:]):
            z = [sample[(c, *place)] for c in range(len(sample))]
            z = [torch.zeros_like(z[0]), *z] if len(z) == 1 else z
            powers = [torch.exp(x) for x in z]
            result += [power / sum(powers) for power in powers]
    classes = max(logits.shape[1], 2)
    return torch.stack(result).reshape(len(logits), *logits.shape[2:], classes).movedim(-1, 1)


def slow_stage(stage: nn.Module, maps: Tensor) -> Tensor:
    weight, profiles, bias = stage.weight, stage.profiles, stage.bias
    lengths = maps.shape[2:]
    outputs = [max(length // 2, 1) for length in lengths]
    # Width 4, stride 2, one cell of zeros around; an axis of length 1 stays.
    taps = [range(4) if length > 1 else range(1) for length in lengths]
    result = []
    for b, o in np.ndindex(len(maps), len(weight)):
        for place in np.ndindex(*outputs):
            total = bias[o]
            for i, tap in ((i, tap) for i in range(maps.shape[1]) for tap in np.ndindex(*map(len, taps))):
                source = [2 * p + k - 1 if n > 1 else 0 for p, k, n in zip(place, tap, lengths, strict=True)]
                if all(0 <= x < n for x, n in zip(source, lengths, strict=True)):
                    kernel = weight[o, i]
                    for axis, (k, n) in enumerate(zip(tap, lengths, strict=True)):
                        kernel = kernel * profiles[axis, o, i, k] if n > 1 else kernel
                    total = total + kernel * maps[(b, i, *source)]
            result.append(total if total > 0 else 0.1 * total)
    return torch.stack(result).reshape(len(maps), len(weight), *outputs)


def slow_loss(loss: HolisticAdversarialLoss, student: Tensor) -> Tensor:
    maps = slow_probabilities(student)
    for stage in loss.critic.stages:
        maps = slow_stage(stage, maps)
    head = loss.critic.head
    judgements = []
    for sample in maps:
        for place in np.ndindex(*maps.shape[2:]):
            judgements.append(sum(head.weight[0, c] * sample[(c, *place)] for c in range(len(sample))))
    return -sum(judgements) / len(judgements)


@pytest.mark.parametrize(
    ("out_channels", "size"), ((1, (6,)), (1, (4, 4)), (2, (5, 2)), (3, (7, 4)), (1, (2, 3, 4)), (3, (4, 3, 1)))
)
def test_equals_slow_loops(agree: Callable[..., None], out_channels: int, size: tuple[int, ...]) -> None:
    loss = build(out_channels, channels=(3, 2)).double()
    student, teacher = logits(2, out_channels, *size).double(), logits(2, out_channels, *size, seed=1)
    agree(loss, lambda s, t: slow_loss(loss, s), student, teacher)


def test_one_logit_and_two_classes_are_the_same() -> None:
    loss, z, teacher = build().double(), logits(2, 1, 8, 8).double(), logits(2, 1, 8, 8)
    both = torch.cat([z / 2 - 3, z * 3 / 2 - 3], dim=1)
    assert loss(both, teacher).item() == pytest.approx(loss(z, teacher).item(), abs=1e-12)


def test_the_critic_sees_means_of_at_most_64_cells_per_axis() -> None:
    loss, teacher = build().double(), logits(2, 1, 128, 192)
    student = logits(2, 1, 128, 192).double()
    cells = student.unflatten(3, (64, 3)).unflatten(2, (64, 2))
    within = cells.flip(3, 5).flatten(4, 5).flatten(2, 3)
    across = cells.flip(2).flatten(4, 5).flatten(2, 3)
    value = loss(student, teacher).item()
    assert loss(within, teacher).item() == pytest.approx(value, rel=1e-9)
    assert loss(across, teacher).item() != pytest.approx(value, rel=1e-6)


def test_the_critic_sees_the_smaller_of_the_two_grids() -> None:
    loss, student = build().double(), logits(2, 1, 8, 12).double()
    probabilities = torch.sigmoid(student).unflatten(3, (4, 3)).unflatten(2, (4, 2)).mean(dim=(3, 5))
    expected = loss(torch.logit(probabilities), logits(2, 1, 4, 4)).item()
    assert loss(student, logits(2, 1, 4, 4)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", ((4,), (4, 4), (5, 7), (1, 4), (64, 4), (4, 4, 1), (4, 5, 6)))
def test_grids_of_any_size_teach_student_and_critic(size: tuple[int, ...]) -> None:
    loss = build(channels=(16, 32, 64, 128))
    student, teacher = logits(2, 1, *size).requires_grad_(), logits(2, 1, *size, seed=1)
    loss(student, teacher).backward()
    assert student.grad is not None and (student.grad != 0).all()
    before = [stage.weight.clone() for stage in loss.critic.stages]
    assert torch.isfinite(loss.train_discriminator(student, teacher))
    assert all(torch.isfinite(parameter).all() for parameter in loss.parameters())
    assert all((stage.weight != old).any() for stage, old in zip(loss.critic.stages, before, strict=True))


def test_an_untrained_critic_has_no_opinion_and_a_first_step_gives_it_the_right_one() -> None:
    loss = HolisticAdversarialLoss(1)
    student, teacher = logits(8, 1, 16, 16).requires_grad_(), logits(8, 1, 16, 16, seed=1) + 1
    value = loss(student, teacher)
    value.backward()
    assert value.item() == 0
    assert student.grad is not None and student.grad.abs().max() == 0
    loss.train_discriminator(student, teacher)
    assert loss(teacher, teacher).item() < loss(student, teacher).item()


def test_a_volume_of_one_slice_is_judged_and_learned_as_the_slice() -> None:
    student, teacher = logits(2, 3, 8, 6).double(), logits(2, 3, 8, 6, seed=1).double()
    values, parameters = [], []
    for pair in ((student, teacher), (student[..., None], teacher[..., None])):
        loss = build(3).double()
        torch.manual_seed(2)
        values.append((loss(*pair), loss.train_discriminator(*pair)))
        parameters.append(parameters_of(loss))
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
    torch.testing.assert_close(parameters[0], parameters[1], rtol=1e-9, atol=1e-12)


# --- the critic's part


def slow_penalty(critic: nn.Module, mix: Tensor, step: float = 1e-6) -> float:
    """Mean of ``(||gradient|| - 1)^2`` by central differences."""
    total = 0.0
    for b in range(len(mix)):
        squares = 0.0
        for place in np.ndindex(*mix.shape[1:]):
            values = []
            for sign in (1, -1):
                moved = mix[b : b + 1].clone()
                moved[(0, *place)] += sign * step
                values.append(critic(moved).item())
            squares += ((values[0] - values[1]) / (2 * step)) ** 2
        total += (math.sqrt(squares) - 1) ** 2
    return total / len(mix)


@pytest.mark.parametrize("penalty", (0.0, 10.0))
@pytest.mark.parametrize("size", ((4, 5), (2, 3, 4)))
def test_critics_loss_equals_finite_differences(size: tuple[int, ...], penalty: float) -> None:
    loss = build(3, gradient_penalty=penalty).double()
    student, teacher = logits(3, 3, *size).double(), logits(3, 3, *size, seed=1).double()
    torch.manual_seed(4)
    share = torch.rand(3, *[1] * (len(size) + 1), dtype=torch.float64)
    of_student, of_teacher = slow_probabilities(student), slow_probabilities(teacher)
    mix = share * of_student + (1 - share) * of_teacher
    expected = loss.critic(of_student).mean().item() - loss.critic(of_teacher).mean().item()
    expected += penalty * slow_penalty(loss.critic, mix)
    torch.manual_seed(4)
    assert loss.train_discriminator(student, teacher).item() == pytest.approx(expected, abs=1e-7)


def test_a_step_of_a_linear_critic_by_hand() -> None:
    # Without stages D(x) is the mean over N positions of w.x: its gradient has the length |w| / sqrt(N), whatever x is.
    # The first step of Adam goes by the learning rate against the sign of every component.
    loss = build(3, channels=(), learning_rate=0.01).double()
    (weight,) = parameters_of(loss)
    student, teacher = logits(2, 3, 4, 5).double(), logits(2, 3, 4, 5, seed=1).double()
    difference = (student.softmax(dim=1) - teacher.softmax(dim=1)).mean(dim=(0, 2, 3))
    length = weight.norm() / math.sqrt(20)
    value = loss.train_discriminator(student, teacher)
    expected = weight[0] @ difference + 10 * (length - 1) ** 2
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    gradient = difference + 20 * (length - 1) * weight[0] / (weight.norm() * math.sqrt(20))
    torch.testing.assert_close(loss.critic.head.weight[0], weight[0] - 0.01 * gradient.sign(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("constant", (True, False))
def test_a_critic_without_a_slope_is_finite(constant: bool) -> None:
    # The length of its gradient is 0, where a length has no derivative.
    loss = build()
    loss.critic.head.weight.zero_()
    shape = (2, 1, 8, 8)
    pair = (torch.zeros(shape), torch.zeros(shape)) if constant else (logits(*shape), logits(*shape, seed=1))
    assert loss.train_discriminator(*pair).item() == pytest.approx(10)
    assert all(torch.isfinite(parameter).all() for parameter in loss.parameters())


def scans(count: int, noise: float) -> Tensor:
    """Logits of a square somewhere in the image; noise makes holes in it."""
    result = torch.full((count, 1, 16, 16), -4.0)
    for image in result[:, 0]:
        row, column = torch.randint(0, 9, (2,)).tolist()
        image[row : row + 7, column : column + 7] = 4 - 8 * (torch.rand(7, 7) < noise).float()
    return result


@pytest.fixture(scope="module")
def trained() -> HolisticAdversarialLoss:
    loss = build(channels=(8, 16), learning_rate=2e-3)
    for _ in range(100):
        loss.train_discriminator(scans(8, 0.3), scans(8, 0.0))
    return loss


def test_a_trained_critic_ranks_teachers_above_students(trained: HolisticAdversarialLoss) -> None:
    torch.manual_seed(9)
    of_student = torch.stack([trained(scans(1, 0.3), scans(1, 0.0)) for _ in range(20)])
    of_teacher = torch.stack([trained(scans(1, 0.0), scans(1, 0.0)) for _ in range(20)])
    # The loss is the judgement with the opposite sign.
    assert of_teacher.max() < of_student.min()


def test_a_step_of_the_student_down_its_gradient_lowers_the_loss(trained: HolisticAdversarialLoss) -> None:
    torch.manual_seed(9)
    student, teacher = scans(4, 0.3).requires_grad_(), scans(4, 0.0)
    value = trained(student, teacher)
    value.backward()
    assert student.grad is not None
    with torch.no_grad():
        moved = student - 0.01 * student.grad / student.grad.norm()
    assert trained(moved, teacher).item() < value.item()


def test_no_other_optimiser_and_no_backward_pass_of_the_student_reaches_the_critic() -> None:
    loss = build()
    student, teacher = logits(2, 1, 8, 8).requires_grad_(), logits(2, 1, 8, 8, seed=1).requires_grad_()
    for _ in range(2):
        loss(student, teacher).backward()
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in loss.parameters())
        loss.train_discriminator(student, teacher)
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in loss.parameters())
    assert teacher.grad is None


def test_training_the_critic_leaves_the_student_alone() -> None:
    loss = build()
    student, teacher = logits(2, 1, 8, 8).requires_grad_(), logits(2, 1, 8, 8, seed=1)
    value = loss.train_discriminator(student, teacher)
    assert student.grad is None and not value.requires_grad


@pytest.mark.parametrize("through_file", (True, False))
def test_a_resumed_critic_goes_on_bit_by_bit(through_file: bool) -> None:
    losses = nn.ModuleDict({"holistic": build()}), nn.ModuleDict({"holistic": build(learning_rate=1e-5)})
    batch = logits(2, 1, 8, 8), logits(2, 1, 8, 8, seed=1)
    for _ in range(3):
        losses[0]["holistic"].train_discriminator(*batch)
    state = losses[0].state_dict()
    if through_file:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    losses[1].load_state_dict(state)
    for _ in range(2):
        after = []
        for loss in losses:
            torch.manual_seed(6)
            loss["holistic"].train_discriminator(*batch)
            after.append(parameters_of(loss))
        assert all(map(torch.equal, *after))
    fresh = build()
    fresh.critic.load_state_dict(losses[0]["holistic"].critic.state_dict())
    for loss in (fresh, losses[0]["holistic"]):
        torch.manual_seed(6)
        loss.train_discriminator(*batch)
    assert not torch.equal(parameters_of(fresh)[0], parameters_of(losses[0])[0]), "the optimiser's state must matter"


def test_the_optimiser_follows_its_critic() -> None:
    loss = build()
    batch = logits(2, 1, 8, 8).double(), logits(2, 1, 8, 8, seed=1).double()
    loss.train_discriminator(*batch)
    loss.double()
    moments = [tensor for state in loss.optimizer.state.values() for name, tensor in state.items() if "exp" in name]
    assert len(moments) == 2 * len(list(loss.parameters())) and all(m.dtype == torch.float64 for m in moments)
    before = parameters_of(loss)
    assert loss.train_discriminator(*batch).dtype == torch.float64
    assert not torch.equal(before[0], parameters_of(loss)[0])


@pytest.mark.parametrize("out_channels", (1, 3))
@pytest.mark.parametrize("how", ("inference", "autocast", "half"))
def test_critic_learns_the_same_from_inference_mode_and_under_autocast(out_channels: int, how: str) -> None:
    batch = [logits(2, out_channels, 8, 8, seed=seed).bfloat16().float() for seed in (0, 1)]
    results = []
    for special in (False, True):
        loss = build(out_channels)
        torch.manual_seed(3)
        with torch.inference_mode(special and how == "inference"):
            pair = [x.bfloat16() if special and how == "half" else x.clone() for x in batch]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=special and how == "autocast"):
            value = loss.train_discriminator(*pair)
        results.append((value, parameters_of(loss)))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    (
        ({"out_channels": 0}, "out_channels=0"),
        ({"channels": (8, 0)}, r"channels=\(8, 0\)"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"gradient_penalty": -1.0}, "gradient_penalty=-1.0"),
    ),
)
def test_meaningless_arguments_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        HolisticAdversarialLoss(**{"out_channels": 1, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    (
        ((2, 3, 4, 4), (2, 5, 4, 4), "as many outputs as the teacher"),
        ((2, 3, 4, 4), (2, 3, 4, 4), "out_channels=3"),
        ((2, 1, 4, 4), (3, 1, 4, 4), "same batch"),
        ((2, 1, 4, 4), (2, 1, 4, 4, 4), "spatial axes"),
    ),
)
def test_pairs_that_do_not_correspond_are_refused(
    student: tuple[int, ...], teacher: tuple[int, ...], words: str
) -> None:
    loss = build()
    for method in (loss, loss.train_discriminator):
        with pytest.raises(UserError, match=words):
            method(torch.zeros(student), torch.zeros(teacher))
