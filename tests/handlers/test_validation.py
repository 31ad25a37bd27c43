"""When a training is validated."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.engines import SupervisedEvaluator
from torch import nn

from medkd.handlers import LastEpochValidationHandler


@pytest.mark.parametrize(
    ("interval", "epochs", "validated"),
    [(1, 3, [1, 2, 3]), (2, 4, [2, 4]), (2, 5, [2, 4, 5]), (25, 40, [25, 40]), (9, 4, [4])],
)
def test_the_last_epoch_is_validated_once_whatever_the_interval(interval, epochs, validated):
    evaluator = SupervisedEvaluator(torch.device("cpu"), [], nn.Identity())
    asked: list[int] = []
    evaluator.run = asked.append
    trainer = Engine(lambda engine, batch: None)
    LastEpochValidationHandler(interval, evaluator).attach(trainer)
    trainer.run([0, 1], max_epochs=epochs)
    assert asked == validated


def test_a_training_that_goes_on_is_validated_at_its_new_end():
    evaluator = SupervisedEvaluator(torch.device("cpu"), [], nn.Identity())
    asked: list[int] = []
    evaluator.run = asked.append
    trainer = Engine(lambda engine, batch: None)
    LastEpochValidationHandler(2, evaluator).attach(trainer)
    trainer.run([0], max_epochs=3)
    trainer.run([0], max_epochs=5)
    assert asked == [2, 3, 4, 5]
