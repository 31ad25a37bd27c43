"""A CT segmented by MONAI's own pieces, from file to saved mask: what medkd's way is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.inferers import Inferer, SliceInferer, SlidingWindowInferer
from monai.networks.nets import UNet
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Identityd,
    Invertd,
    LoadImaged,
    Orientationd,
    Resized,
    SaveImaged,
    ScaleIntensityRanged,
    Spacingd,
    Transform,
)
from torch import nn

from medkd.engines import SavedModel
from medkd.errors import UserError
from medkd.networks.layout import channels_last

SLICES_AT_A_TIME = 16
# Added to the logits, so that the mask is empty, which is the quickest to save, and not the noise of random weights.
BACKGROUND_WINS = (1e6, -1e6)


class MonaiPipeline:
    """Transforms, a network under an inferer, and the transforms back.

    Args:
        before: from the file to the volume that the network sees.
        network: returns logits.
        inferer: runs the network over a volume.
        activation: of the logits, before they are brought back.
        labels: makes labels of logits.
        folder: where the mask goes.
        channels: gives the volume ``(1, X, Y, Z)`` the channels that the network takes.
    """

    def __init__(
        self,
        before: Sequence[Transform],
        network: nn.Module,
        inferer: Inferer,
        activation: Transform,
        labels: AsDiscreted,
        folder: Path,
        channels: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.before = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), *before])
        self.network, self.inferer, self.channels = network.eval(), inferer, channels
        back = Invertd("pred", self.before, orig_keys="image", nearest_interp=False)
        self.after = Compose([activation, back, labels])
        self.save = SaveImaged(
            "pred", output_dir=folder, output_postfix="seg", output_dtype="uint8", separate_folder=False,
            print_log=False,
        )  # fmt: skip

    @torch.no_grad()
    def __call__(self, scan: Path) -> dict[str, float]:
        """Segment a scan and save its mask as ``<scan>_seg.nii.gz``; the seconds of each part."""
        times = [time.perf_counter()]
        data: dict[str, Any] = self.before({"image": scan})
        times.append(time.perf_counter())
        data["pred"] = self.inferer(self.channels(data["image"])[None], self.network)[0]
        times.append(time.perf_counter())
        data = self.after(data)
        times.append(time.perf_counter())
        self.save(data)
        times.append(time.perf_counter())
        parts = ("load and pre-process", "network", "post-process", "save")
        return {part: end - start for part, start, end in zip(parts, times, times[1:], strict=False)}


def volume_pipeline(folder: Path) -> MonaiPipeline:
    """``inference.json`` of MONAI's bundle spleen_ct_segmentation: a 3-D U-Net of 4.8 M parameters over patches."""
    network = UNet(
        spatial_dims=3, in_channels=1, out_channels=2, channels=(16, 32, 64, 128, 256), strides=(2, 2, 2, 2),
        num_res_units=2, norm="batch",
    )  # fmt: skip
    with torch.no_grad():
        list(network.parameters())[-1].add_(torch.tensor(BACKGROUND_WINS))
    before = [
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=(1.5, 1.5, 2.0), mode="bilinear"),
        ScaleIntensityRanged("image", a_min=-57, a_max=164, b_min=0, b_max=1, clip=True),
    ]
    inferer = SlidingWindowInferer(roi_size=(96, 96, 96), sw_batch_size=4, overlap=0.5)
    after = Activationsd("pred", softmax=True), AsDiscreted("pred", argmax=True)
    return MonaiPipeline(before, network, inferer, *after, folder, torch.Tensor.contiguous)


def slice_pipeline(folder: Path, run: Path) -> MonaiPipeline:
    """The 2-D model of a run by MONAI's transforms and its inferer for slices, in PyTorch."""
    model = SavedModel.read(run)
    size, window = model.preprocessing.size, model.preprocessing.window
    if window is None:
        raise UserError(f"{run} takes its window from each scan: give a model for CT.")
    if model.preprocessing.field_of_view != "scan":
        raise UserError(f"{run} cuts scans to the body, which MONAI's transforms do not: give another model.")
    before = [
        Orientationd("image", axcodes="RAS", labels=None),
        ScaleIntensityRanged("image", a_min=window[0], a_max=window[1], b_min=0, b_max=1, clip=True),
        Resized("image", spatial_size=(size, size, -1), mode="trilinear"),
    ]
    inferer = SliceInferer(roi_size=(size, size), sw_batch_size=SLICES_AT_A_TIME, spatial_dim=2)
    network = channels_last(model.load_network(run))
    after = Identityd("pred"), AsDiscreted("pred", threshold=0.0)
    return MonaiPipeline(before, network, inferer, *after, folder, with_neighbours)


def with_neighbours(volume: torch.Tensor) -> torch.Tensor:
    """Slice below, slice and slice above as channels ``(3, X, Y, Z)`` of a volume ``(1, X, Y, Z)``."""
    below = torch.cat([volume[..., :1], volume[..., :-1]], dim=3)
    above = torch.cat([volume[..., 1:], volume[..., -1:]], dim=3)
    return torch.cat([below, volume, above])
