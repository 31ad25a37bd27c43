"""Prepared slices: cache, datasets, sampler."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import torch

from medkd.data import (
    DecathlonTask,
    Preprocessing,
    SliceDataset,
    SliceSampler,
    SliceVolume,
    VolumeDataset,
    load_volumes,
)
from medkd.data import slices as slices_module
from medkd.errors import UserError

PREPROCESSING = Preprocessing(size=32)


def volumes_of(labels: list[list[int]]) -> list[SliceVolume]:
    """Volumes of 4 x 4 slices; a 1 marks a slice with foreground. Slice k of volume v holds the value 10 v + k."""
    made = []
    for number, flags in enumerate(labels):
        ones = np.ones((len(flags), 4, 4))
        values = 10 * number + np.arange(len(flags))
        made.append(
            SliceVolume(
                f"v{number}",
                (ones * values[:, None, None]).astype(np.float16),
                (ones * np.array(flags)[:, None, None]).astype(np.uint8),
            )
        )
    return made


def test_prepared_once(tiny_task, tmp_path, monkeypatch):
    task = DecathlonTask.load(tiny_task)
    calls = []
    prepare = slices_module._prepare
    monkeypatch.setattr(slices_module, "_prepare", lambda *a: calls.append(1) or prepare(*a))
    first = load_volumes(task.cases[:2], PREPROCESSING, [0, 1], tmp_path)
    again = load_volumes(task.cases[:2], PREPROCESSING, [0, 1], tmp_path)
    assert len(calls) == 2
    assert isinstance(again[0].image, np.memmap)
    np.testing.assert_array_equal(first[1].image, again[1].image)
    load_volumes(task.cases[:2], Preprocessing(size=48), [0, 1], tmp_path)
    assert len(calls) == 4


def test_a_changed_file_is_prepared_again(tiny_task, tmp_path):
    shutil.copytree(tiny_task, tmp_path / "task")
    task = DecathlonTask.load(tmp_path / "task")
    before = load_volumes(task.cases[:1], PREPROCESSING, [0, 1], tmp_path / "cache")[0].image.copy()
    shutil.copy(task.cases[1].image, task.cases[0].image)
    os.utime(task.cases[0].image, ns=(1, 1))
    after = load_volumes(task.cases[:1], PREPROCESSING, [0, 1], tmp_path / "cache")[0].image
    assert not np.array_equal(before, after)


def test_a_bad_pair_leaves_nothing_in_the_cache(tiny_task, tmp_path):
    task = DecathlonTask.load(tiny_task)
    with pytest.raises(UserError, match="undeclared"):
        load_volumes(task.cases[:1], PREPROCESSING, [0], tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_items(tiny_task, tmp_path):
    volume = load_volumes(DecathlonTask.load(tiny_task).cases[:1], PREPROCESSING, [0, 1], tmp_path)[0]
    item = SliceDataset([volume])[2]
    assert item["image"].shape == (3, 32, 32) and item["image"].dtype == torch.float32
    np.testing.assert_array_equal(item["image"][1].numpy(), volume.image[2].astype(np.float32))
    np.testing.assert_array_equal(item["image"][2].numpy(), volume.image[3].astype(np.float32))
    np.testing.assert_array_equal(item["label"][0].numpy(), volume.label[2])
    whole = VolumeDataset([volume])[0]
    np.testing.assert_array_equal(whole["image"][..., 2].numpy(), item["image"].numpy())
    np.testing.assert_array_equal(whole["label"][..., 2].numpy(), item["label"].numpy())


def test_slices_do_not_reach_into_the_next_volume():
    dataset = SliceDataset(volumes_of([[1, 0], [0, 1]]))
    assert [item["image"][:, 0, 0].tolist() for item in dataset] == [[0, 0, 1], [0, 1, 1], [10, 10, 11], [10, 11, 11]]


def test_sampler_takes_all_foreground_and_the_wanted_share_of_the_rest():
    dataset = SliceDataset(volumes_of([[1, 0, 0, 1], [0, 0, 0, 1, 0, 0]]))
    sampler = SliceSampler(dataset, empty_per_foreground=1.0, seed=3)
    drawn = []
    for epoch in range(30):
        sampler.set_epoch(epoch)
        chosen = list(sampler)
        assert len(chosen) == len(set(chosen)) == len(sampler) == 6
        assert {0, 3, 7} <= set(chosen)
        drawn.append(chosen)
    assert set().union(*drawn) == set(range(10)), "every empty slice has its turn"
    assert len({tuple(order) for order in drawn}) > 20
    sampler.set_epoch(4)
    assert list(sampler) == drawn[4]


@pytest.mark.parametrize(("share", "expected"), [(None, 10), (0.0, 3), (0.5, 5), (100.0, 10)])
def test_sampler_length(share, expected):
    dataset = SliceDataset(volumes_of([[1, 0, 0, 1], [0, 0, 0, 1, 0, 0]]))
    assert len(SliceSampler(dataset, share)) == expected


def test_nothing_to_train_on_is_told():
    with pytest.raises(UserError, match="no volume"):
        SliceDataset([])
    with pytest.raises(UserError, match="no training slice"):
        SliceSampler(SliceDataset(volumes_of([[0, 0]])), 1.0)
