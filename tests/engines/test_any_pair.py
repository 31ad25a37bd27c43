"""Any network can teach any other, stock MONAI networks in 3-D included."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from ignite.engine import Events
from monai.data import CacheDataset, DataLoader, pad_list_data_collate
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    ScaleIntensityRangePercentilesd,
    SpatialPadd,
)
from torch import nn

from medkd.engines import DistillationTrainer, tap_channels
from medkd.handlers import DistillationHandler
from medkd.losses import ContrastiveFeatureLoss, DiceBCELoss, PredictionMapLoss, RegionAffinityLoss
from medkd.networks import create_network

TEACHERS = {
    "multitask_unet": {"channels": (4, 6, 8, 10)},
    "raunet": {"channels": (16, 32, 32, 32)},
    "swin_unet": {"width": 16},
}
STUDENTS = {
    "unet_s1": {"channels": (4, 6, 8)},
    "enet": {},
    "espnet": {},
    "mobilenetv2": {},
}


def distil(
    teacher: nn.Module, student: nn.Module, terms: list[DistillationHandler], loader: object, steps: int = 2
) -> list[dict[str, float]]:
    """A few steps; the norm of each term's gradient in the student in each, which is its work."""
    losses = nn.ModuleList([term.loss for term in terms])
    engine = DistillationTrainer(
        teacher=teacher,
        device="cpu",
        max_epochs=steps,
        epoch_length=1,
        train_data_loader=loader,
        network=student,
        optimizer=torch.optim.Adam([*student.parameters(), *losses.parameters()], 1e-3),
        loss_function=DiceBCELoss(),
        train_handlers=terms,
        decollate=False,
    )
    rows: list[dict[str, float]] = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: rows.append({k: float(v) for k, v in e.state.output["gradient"].items()})
    )
    engine.run()
    return rows


@pytest.mark.parametrize(("of_teacher", "of_student"), itertools.product(TEACHERS, STUDENTS))
def test_any_pair_distils(of_teacher: str, of_student: str) -> None:
    torch.manual_seed(0)
    size = {"in_channels": 3, "out_channels": 3}
    teacher = create_network(of_teacher, **size, **TEACHERS[of_teacher])
    student = create_network(of_student, **size, **STUDENTS[of_student])
    terms = [DistillationHandler("pmd", PredictionMapLoss(), 0.1)]
    for tap in ("encoder", "bottleneck", "decoder"):
        channels = tap_channels(student, tap), tap_channels(teacher, tap)
        terms.append(DistillationHandler(tap, ContrastiveFeatureLoss(*channels), 0.1, tap, tap))
        terms.append(DistillationHandler(f"region_{tap}", RegionAffinityLoss(), 0.1, tap, tap))
    batches = [
        {"image": torch.rand(2, 3, 64, 64), "label": torch.randint(0, 3, (2, 1, 64, 64)).float()} for _ in range(2)
    ]
    before = [parameter.clone() for parameter in student.parameters()]
    rows = distil(teacher, student, terms, batches)
    assert len(rows) == 2
    assert all(len(row) == 8 and all(0 < norm < float("inf") for norm in row.values()) for row in rows)
    moved = [not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True)]
    assert all(moved)


SWIN = {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
DYN = {"kernel_size": (3, 3, 3), "strides": (1, 2, 2), "upsample_kernel_size": (2, 2), "filters": (4, 6, 8)}


@pytest.mark.parametrize("spatial_dims", (2, 3))
@pytest.mark.parametrize("swin_teaches", (True, False))
def test_swin_unetr_and_dynunet_of_monai_teach_each_other(spatial_dims: int, swin_teaches: bool) -> None:
    torch.manual_seed(0)
    size = {"spatial_dims": spatial_dims, "in_channels": 1, "out_channels": 2}
    swin = create_network("monai.networks.nets.SwinUNETR", **SWIN, **size)
    dyn = create_network("monai.networks.nets.DynUNet", **DYN, **size)
    places = {swin: "encoder2", dyn: "bottleneck"}
    teacher, student = (swin, dyn) if swin_teaches else (dyn, swin)
    image = torch.rand(2, 1, *(64, 64, 32)[:spatial_dims])
    channels = [tap_channels(network, places[network], image.shape[1:]) for network in (student, teacher)]
    terms = [
        DistillationHandler("pmd", PredictionMapLoss(), 0.1),
        DistillationHandler("deep", ContrastiveFeatureLoss(*channels), 0.1, places[student], places[teacher]),
    ]
    rows = distil(teacher, student, terms, [{"image": image, "label": (image > 0.5).float()}], steps=1)
    assert len(rows) == 1 and all(0 < norm < float("inf") for norm in rows[0].values())


@pytest.mark.realdata
def test_a_segresnet_teaches_a_small_unet_in_3d_on_hippocampus(real_data) -> None:
    """Both stock networks of MONAI, tapped by module path, on whole volumes."""
    folder = real_data / "Task04_Hippocampus"
    cases = json.loads((folder / "dataset.json").read_text())["training"][:4]
    keys = ("image", "label")
    transform = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, "RAS", labels=None),
            ScaleIntensityRangePercentilesd("image", 0.5, 99.5, 0.0, 1.0, clip=True),
            SpatialPadd(keys, (40, 56, 40)),
        ]
    )
    data = CacheDataset([{key: folder / case[key] for key in keys} for case in cases], transform, progress=False)
    loader = DataLoader(data, batch_size=2, collate_fn=pad_list_data_collate)
    torch.manual_seed(0)
    size = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3}
    teacher = create_network(
        "monai.networks.nets.SegResNet", init_filters=8, blocks_down=(1, 1), blocks_up=(1,), **size
    )
    student = create_network("monai.networks.nets.UNet", channels=(4, 8), strides=(2,), **size)
    taps = {"student": "model.1.submodule", "teacher": "down_layers.1"}
    shape = (1, 16, 16, 16)
    channels = tap_channels(student, taps["student"], shape), tap_channels(teacher, taps["teacher"], shape)
    assert channels == (8, 16)
    terms = [
        DistillationHandler("pmd", PredictionMapLoss(), 0.1),
        DistillationHandler("deep", ContrastiveFeatureLoss(*channels), 0.1, taps["student"], taps["teacher"]),
        DistillationHandler("region", RegionAffinityLoss(), 0.1, taps["student"], taps["teacher"]),
    ]
    rows = distil(teacher, student, terms, loader, steps=2)
    assert all(len(row) == 4 and all(0 < norm < float("inf") for norm in row.values()) for row in rows)
