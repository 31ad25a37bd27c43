"""What the tests of the losses share: the comparison with a slow implementation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Function = Callable[..., Tensor]


@pytest.fixture
def agree() -> Callable[..., None]:
    """``agree(loss, slow, student, *others)``: the same value and the same gradient of the student, to 1e-9.

    ``slow`` is written in plain loops over single elements, so that autograd differentiates it independently; all
    tensors are float64.
    """

    def check(loss: Function, slow: Function, student: Tensor, *others: Tensor) -> None:
        values, gradients = [], []
        for function in (loss, slow):
            leaf = student.detach().clone().requires_grad_()
            value = function(leaf, *others)
            (gradient,) = torch.autograd.grad(value, leaf)
            values.append(value.detach())
            gradients.append(gradient)
        assert values[0].dtype == torch.float64
        torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-9)
        torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-9)
        assert gradients[1].abs().max() > 1e-6, "a test that compares zeros shows nothing"

    return check
