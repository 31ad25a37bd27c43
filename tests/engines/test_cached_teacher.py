"""A teacher asked once about every slice: what it remembers is what it would say again."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.inferers import Inferer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, default_collate

from medkd.data import RandTurnd, SliceDataset, SliceVolume
from medkd.data.turns import TURNS, turn
from medkd.engines import AutocastInferer, CachedTeacher, DistillationTrainer, FrozenTeacher, TeacherCache
from medkd.errors import UserError
from medkd.handlers import DistillationHandler, EpochSeedHandler, MixedSlicesHandler
from medkd.losses import ContrastiveFeatureLoss, DiceBCELoss, HintLoss, PredictionMapLoss
from medkd.losses.maps import resize_to_grid
from medkd.networks import MultiTaskUNet, UNet, create_network

CPU = torch.device("cpu")
# float16 rounds to 11 bits; below 2^-14 to a fixed step. The rest is float32's own rounding.
HALF = {"rtol": 1.01 * 2**-11, "atol": 1e-6}
GRIDS = {"encoder": None, "bottleneck": (2, 2), None: None}


def volumes(count: int = 2, slices: int = 4, side: int = 16) -> list[SliceVolume]:
    """A bright square on noise, labelled 1."""
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        label = np.zeros((slices, side, side), np.uint8)
        low = 2 + number
        label[:, low : low + side // 2, low : low + side // 2] = 1
        image = (0.5 * random.random(label.shape) + 0.4 * label).astype(np.float16)
        made.append(SliceVolume(f"v{number}", image, label))
    return made


def batch_of(dataset: SliceDataset, positions) -> dict:
    return default_collate([dataset[position] for position in positions])


def multitask(**arguments) -> nn.Module:
    torch.manual_seed(0)
    network = MultiTaskUNet(**{"channels": (4, 6, 8), **arguments})
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.3, 2)
    return network


def counted(network: nn.Module) -> list[int]:
    """How many slices every pass of the network saw, from here on; also of its copies.

    A second pass on the very same tensor only checks the folding.
    """
    seen: list[int] = []
    last: list[torch.Tensor] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if not last or inputs[0] is not last[0]:
            seen.append(len(inputs[0]))
        last[:] = [inputs[0]]

    network.register_forward_pre_hook(count)
    return seen


def teacher_of(network: nn.Module, asked, inferer: Inferer | None = None) -> FrozenTeacher:
    teacher = FrozenTeacher(network, CPU, inferer)
    for tap in asked:
        teacher.ask(tap)
    return teacher


def cached(folder: Path, network: nn.Module, asked=GRIDS, precision: str = "float32") -> CachedTeacher:
    return CachedTeacher(teacher_of(network, asked), TeacherCache(folder), precision)


def ask(teacher: CachedTeacher, batch: dict, grids=GRIDS) -> dict:
    return teacher(batch["image"], batch, grids)


def assert_equal(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for tap, output in expected.items():
        assert torch.equal(found[tap], output), tap


def test_a_second_pass_never_runs_the_teacher_and_gives_the_same(tmp_path):
    network = multitask()
    seen = counted(network)
    dataset = SliceDataset(volumes())
    batches = [batch_of(dataset, positions) for positions in ([0, 1, 2], [3, 4, 5], [6, 7])]
    teacher = cached(tmp_path, network)
    first = [ask(teacher, batch) for batch in batches]
    assert seen == [3, 3, 2]
    for again in (teacher, cached(tmp_path, multitask())):
        for batch, outputs in zip(batches, first, strict=True):
            assert_equal(ask(again, batch), outputs)
    assert seen == [3, 3, 2]
    for output in first[0].values():
        assert output.dtype == torch.float32
        assert not output.requires_grad


def test_the_teacher_runs_on_the_unknown_slices_alone(tmp_path):
    network = multitask()
    seen = counted(network)
    dataset = SliceDataset(volumes())
    teacher = cached(tmp_path, network)
    known = ask(teacher, batch_of(dataset, [0, 1, 2, 5]))
    mixed = ask(teacher, batch_of(dataset, [5, 3, 1, 4, 2]))
    assert seen == [4, 2]
    for tap in GRIDS:
        for place, known_place in ((0, 3), (2, 1), (4, 2)):
            assert torch.equal(mixed[tap][place], known[tap][known_place])
    expected = ask(cached(tmp_path / "other", network), batch_of(dataset, [5, 3, 1, 4, 2]))
    for tap, output in expected.items():
        torch.testing.assert_close(mixed[tap], output, **HALF)


def test_values_are_the_plain_teachers_within_half_precision(tmp_path):
    network = multitask()
    grids = {"encoder": None, "bottleneck": None, "decoder": None, None: None}
    batch = batch_of(SliceDataset(volumes()), range(8))
    found = ask(cached(tmp_path, network, grids), batch, grids)
    expected = teacher_of(network, grids)(batch["image"])
    assert set(found) == set(expected)
    for tap, output in expected.items():
        torch.testing.assert_close(found[tap], output, **HALF)
        assert not torch.equal(found[tap], output), "they are kept in half precision"


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 3), (4, 2), (8, 8), (16, 16), (5, 16)])
def test_maps_are_averaged_onto_the_grid_and_never_enlarged(tmp_path, grid):
    network = multitask()
    grids = {"encoder": grid, None: grid}
    batch = batch_of(SliceDataset(volumes()), range(3))
    found = ask(cached(tmp_path, network, grids), batch, grids)
    for tap, output in teacher_of(network, grids)(batch["image"]).items():
        smaller = [min(pair) for pair in zip(grid, output.shape[2:], strict=True)]
        assert list(found[tap].shape[2:]) == smaller
        torch.testing.assert_close(found[tap], resize_to_grid(output, smaller), **HALF)


def with_changed(part: str) -> nn.Module:
    """The teacher with one number of a weight or a statistic changed a little."""
    network = multitask()
    network.state_dict()[part].view(-1)[0] += 1e-3
    return network


def with_another_activation() -> nn.Module:
    network = multitask()
    network.bottleneck[2] = nn.ELU()
    return network


def other_content() -> SliceDataset:
    made = volumes()
    made[0].image[0, 0, 0] += 0.25
    return SliceDataset(made)


def relabelled() -> SliceDataset:
    made = volumes()
    made[0].label[:] = 1
    return SliceDataset(made)


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        ({}, False),
        ({"dataset": relabelled}, False),
        ({"dataset": lambda: SliceDataset(volumes(), transform=RandTurnd(("image", "label")))}, False),
        ({"asked": {"encoder": (4, 4)}}, False),
        ({"network": lambda: with_changed("encoder.0.0.weight")}, True),
        ({"network": lambda: with_changed("bottleneck.1.running_var")}, True),
        ({"network": lambda: with_changed("head.bias")}, True),
        ({"network": with_another_activation}, True),
        ({"network": lambda: multitask(out_channels=2)}, True),
        ({"asked": {"encoder": (4, 4), "decoder": None}}, True),
        ({"asked": {"pools.0": (4, 4)}}, True),
        ({"asked": {"encoder": None}}, True),
        ({"asked": {"encoder": (2, 2)}}, True),
        ({"precision": "autocast"}, True),
        ({"dataset": other_content}, True),
        ({"dataset": lambda: SliceDataset(volumes(), channels="replicated")}, True),
        ({"dataset": lambda: SliceDataset(volumes(), channels="neighbours")}, False),
    ],
)
def test_every_part_of_the_key_counts(tmp_path, change, runs):
    asked = {"encoder": (4, 4), None: None}
    dataset = SliceDataset(volumes())
    ask(cached(tmp_path, multitask(), asked), batch_of(dataset, range(4)), asked)
    network = change.get("network", multitask)()
    seen = counted(network)
    asked = change.get("asked", asked)
    dataset = change.get("dataset", lambda: dataset)()
    teacher = cached(tmp_path, network, asked, change.get("precision", "float32"))
    ask(teacher, batch_of(dataset, range(4)), asked)
    assert bool(seen) == runs


def test_what_a_network_was_built_with_counts_where_neither_weights_nor_modules_tell(tmp_path):
    """FANet feeds its prediction back so many times; its modules are the same."""
    batch = batch_of(SliceDataset(volumes()), range(4))
    outputs = []
    for iterations in (1, 3):
        torch.manual_seed(0)
        network = create_network("fanet", in_channels=3, out_channels=1, channels=(4, 6, 8), iterations=iterations)
        outputs.append(ask(cached(tmp_path, network, {None: None}), batch, {None: None})[None])
        expected = teacher_of(network, [None])(batch["image"])[None]
        torch.testing.assert_close(outputs[-1], expected, **HALF)
    assert not torch.equal(*outputs)


class WithLogitsInside(nn.Module):
    """Its module ``logits`` is not the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 10 - self.logits(x)


