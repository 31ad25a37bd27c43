"""What augmentations do to a slice, measured on a disc."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import get_track_meta

from medkd.data import slice_augmentation
from medkd.data.augmentation import RandThinSlicesd
from medkd.errors import UserError

SIZE = 64


def disc() -> dict[str, torch.Tensor]:
    """A disc of radius 16 left of the middle, of label 2, whose three channels differ; 0.6 within and 0.3 around."""
    x, y = np.mgrid[:SIZE, :SIZE]
    inside = torch.from_numpy((x - 24) ** 2 + (y - 32) ** 2 <= 16**2)[None]
    image = torch.where(inside, 0.6, 0.3) + torch.tensor([0.0, 0.01, 0.02])[:, None, None]
    return {"image": image.float(), "label": 2.0 * inside.float()}


def drawn(augment: bool | str, count: int = 60) -> list[dict[str, torch.Tensor]]:
    transform = slice_augmentation(augment, SIZE)
    transform.set_random_state(0)
    return [transform(disc()) for _ in range(count)]


@pytest.mark.parametrize(("augment", "smallest", "largest", "shift"), [(True, 0.7, 1.45, 6), ("strong", 0.5, 1.9, 9)])
def test_the_disc_is_of_another_size_at_another_place_and_never_on_the_other_side(augment, smallest, largest, shift):
    items = drawn(augment)
    areas = np.array([float((item["label"] > 0).sum()) for item in items]) / float((disc()["label"] > 0).sum())
    assert smallest < areas.min() < 0.9 and 1.1 < areas.max() < largest
    centres = np.array([np.argwhere(item["label"][0].numpy() > 0).mean(axis=0) for item in items])
    assert (centres[:, 0] < SIZE / 2).all() and np.abs(centres - (24, 32)).max() < shift + 3
    assert all(set(item["label"].unique().tolist()) <= {0.0, 2.0} for item in items)
    assert all(item["image"].shape == (3, SIZE, SIZE) and type(item["image"]) is torch.Tensor for item in items)


@pytest.mark.parametrize("augment", [True, "strong"])
def test_image_and_label_move_together(augment):
    for item in drawn(augment, 20):
        inside, middle = item["label"][0] > 0, item["image"][1]
        around = ~inside & (item["image"][1] > 0.15)
        assert middle[inside].mean() > middle[around].mean() + 0.1


@pytest.mark.parametrize("augment", [True, "strong"])
def test_no_history_is_kept_and_the_setting_of_others_stays(augment):
    tracked = get_track_meta()
    assert all(set(item) == {"image", "label"} for item in drawn(augment, 5))
    assert get_track_meta() is tracked


def test_strong_is_noisier_and_shows_thin_slices():
    def noise(items):
        return max(float(item["image"][1][22:26, 30:34].std()) for item in items)

    assert noise(drawn("strong")) > 3 * noise(drawn(True)) + 0.01
    same = [torch.equal(item["image"][0], item["image"][2]) for item in drawn("strong")]
    assert 0 < sum(same) < 20
    assert not any(torch.equal(item["image"][0], item["image"][2]) for item in drawn(True))


def test_strong_stays_within_the_window():
    items = drawn("strong", 100)
    assert min(float(item["image"].min()) for item in items) == 0.0
    assert all(float(item["image"].max()) <= 1.0 for item in items)


def test_strong_changes_the_size_more_than_the_shape():
    extents = [np.argwhere(item["label"][0].numpy() > 0) for item in drawn("strong", 100)]
    sides = np.array([found.max(axis=0) - found.min(axis=0) + 1 for found in extents], float)
    shape, size = np.log(sides[:, 0] / sides[:, 1]), np.log(sides.prod(axis=1)) / 2
    assert 0.02 < np.abs(shape).max() < 0.25
    assert size.std() > 1.5 * shape.std()


def test_thin_slices():
    item = disc()
    thin = RandThinSlicesd("image", prob=1.0)(item)
    assert all(torch.equal(channel, item["image"][1]) for channel in thin["image"])
    assert thin["label"] is item["label"] and not torch.equal(item["image"][0], item["image"][1])
    assert RandThinSlicesd("image", prob=0.0)(item)["image"] is item["image"]


@pytest.mark.parametrize("augment", [True, "strong"])
def test_a_slice_without_label(augment):
    item = slice_augmentation(augment, SIZE)({"image": disc()["image"]})
    assert item["image"].shape == (3, SIZE, SIZE) and "label" not in item


def test_no_augmentation():
    assert slice_augmentation(False, SIZE) is None


@pytest.mark.parametrize("augment", ["weak", 1, None])
def test_what_is_no_augmentation(augment):
    with pytest.raises(UserError, match="choose true, false, strong or turns"):
        slice_augmentation(augment, SIZE)
