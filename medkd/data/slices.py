"""Volumes as axial slices: prepared once, kept as memory-mapped arrays, indexed for training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from medkd.data.cache import cache_folder
from medkd.data.decathlon import Case
from medkd.data.nifti import check_pair, read_image, read_label
from medkd.data.transforms import PreparedScan, Preprocessing, stack_channels
from medkd.data.turns import RandTurnd
from medkd.distributed import is_main_process
from medkd.errors import UserError
from medkd.files import atomic_write


class SliceVolume:
    """One case as arrays of slices.

    Attributes:
        name: of the case.
        image: ``(Z, H, W)`` float16, 0 to 1; rows are the RAS x axis, columns the y axis.
        label: ``(Z, H, W)`` uint8, or None where the case has no label.
    """

    def __init__(self, name: str, image: np.ndarray, label: np.ndarray | None) -> None:
        self.name = name
        self.image = image
        self.label = label

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the image, so that what is known of its slices can be found again."""
        digest = hashlib.sha256(f"{self.image.dtype} {self.image.shape}".encode())
        digest.update(np.ascontiguousarray(self.image).data)
        return digest.hexdigest()[:16]

    @classmethod
    def load(cls, case: Case, preprocessing: Preprocessing, label_values: Sequence[int], cache: Path) -> SliceVolume:
        """Read the prepared slices of a case, preparing them first if the files or the preprocessing are new.

        Args:
            case: image and, perhaps, label.
            preprocessing: how to prepare.
            label_values: values a label may hold.
            cache: folder for the arrays.

        Raises:
            UserError: a file cannot be used, or the cache cannot be written.
        """
        folder = cache / "slices" / f"{case.name}-{_source_key(case, preprocessing, label_values)}"
        files = {"image": folder / "image.npy"}
        if case.label is not None:
            files["label"] = folder / "label.npy"
        if not all(file.is_file() for file in files.values()):
            for key, array in _prepare(case, preprocessing, label_values).items():
                with atomic_write(files[key]) as temporary, temporary.open("wb") as stream:
                    np.save(stream, array)
        arrays = {key: np.load(file, mmap_mode="r", allow_pickle=False) for key, file in files.items()}
        return cls(case.name, arrays["image"], arrays.get("label"))


def _source_key(case: Case, preprocessing: Preprocessing, label_values: Sequence[int]) -> str:
    """Changes with the preprocessing, what a label may hold, and either file's path, size or time of change."""
    parts = [preprocessing.key(), str(sorted(label_values)) if case.label is not None else ""]
    for path in (case.image, case.label):
        if path is not None:
            try:
                stat = path.stat()
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror}): check the path.") from error
            parts += [str(path.resolve()), str(stat.st_size), str(stat.st_mtime_ns)]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _prepare(case: Case, preprocessing: Preprocessing, label_values: Sequence[int]) -> dict[str, np.ndarray]:
    image = read_image(case.image)
    label = None
    if case.label is not None:
        label = read_label(case.label)
        check_pair(image, label, label_values)
    prepared = preprocessing.apply(image, label)
    arrays = {"image": prepared.image.transpose(2, 0, 1).astype(np.float16)}
    if prepared.label is not None:
        arrays["label"] = prepared.label.transpose(2, 0, 1).astype(np.uint8)
    return arrays


def load_volumes(
    cases: Sequence[Case], preprocessing: Preprocessing, label_values: Sequence[int], cache: Path | None = None
) -> list[SliceVolume]:
    """Prepare all cases, with a progress bar where any is new; see :meth:`SliceVolume.load`."""
    folder = cache_folder() if cache is None else Path(cache)
    bar = tqdm(cases, desc="preparing slices", unit="volume", leave=False, delay=1.0, disable=not is_main_process())
    return [SliceVolume.load(case, preprocessing, label_values, folder) for case in bar]