@pytest.mark.parametrize("order", [("logits", None), (None, "logits")])
def test_a_tap_called_logits_is_not_taken_for_the_logits(tmp_path, order):
    torch.manual_seed(0)
    network = WithLogitsInside()
    batch = batch_of(SliceDataset(volumes()), range(4))
    for tap in order:
        found = ask(cached(tmp_path, network, [tap]), batch, {tap: None})
        torch.testing.assert_close(found[tap], teacher_of(network, [tap])(batch["image"])[tap], **HALF)


def turned_batch(dataset: SliceDataset, positions, codes) -> dict:
    batch = batch_of(dataset, positions)
    for key in ("image", "label"):
        batch[key] = torch.stack([turn(array, code) for array, code in zip(batch[key], codes, strict=True)])
    return {**batch, "turn": torch.tensor(codes)}


@pytest.mark.parametrize("grids", [GRIDS, {"encoder": (3, 3), "decoder": (5, 5), None: (1, 1)}])
def test_the_outputs_turn_with_the_slices(tmp_path, grids):
    network = multitask()
    seen = counted(network)
    dataset = SliceDataset(volumes())
    codes = list(range(TURNS))
    straight = ask(cached(tmp_path / "straight", network, grids), batch_of(dataset, range(8)), grids)
    expected = {
        tap: torch.stack([turn(array, code) for array, code in zip(output, codes, strict=True)])
        for tap, output in straight.items()
    }
    batch = turned_batch(dataset, range(8), codes)
    teacher = cached(tmp_path / "turned", network, grids)
    assert_equal(ask(teacher, batch, grids), expected)
    assert_equal(ask(teacher, batch, grids), expected)
    assert_equal(ask(cached(tmp_path / "straight", network, grids), batch, grids), expected)
    assert_equal(ask(teacher, batch_of(dataset, range(8)), grids), straight)
    assert seen == [8, 8]
    assert not torch.equal(expected["encoder"], straight["encoder"])


