from __future__ import annotations

import numpy as np
import pytest
import torch

from medkd.losses.maps import resize_to_grid


def slow_axis(values: np.ndarray, length: int) -> np.ndarray:
    """Cells of the new grid from their borders where it shrinks; positions of their centres where it grows."""
    old, new = len(values), []
    for i in range(length):
        if length <= old:
            first, last = i * old // length, -(-(i + 1) * old // length)
            new.append(sum(values[first:last]) / (last - first))
        else:
            x = min(max((i + 0.5) * old / length - 0.5, 0.0), old - 1)
            left = min(int(x), old - 2) if old > 1 else 0
            right = min(left + 1, old - 1)
            new.append(values[left] + (x - left) * (values[right] - values[left]))
    return np.stack(new)


@pytest.mark.parametrize(
    ("size", "grid"),
    (
        ((8,), (3,)),
        ((6, 9), (4, 3)),
        ((3, 4), (7, 8)),
        ((8, 3), (3, 5)),
        ((4, 4, 5), (2, 6, 5)),
        ((1, 6), (4, 1)),
    ),
)
def test_resize_averages_axes_that_shrink_and_interpolates_those_that_grow(
    size: tuple[int, ...], grid: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = maps.numpy()
    for axis, length in enumerate(grid, start=2):
        if length != expected.shape[axis]:
            expected = np.moveaxis(slow_axis(np.moveaxis(expected, axis, 0), length), 0, axis)
    np.testing.assert_allclose(resize_to_grid(maps, grid).numpy(), expected, rtol=0, atol=1e-12)


def test_map_of_the_right_size_is_not_copied() -> None:
    maps = torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)
    assert resize_to_grid(maps, (4, 4)) is maps
