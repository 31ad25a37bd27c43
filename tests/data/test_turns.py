"""Flips and quarter turns, and which slices still say which they are."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Identityd
from torch.utils.data import DataLoader

from medkd.data import RandTurnd, SliceDataset, SliceVolume, slice_augmentation
from medkd.data.turns import TURNS, turn, turn_back
from medkd.errors import UserError

CODES = range(TURNS)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def volumes(count: int = 2, labelled: bool = True) -> list[SliceVolume]:
    random = np.random.default_rng(0)
    return [
        SliceVolume(
            f"v{number}",
            random.random((4, 8, 8)).astype(np.float16),
            random.integers(0, 3, (4, 8, 8)).astype(np.uint8) if labelled else None,
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, [[1, 2], [3, 4]]),
        (1, [[2, 4], [1, 3]]),
        (2, [[4, 3], [2, 1]]),
        (3, [[3, 1], [4, 2]]),
        (4, [[2, 1], [4, 3]]),
        (5, [[1, 3], [2, 4]]),
        (6, [[3, 4], [1, 2]]),
        (7, [[4, 2], [3, 1]]),
    ],
)
def test_every_turn_by_hand(code, expected):
    array = torch.tensor([[1, 2], [3, 4]])
    assert turn(array, code).tolist() == expected
    assert turn(array.expand(2, 3, 2, 2), code).tolist() == [[expected] * 3] * 2, "only the last two axes"


@pytest.mark.parametrize("code", CODES)
def test_turning_back_undoes_it(code):
    for array in (noise(2, 3, 5, 5), noise(1, 4, 6)):
        assert torch.equal(turn_back(turn(array, code), code), array)
        assert torch.equal(turn(turn_back(array, code), code), array)


def test_a_turn_is_no_view_that_writes_into_the_original():
    array = noise(3, 4, 4)
    before = array.clone()
    for code in CODES:
        if code:
            turn(array, code).zero_()
    assert torch.equal(array, before)


def test_the_eight_turns_are_all_there_are():
    """Distinct, and one after the other they give no ninth: the symmetries of a square."""
    array = noise(3, 3)
    images = [turn(array, code).tolist() for code in CODES]
    assert all(images.count(image) == 1 for image in images)
    table = [[images.index(turn(turn(array, first), second).tolist()) for second in CODES] for first in CODES]
    assert all(sorted(row) == list(CODES) for row in table), "every turn can be made good by another"
    assert table != [list(column) for column in zip(*table, strict=True)], "their order matters"


@pytest.mark.parametrize("code", CODES)
def test_averaging_onto_a_grid_and_turning_can_be_exchanged(code):
    array = noise(2, 3, 16, 16)
    for grid in (1, 3, 4, 7):
        average = torch.nn.functional.adaptive_avg_pool2d
        torch.testing.assert_close(average(turn(array, code), grid), turn(average(array, grid), code))


def test_image_and_label_are_turned_alike_and_the_turn_is_noted():
    transform = RandTurnd(("image", "label")).set_random_state(0)
    item = {"image": noise(3, 6, 6), "label": (noise(1, 6, 6) > 0.5).float(), "name": "x"}
    before = {key: value.clone() for key, value in item.items() if key != "name"}
    codes = Counter()
    for _ in range(200):
        turned = transform(item)
        codes[turned["turn"]] += 1
        assert turned["name"] == "x"
        for key, array in before.items():
            assert torch.equal(turned[key], turn(array, turned["turn"]))
            assert torch.equal(item[key], array), "the item itself stays"
    assert set(codes) == set(CODES)
    assert all(isinstance(code, int) for code in codes)
    # 200 draws of 8: 25 each, with a standard deviation of 4.7.
    assert min(codes.values()) >= 8 and max(codes.values()) <= 45


def test_the_random_state_decides():
    item = {"image": noise(1, 4, 4)}

    def codes(seed: int) -> list[int]:
        transform = RandTurnd("image").set_random_state(seed)
        return [transform(item)["turn"] for _ in range(20)]

    assert codes(1) == codes(1)
    assert codes(1) != codes(2)


@pytest.mark.parametrize(("prob", "low", "high"), [(0.0, 0, 0), (0.4, 45, 95), (1.0, 160, 195)])
def test_the_share_of_turned_items(prob, low, high):
    """Of turned ones one in eight stays as it is: 200 items with prob 0.4 have about 70 that differ."""
    transform = RandTurnd("image", prob=prob).set_random_state(0)
    item = {"image": noise(1, 4, 4)}
    turned = [transform(item) for _ in range(200)]
    assert low <= sum(one["turn"] != 0 for one in turned) <= high
    assert all(torch.equal(one["image"], item["image"]) for one in turned if one["turn"] == 0)


def test_what_is_not_square_is_told():
    with pytest.raises(UserError, match=r"\(4, 6\) pixels cannot be turned: make it square"):
        RandTurnd("image")({"image": noise(1, 4, 6)})


def test_a_missing_label_is_an_error_unless_allowed():
    item = {"image": noise(1, 4, 4)}
    with pytest.raises(KeyError):
        RandTurnd(("image", "label"))(item)
    assert set(RandTurnd(("image", "label"), allow_missing_keys=True)(item)) == {"image", "turn"}


def test_slices_say_which_they_are():
    made = volumes()
    names = [item["slice"] for item in SliceDataset(made)]
    assert len(set(names)) == len(names) == 8
    assert [name.split("/")[1] for name in names] == ["0", "1", "2", "3"] * 2
    assert len({name.split("/")[0] for name in names}) == 2


def changed(volume: SliceVolume) -> SliceVolume:
    image = volume.image.copy()
    image[3, 0, 0] += 1
    return SliceVolume(volume.name, image, volume.label)


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        (lambda volume: SliceDataset([SliceVolume("renamed", volume.image.copy(), None)]), True),
        (lambda volume: SliceDataset([volume], transform=RandTurnd(("image", "label"))), True),
        (lambda volume: SliceDataset([volumes()[1], volume][::-1]), True),
        (lambda volume: SliceDataset([SliceVolume("v0", np.asfortranarray(volume.image), None)]), True),
        (lambda volume: SliceDataset([changed(volume)]), False),
        (lambda volume: SliceDataset([SliceVolume("v0", volume.image.astype(np.float32), None)]), False),
        (lambda volume: SliceDataset([SliceVolume("v0", volume.image.reshape(4, 4, 16), None)]), False),
        (lambda volume: SliceDataset([volume], channels="replicated"), False),
    ],
)
def test_the_content_says_which_slice_it_is(other, is_same):
    volume = volumes()[0]
    assert (other(volume)[0]["slice"] == SliceDataset([volume])[0]["slice"]) == is_same


@pytest.mark.parametrize(
    ("transform", "keys"),
    [
        (None, {"image", "label", "slice"}),
        (RandTurnd(("image", "label")), {"image", "label", "slice", "turn"}),
        (Identityd("image"), {"image", "label"}),
        (lambda item: item, {"image", "label"}),
        (Compose([RandTurnd(("image", "label"))]), {"image", "label", "turn"}),
        (slice_augmentation(True, 8), {"image", "label"}),
        (slice_augmentation("strong", 8), {"image", "label"}),
    ],
)
def test_only_slices_that_are_at_most_turned_say_which_they_are(transform, keys):
    item = SliceDataset(volumes(), transform=transform)[0]
    assert {key for key in item if not key.endswith("_transforms")} == keys


def test_a_turned_slice_is_the_slice_turned():
    plain = SliceDataset(volumes())
    turned = SliceDataset(volumes(), transform=RandTurnd(("image", "label")).set_random_state(0))
    codes = set()
    for position in range(len(plain)):
        before, after = plain[position], turned[position]
        codes.add(after["turn"])
        assert after["slice"] == before["slice"]
        for key in ("image", "label"):
            assert torch.equal(after[key], turn(before[key], after["turn"]))
    assert len(codes) > 2


def test_a_batch_holds_the_names_and_the_turns():
    dataset = SliceDataset(volumes(), transform=slice_augmentation("turns", 8).set_random_state(0))
    batch = next(iter(DataLoader(dataset, batch_size=4)))
    assert batch["slice"] == [item["slice"] for item in SliceDataset(volumes())][:4]
    assert batch["turn"].shape == (4,) and not batch["turn"].is_floating_point()
    assert batch["image"].is_contiguous()


def test_the_augmentations_of_a_recipe():
    item = SliceDataset(volumes())[0]
    assert slice_augmentation(False, 8) is None
    turns = slice_augmentation("turns", 8).set_random_state(0)
    assert isinstance(turns, RandTurnd)
    assert any(turns(item)["turn"] for _ in range(20))
    assert "turn" in turns({"image": item["image"]}), "without a label too"


@pytest.mark.parametrize("augment", ("x", "true", "", None))
def test_another_augmentation_is_told(augment):
    with pytest.raises(UserError, match=f"augment is {augment!r}: choose true, false, strong or turns"):
        slice_augmentation(augment, 8)