def test_one_slice_in_several_turns(tmp_path):
    network = multitask()
    dataset = SliceDataset(volumes())
    straight = ask(cached(tmp_path / "straight", network), batch_of(dataset, [3]))
    found = ask(cached(tmp_path, network), turned_batch(dataset, [3] * TURNS, range(TURNS)))
    for tap, output in straight.items():
        for code in range(TURNS):
            torch.testing.assert_close(found[tap][code], turn(output[0], code), **HALF)


def test_turned_slices_of_the_data_set_and_the_maps_lie_alike(tmp_path):
    """A teacher that repeats the image shows that image, label and map are turned by the same code."""
    network = nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 1, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.eye(3)[:, :, None, None])
    dataset = SliceDataset(volumes(), transform=RandTurnd(("image", "label")).set_random_state(0))
    teacher = cached(tmp_path, network, [None])
    codes = set()
    for _ in range(3):
        batch = batch_of(dataset, range(8))
        codes |= set(batch["turn"].tolist())
        # The slices are float16 already: nothing is rounded.
        assert torch.equal(ask(teacher, batch, {None: None})[None], batch["image"])
    assert codes == set(range(TURNS))


def test_slices_that_nobody_can_name_are_told(tmp_path):
    batch = batch_of(SliceDataset(volumes(), transform=lambda item: item), range(2))
    with pytest.raises(UserError, match=r"augmented in other ways: give --teacher_cache false .*, or --augment turns"):
        ask(cached(tmp_path, multitask()), batch)


