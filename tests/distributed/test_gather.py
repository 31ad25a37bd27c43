"""The gathered batch and its gradient, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from medkd.distributed import GlobalBatchLoss, broadcast_state, gather_batch, mean_over_processes, process_rank
from medkd.losses import DiceBCELoss, MultiTaskLoss


def whole(dtype: torch.dtype = torch.float64, shape: tuple[int, ...] = (4, 3, 5, 2)) -> torch.Tensor:
    return (10 * torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)


def own(x: torch.Tensor) -> torch.Tensor:
    return x.chunk(2)[process_rank()]


def gathered(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return gather_batch(own(whole(dtype, shape)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 3, 5, 2), (4, 1, 2, 3, 4)])
def test_batches_are_joined_in_the_order_of_ranks(in_two_processes, dtype, shape):
    for found in in_two_processes(gathered, dtype, shape):
        assert found.dtype == dtype
        assert torch.equal(found, whole(dtype, shape))


def gathered_forms() -> dict[str, torch.Tensor]:
    part = own(whole())
    with torch.inference_mode():
        inference = part + 0
    return {
        "channels_last": gather_batch(part.to(memory_format=torch.channels_last)),
        "strided": gather_batch(torch.cat([part, part], dim=-1)[..., ::2]),
        "meta": gather_batch(MetaTensor(part)),
        "inference": gather_batch(inference),
    }


def test_any_memory_and_kind_of_tensor_is_gathered(in_two_processes):
    expected = dict.fromkeys(("channels_last", "meta", "inference"), whole())
    expected["strided"] = torch.cat([whole(), whole()], dim=-1)[..., ::2]
    for found in in_two_processes(gathered_forms):
        assert type(found["meta"]) is torch.Tensor
        for name, tensor in expected.items():
            assert torch.equal(found[name], tensor), name


def gathered_nest() -> Any:
    part = own(whole())
    return gather_batch({"pair": (part, [part + 1]), "kind": "ct"})


def test_the_tensors_of_a_nest_are_gathered(in_two_processes):
    for found in in_two_processes(gathered_nest):
        assert found["kind"] == "ct" and isinstance(found["pair"], tuple)
        assert torch.equal(found["pair"][0], whole())
        assert torch.equal(found["pair"][1][0], whole() + 1)


def own_gradient(channels_last: bool) -> torch.Tensor:
    part = own(whole())
    part = (part.to(memory_format=torch.channels_last) if channels_last else part).requires_grad_()
    weights = torch.arange(whole().numel(), dtype=torch.float64).view(whole().shape)
    (weights * gather_batch(part)).sum().backward()
    return part.grad


@pytest.mark.parametrize("channels_last", [False, True])
def test_each_process_gets_the_gradient_of_its_part_times_two(in_two_processes, channels_last):
    weights = torch.arange(whole().numel(), dtype=torch.float64).view(whole().shape)
    found = in_two_processes(own_gradient, channels_last)
    assert torch.equal(torch.cat(found), 2 * weights)


def multitask_loss(pred: torch.Tensor, image: torch.Tensor, label: torch.Tensor, loss: nn.Module) -> Any:
    pred = pred.clone().requires_grad_()
    value = loss((pred[:, :1], pred[:, 1:]), {"image": image, "label": label})
    value.backward()
    return value.detach(), pred.grad


def own_multitask_loss() -> Any:
    loss = GlobalBatchLoss(MultiTaskLoss(DiceBCELoss()))
    pred, label = whole(), (whole()[:, :1] > 5).float()
    return multitask_loss(own(pred), own(pred[:, 1:] - 2), own(label), loss)


def test_a_loss_of_pairs_and_mappings_sees_the_whole_batch(in_two_processes):
    pred, label = whole(), (whole()[:, :1] > 5).float()
    value, gradient = multitask_loss(pred, pred[:, 1:] - 2, label, MultiTaskLoss(DiceBCELoss()))
    found = in_two_processes(own_multitask_loss)
    assert [float(part) for part, _ in found] == pytest.approx([float(value)] * 2, rel=1e-6)
    torch.testing.assert_close(torch.cat([part for _, part in found]), 2 * gradient)


def means() -> list[torch.Tensor]:
    return mean_over_processes([torch.full((2, 3), process_rank() + 1.0).half(), torch.tensor(4.0 * process_rank())])


def test_the_mean_of_tensors_over_processes(in_two_processes):
    for found in in_two_processes(means):
        assert torch.equal(found[0], torch.full((2, 3), 1.5)) and float(found[1]) == 2


def broadcast() -> dict[str, torch.Tensor]:
    torch.manual_seed(process_rank())
    module = nn.Sequential(nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last), nn.BatchNorm2d(3))
    module[1].running_mean.fill_(process_rank() + 5)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    broadcast_state(module)
    return before | {f"{name} after": value for name, value in module.state_dict().items()}


def test_all_get_the_parameters_and_buffers_of_the_main_process(in_two_processes):
    first, second = in_two_processes(broadcast)
    assert not torch.equal(first["0.weight"], second["0.weight"])
    for name in ("0.weight", "0.bias", "1.running_mean", "1.num_batches_tracked"):
        assert torch.equal(first[name], first[f"{name} after"])
        assert torch.equal(first[name], second[f"{name} after"])


def test_one_process_leaves_everything_as_it_is():
    x = MetaTensor(whole())
    assert gather_batch(x) is x
    assert torch.equal(mean_over_processes([whole(torch.float16)])[0], whole(torch.float16).float())
