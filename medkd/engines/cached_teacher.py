"""A frozen teacher that is asked about every slice only once."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from medkd import __version__
from medkd.data.turns import turn, turn_back
from medkd.engines.frozen_teacher import FrozenTeacher
from medkd.engines.teacher_cache import TeacherCache
from medkd.errors import UserError
from medkd.losses.maps import resize_to_grid

Grid = tuple[int, ...] | None


class CachedTeacher:
    """Looks up what the teacher gives for a slice, and runs it on the slices it has not seen.

    What it returns is always what a file holds, float16 and averaged onto the grid that is enough for the losses, so
    that the first epoch equals the later ones: at most 2^-11 of a value is lost, or 2^-25 where it is below 2^-14. An
    entry is found by the teacher's weights, structure, code and precision, the tap, the grid, and the content of the
    slice, so a stale one never is.

    Slices may be flipped and rotated by quarter turns (:class:`~medkd.data.RandTurnd`): the outputs for the slice as it
    lies in the scan are then turned with it. No network gives exactly that for a turned slice; it is what the teacher
    says of the anatomy, whichever way round it is shown. Other augmentations are refused.

    Args:
        teacher: what to run.
        cache: where outputs are kept.
        precision: what else changes the teacher's outputs, such as autocast.
    """

    def __init__(self, teacher: FrozenTeacher, cache: TeacherCache, precision: str = "float32") -> None:
        self.teacher = teacher
        self.cache = cache
        self.key = f"{fingerprint(teacher.network)}-{teacher.device.type}-{precision}"
        self._told = False

    def __call__(
        self, image: torch.Tensor, batch: Mapping[str, Any], grids: Mapping[str | None, Grid]
    ) -> dict[str | None, torch.Tensor]:
        """The teacher's outputs for a batch.

        Args:
            image: ``(B, C, H, W)``, as the student sees it.
            batch: of :class:`~medkd.data.SliceDataset`: ``slice`` says which slices these are, ``turn`` how they were
                turned.
            grids: for every tap that was asked for (None: the logits) the grid onto which its map may be averaged, or
                None to have it as it is.

        Returns:
            Tap to map, float32.

        Raises:
            UserError: nobody knows which slices these are, or they were augmented in other ways.
        """
        if "slice" not in batch:
            raise UserError(
                "the teacher's outputs are kept for slices as they are or turned, and these are augmented in other "
                "ways: give --teacher_cache false to compute them anew in every step, or --augment turns."
            )
        turns = batch["turn"].tolist() if "turn" in batch else [0] * len(image)
        places = [name.split("/") for name in batch["slice"]]
        found = {
            tap: [self.cache.read(self._folder(tap, grid, volume), row) for volume, row in places]
            for tap, grid in grids.items()
        }
        missing = [number for number in range(len(places)) if any(maps[number] is None for maps in found.values())]
        if missing:
            unturned = torch.stack([turn_back(image[number], turns[number]) for number in missing])
            outputs = self.teacher(unturned)
            for tap, grid in grids.items():
                for number, array in zip(missing, _arrays(outputs[tap], grid), strict=True):
                    if found[tap][number] is None:
                        found[tap][number] = array
                        self._keep(self._folder(tap, grid, places[number][0]), places[number][1], array)
        return {tap: _batch(maps, turns, image.device) for tap, maps in found.items()}

    def _folder(self, tap: str | None, grid: Grid, volume: str) -> str:
        form = "full" if grid is None else "x".join(map(str, grid))
        # No module can be called like the place of the logits.
        return f"{self.key}/{tap or '@logits'}-{form}/{volume}"

    def _keep(self, folder: str, row: str, array: np.ndarray) -> None:
        if array.dtype == np.float16:
            self.cache.write(folder, row, array)
        elif not self._told:
            self._told = True
            warnings.warn(
                "some of the teacher's outputs are larger than float16 holds: they are computed anew in every epoch.",
                stacklevel=2,
            )


def fingerprint(network: nn.Module) -> str:
    """A hash of everything a network's output depends on: weights, structure, settings, code, and versions."""
    digest = hashlib.sha256(f"{network} {__version__} {torch.__version__}".encode())
    for module in network.modules():
        settings = {name: value for name, value in vars(module).items() if _is_plain(value)}
        # Whether it trains does not count: a teacher never does.
        digest.update(f"{type(module)} {sorted((settings | {'training': False}).items())}".encode())
    for kind in sorted({type(module) for module in network.modules()}, key=str):
        with contextlib.suppress(OSError, TypeError):  # Written at a prompt or compiled, it has no source.
            digest.update(inspect.getsource(kind).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _is_plain(value: Any) -> bool:
    """Whether an attribute of a module is a setting, which reads the same in every process."""
    if isinstance(value, (tuple, list)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _arrays(output: torch.Tensor, grid: Grid) -> list[np.ndarray]:
    """The maps of a batch in the form they are kept, ``(*spatial, C)`` in float16; float32 where that is too narrow."""
    if grid is not None:
        output = resize_to_grid(output, [min(pair) for pair in zip(output.shape[2:], grid, strict=True)])
    # Channels last, as convolutions leave them and the losses read them.
    output = output.movedim(1, -1).contiguous()
    halves = output.half().cpu().numpy()
    return [
        half if np.isfinite(half).all() else full.float().cpu().numpy()
        for half, full in zip(halves, output, strict=True)
    ]


def _batch(maps: Sequence[np.ndarray | None], turns: Sequence[int], device: torch.device) -> torch.Tensor:
    arrays = np.stack([array for array in maps if array is not None])
    stacked = torch.from_numpy(arrays).to(device).float().movedim(-1, 1)
    for number, code in enumerate(turns):
        if code and stacked.ndim != 4:
            raise UserError(
                f"a map of {tuple(stacked.shape[1:])} has no rows and columns to turn with its slice: tap another "
                "layer, or give --augment false or --teacher_cache false."
            )
        if code:
            stacked[number] = turn(stacked[number], code)
    return stacked
