"""The teacher's training step."""

from __future__ import annotations

import pytest
import torch
from monai.engines import SupervisedTrainer
from torch.nn import functional as F

from medkd.engines import PrepareMultiTaskBatch
from medkd.losses import DiceBCELoss, MultiTaskLoss
from medkd.networks import MultiTaskUNet, UNet


def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {"image": torch.rand(4, 3, 16, 16), "label": (torch.rand(4, 1, 16, 16) > 0.5).float()}


def step(network: torch.nn.Module, data: dict[str, torch.Tensor]) -> float:
    engine = SupervisedTrainer(
        device="cpu",
        max_epochs=1,
        train_data_loader=[data],
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=MultiTaskLoss(DiceBCELoss(), reconstruction_weight=0.2),
        prepare_batch=PrepareMultiTaskBatch(network),
        decollate=False,
    )
    engine.run()
    return float(engine.state.output["loss"].detach())


def test_one_forward_pass_gives_both_terms():
    network = MultiTaskUNet(channels=(4, 6, 8))
    data = batch()
    logits, reconstruction = network(data["image"], reconstruct=True)
    expected = DiceBCELoss()(logits, data["label"]) + 0.2 * F.mse_loss(reconstruction, data["image"])
    calls = []
    network.bottleneck.register_forward_hook(lambda *_: calls.append(1))
    assert step(network, data) == pytest.approx(float(expected), rel=1e-5)
    assert calls == [1]


def test_without_reconstruction_it_is_the_segmentation_loss():
    network = UNet(channels=(4, 6, 8))
    data = batch()
    assert step(network, data) == pytest.approx(float(DiceBCELoss()(network(data["image"]), data["label"])), rel=1e-5)


def test_without_label_it_is_the_reconstruction_alone():
    network = MultiTaskUNet(channels=(4, 6, 8))
    data = batch()
    expected = 0.2 * F.mse_loss(network(data["image"], reconstruct=True)[1], data["image"])
    assert step(network, {"image": data["image"]}) == pytest.approx(float(expected), rel=1e-5)