class Loud(nn.Module):
    """Its map is far above the range of float16 where the image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)
        self.quiet = nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.quiet(self.layer(x) / 1e6)


def test_what_float16_cannot_hold_is_exact_not_kept_and_told_once(tmp_path):
    torch.manual_seed(0)
    network = Loud()
    nn.init.constant_(network.layer.weight, 1e6)
    seen = counted(network)
    made = volumes(1)
    made[0].image[2:] *= 0.01
    batch = batch_of(SliceDataset(made, channels="replicated"), range(4))
    grids = {"layer": None, None: None}
    teacher = cached(tmp_path, network, grids)
    expected = teacher_of(network, grids)(batch["image"])
    assert (expected["layer"].amax(dim=(1, 2, 3)) > 65504).tolist() == [True, True, False, False]
    seen.clear()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        outputs = [ask(teacher, batch, grids) for _ in range(3)]
    assert [str(one.message) for one in told] == [
        "some of the teacher's outputs are larger than float16 holds: they are computed anew in every epoch."
    ]
    assert seen == [4, 2, 2]
    for output in outputs:
        torch.testing.assert_close(output["layer"][:2], expected["layer"][:2], rtol=1e-6, atol=0)
        torch.testing.assert_close(output["layer"][2:], expected["layer"][2:], **HALF)
        torch.testing.assert_close(output[None], expected[None], **HALF)
    assert {file.stem for file in tmp_path.rglob("layer-full/*/*.npy")} == {"2", "3"}


def test_a_cache_without_room_is_no_cache(tmp_path):
    network = multitask()
    seen = counted(network)
    batch = batch_of(SliceDataset(volumes()), range(4))
    teacher = CachedTeacher(teacher_of(network, GRIDS), TeacherCache(tmp_path, 0))
    assert_equal(ask(teacher, batch), ask(teacher, batch))
    assert seen == [4, 4]
    assert not list(tmp_path.iterdir())


# A whole training.


def contrast(granularity: str) -> list[DistillationHandler]:
    torch.manual_seed(0)
    return [
        DistillationHandler("pmd", PredictionMapLoss(), 0.5),
        DistillationHandler(
            "bottleneck", ContrastiveFeatureLoss(8, 10, granularity, samples=20), 1.0, "bottleneck", "bottleneck"
        ),
        DistillationHandler(
            "encoder", ContrastiveFeatureLoss(6, 6, granularity, samples=20, grid=3), 1.0, "encoder", "encoder"
        ),
    ]


def losses_of(handlers, cache: TeacherCache | None, transform=None, inferer=None) -> tuple[list[float], list[int]]:
    """The loss of every step of two epochs, and the slices of every pass of the teacher."""
    teacher = multitask(channels=(4, 6, 8, 10))
    seen = counted(teacher)
    torch.manual_seed(0)
    student = UNet(channels=(4, 6, 8), convs_per_block=1)
    loader = DataLoader(SliceDataset(volumes(side=32), transform=transform), batch_size=3)
    projectors = nn.ModuleList(handler.loss for handler in handlers)
    engine = DistillationTrainer(
        teacher=teacher,
        teacher_cache=cache,
        device="cpu",
        max_epochs=2,
        train_data_loader=loader,
        network=student,
        optimizer=torch.optim.SGD([*student.parameters(), *projectors.parameters()], lr=0.05),
        loss_function=DiceBCELoss(),
        train_handlers=[EpochSeedHandler(0, loader), *handlers],
        inferer=inferer,
    )
    losses: list[float] = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(float(e.state.output["loss"])))
    engine.run()
    return losses, seen


@pytest.mark.parametrize("granularity", ("image", "patch", "pixel", "region"))
def test_a_training_with_the_cache_is_the_one_without(tmp_path, granularity):
    cold, seen = losses_of(contrast(granularity), TeacherCache(tmp_path))
    assert seen == [3, 3, 2], "once a slice, though there are two epochs"
    warm, seen = losses_of(contrast(granularity), TeacherCache(tmp_path))
    assert seen == []
    assert warm == cold
    without, seen = losses_of(contrast(granularity), None)
    assert seen == [3, 3, 2] * 2
    assert without == pytest.approx(cold, rel=1e-3)
    assert len(set(cold)) == 6


def test_mixed_slices_are_no_slices_that_are_kept(tmp_path):
    """A term on them asks the teacher in every step, and those beside it have the cache all the same."""

    def terms() -> list[DistillationHandler]:
        return [DistillationHandler("pmd", PredictionMapLoss(), 0.5), MixedSlicesHandler("mix", PredictionMapLoss())]

    cold, seen = losses_of(terms(), TeacherCache(tmp_path))
    assert seen == [3, 3, 3, 3, 2, 2, 3, 3, 2]
    warm, seen = losses_of(terms(), TeacherCache(tmp_path))
    assert seen == [3, 3, 2] * 2
    assert warm == cold
    without, seen = losses_of(terms(), None)
    assert seen == [3, 3, 3, 3, 2, 2] * 2
    assert without == pytest.approx(cold, rel=1e-3)
    alone, _ = losses_of(terms()[:1], None)
    assert alone[0] != without[0]


def test_a_training_on_turned_slices_is_the_same_with_a_warm_cache(tmp_path):
    def run() -> tuple[list[float], list[int]]:
        return losses_of(contrast("patch"), TeacherCache(tmp_path), RandTurnd(("image", "label")))

    cold, seen = run()
    assert seen == [3, 3, 2]
    warm, seen = run()
    assert seen == []
    assert warm == cold
    assert losses_of(contrast("patch"), TeacherCache(tmp_path))[0] != cold, "they were turned"


def test_each_precision_has_outputs_of_its_own(tmp_path):
    folder = TeacherCache(tmp_path)
    _, seen = losses_of(contrast("patch"), folder)
    assert seen
    mixed, seen = losses_of(contrast("patch"), folder, inferer=AutocastInferer())
    assert seen
    again, seen = losses_of(contrast("patch"), folder, inferer=AutocastInferer())
    assert again == mixed and not seen
    _, seen = losses_of(contrast("patch"), folder, inferer=AutocastInferer(False))
    assert not seen, "switched off it is float32"


def shapes_kept(folder: Path) -> set[str]:
    return {place.name for place in folder.glob("teacher/*/*")}


def test_maps_are_kept_no_larger_than_the_losses_need(tmp_path):
    losses_of(contrast("patch"), TeacherCache(tmp_path / "patch"))
    # The student's maps are 8x8 both; the encoder's term compares on 3x3.
    assert shapes_kept(tmp_path / "patch") == {"@logits-full", "bottleneck-8x8", "encoder-3x3"}
    losses_of(contrast("image"), TeacherCache(tmp_path / "image"))
    assert shapes_kept(tmp_path / "image") == {"@logits-full", "bottleneck-1x1", "encoder-1x1"}


def test_terms_that_want_different_grids_of_one_tap_both_get_the_map(tmp_path):
    def terms() -> list[DistillationHandler]:
        torch.manual_seed(0)
        return [
            DistillationHandler("patch", ContrastiveFeatureLoss(6, 6, "patch", grid=2), 1.0, "encoder", "encoder"),
            DistillationHandler("image", ContrastiveFeatureLoss(6, 6, "image"), 1.0, "encoder", "encoder"),
            DistillationHandler("hint", HintLoss(6, 6), 1.0, "encoder", "encoder"),
        ]

    cold, _ = losses_of(terms(), TeacherCache(tmp_path))
    assert shapes_kept(tmp_path) == {"encoder-full"}
    assert losses_of(terms(), None)[0] == pytest.approx(cold, rel=1e-3)


def test_other_augmentations_end_a_training_with_a_sentence(tmp_path):
    with pytest.raises(UserError, match="augmented in other ways"):
        losses_of(contrast("patch"), TeacherCache(tmp_path), transform=lambda item: item)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((8, 8), (8, 8)),
        ((8, 8), (16, 16)),
        ((7, 5), (13, 17)),
        ((16, 16), (6, 4)),
        ((4, 12), (12, 4)),
        ((4, 4, 3), (8, 4, 8)),
    ],
)
@pytest.mark.parametrize(
    ("granularity", "supervised"),
    [("image", False), ("patch", False), ("patch", True), ("pixel", False), ("pixel", True)],
)
def test_averaging_beforehand_leaves_a_contrastive_loss_as_it_is(granularity, supervised, student, teacher):
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    loss = ContrastiveFeatureLoss(4, 6, granularity, supervised=supervised, grid=5, samples=30)
    student_map = torch.randn(3, 4, *student, generator=generator)
    teacher_map = torch.randn(3, 6, *teacher, generator=generator)
    label = (torch.rand(3, 1, *[2 * length for length in student], generator=generator) > 0.6).float()

    def value(given: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)  # For the positions that are drawn.
        return loss(student_map, given, label)

    averaged = resize_to_grid(
        teacher_map, [min(pair) for pair in zip(teacher, loss.teacher_grid(student), strict=True)]
    )
    torch.testing.assert_close(value(averaged), value(teacher_map), rtol=1e-6, atol=0)
    assert abs(float(value(teacher_map.flip(0)) - value(teacher_map))) > 1e-4, "the teacher's map counts"


def test_regions_need_the_map_as_it_is():
    """The share of a class in a cell weighs the cells, so that averaging first would give another mean."""
    loss = ContrastiveFeatureLoss(4, 6, "region")
    assert loss.teacher_grid((8, 8)) is None
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4, 8, 8), torch.randn(3, 6, 16, 16)
    label = (torch.rand(3, 1, 16, 16) > 0.6).float()
    averaged = resize_to_grid(teacher, (8, 8))
    assert abs(float(loss(student, averaged, label) - loss(student, teacher, label))) > 1e-4