class SliceDataset(Dataset[dict[str, Any]]):
    """Every slice of some volumes as an item ``image (C, H, W)``, ``label (1, H, W)``.

    Unless the transform changes more than how a slice is turned, ``slice`` says which one it is, by the content of the
    volume, ``channels`` and row, so that what is known of it can be looked up.

    Args:
        volumes: prepared cases; without label the item has none.
        channels: see :class:`~medkd.data.transforms.Preprocessing`.
        transform: augmentation on the item, for example MONAI dictionary transforms.
    """

    def __init__(
        self,
        volumes: Sequence[SliceVolume],
        channels: str = "neighbours",
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        if not volumes:
            raise UserError("there is no volume to train on: check the split of the data set.")
        self.volumes = list(volumes)
        self.channels = channels
        self.transform = transform
        self.index = [(volume, row) for volume in self.volumes for row in range(len(volume.image))]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> dict[str, Any]:
        volume, row = self.index[position]
        item: dict[str, Any] = {"image": torch.from_numpy(stack_channels(volume.image, row, self.channels))}
        if volume.label is not None:
            item["label"] = torch.from_numpy(volume.label[row][None].astype(np.float32))
        if self.transform is None or isinstance(self.transform, RandTurnd):
            item["slice"] = f"{volume.fingerprint}-{self.channels}/{row}"
        return item if self.transform is None else self.transform(item)

    def foreground(self) -> np.ndarray:
        """For each slice, whether any label other than background is on it; all true without labels."""
        flags: list[np.ndarray] = []
        for volume in self.volumes:
            if volume.label is None:
                flags.append(np.ones(len(volume.image), dtype=bool))
            else:
                flags.append(np.asarray(volume.label.reshape(len(volume.label), -1).any(axis=1)))
        return np.concatenate(flags)


class SliceSampler(Sampler[int]):
    """Shuffles the slices of an epoch; can leave most empty slices out.

    The order depends on the seed and the epoch alone, so a resumed run sees what an uninterrupted one sees.

    Args:
        dataset: the slices.
        empty_per_foreground: how many empty slices to draw for each slice with foreground, anew in every epoch; None
            takes all.
        seed: of the shuffle.
    """

    def __init__(self, dataset: SliceDataset, empty_per_foreground: float | None = None, seed: int = 0) -> None:
        foreground = dataset.foreground()
        self.foreground = np.flatnonzero(foreground)
        self.empty = np.flatnonzero(~foreground)
        wanted = len(self.empty)
        if empty_per_foreground is not None:
            wanted = min(wanted, round(empty_per_foreground * len(self.foreground)))
        self.empty_count = wanted
        if len(self) == 0:
            raise UserError("no training slice shows a label: raise empty_per_foreground or check the labels.")
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order :meth:`__iter__` gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.foreground) + self.empty_count

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        chosen = np.concatenate([self.foreground, random.choice(self.empty, self.empty_count, replace=False)])
        return iter(random.permutation(chosen).tolist())


class VolumeDataset(Dataset[dict[str, Any]]):
    """Whole volumes for validation: ``image (C, H, W, Z)``, ``label (1, H, W, Z)``, ``name``."""

    def __init__(self, volumes: Sequence[SliceVolume], channels: str = "neighbours") -> None:
        if not volumes:
            raise UserError("there is no volume to validate on: check the split of the data set.")
        self.volumes = list(volumes)
        self.channels = channels

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, position: int) -> dict[str, Any]:
        volume = self.volumes[position]
        item: dict[str, Any] = {"image": volume_channels(volume.image, self.channels), "name": volume.name}
        if volume.label is not None:
            item["label"] = torch.from_numpy(volume.label.astype(np.float32)).permute(1, 2, 0)[None]
        return item


def volume_channels(slices: np.ndarray, channels: str) -> torch.Tensor:
    """All slices of a volume with their channels, ``(C, H, W, Z)``, from ``(Z, H, W)``."""
    stacked = np.stack([stack_channels(slices, row, channels) for row in range(len(slices))], axis=-1)
    return torch.from_numpy(stacked)


def scan_channels(prepared: PreparedScan, channels: str) -> torch.Tensor:
    """All slices of a prepared scan with their channels, ``(C, size, size, Z)``; see :func:`volume_channels`."""
    return volume_channels(prepared.image.transpose(2, 0, 1), channels)
