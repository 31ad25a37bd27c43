"""The networks the papers name, as published: channels in and out, size at which the multiply-adds are stated."""

from __future__ import annotations

from functools import partial
from typing import Any

from medkd.networks.attention_unet import AttentionUNet
from medkd.networks.dcsaunet import DCSAUNet
from medkd.networks.deeplabv3plus import DeepLabV3Plus
from medkd.networks.enet import ENet
from medkd.networks.erfnet import ERFNet
from medkd.networks.espnet import ESPNet
from medkd.networks.fanet import FANet
from medkd.networks.mobilenetv2 import MobileNetV2
from medkd.networks.multitask_transunet import MultiTaskTransUNet
from medkd.networks.multitask_unet import MultiTaskUNet
from medkd.networks.pspnet import PSPNet
from medkd.networks.raunet import RAUNet
from medkd.networks.registry import NetworkEntry, register_network
from medkd.networks.resnet_segmenter import ResNet18
from medkd.networks.swin_unet import SwinUNet
from medkd.networks.unet import UNet
from medkd.networks.unet_nearest import NearestUNet
from medkd.networks.unet_tiny import TinyUNet
from medkd.networks.unetplusplus import UNetPlusPlus

MTMS = "Biswas 2024, arXiv 2406.03173"
EMKD = "Qin 2021, IEEE TMI 40(12)"
# As EMKD counts: one channel in, or three, and two classes, at 384x384.
GRAY: dict[str, Any] = {"in_channels": 1, "out_channels": 2}
COLOUR: dict[str, Any] = {"in_channels": 3, "out_channels": 2}
GRAY_384, COLOUR_384, CAO_224 = (1, 384, 384), (3, 384, 384), (3, 224, 224)

ENTRIES = (
    NetworkEntry("multitask_unet", MultiTaskUNet, "teacher", f"{MTMS} (T1)"),
    NetworkEntry("multitask_transunet", MultiTaskTransUNet, "teacher", f"{MTMS} (T2)"),
    NetworkEntry("unet", UNet, "teacher", f"Ronneberger 2015, arXiv 1505.04597; {MTMS} (U-Net)"),
    NetworkEntry("unet_s1", partial(UNet, channels=(16, 32, 64), convs_per_block=1), "student", f"{MTMS} (S1)"),
    NetworkEntry("unet_s2", partial(UNet, channels=(32, 64, 128), convs_per_block=1), "student", f"{MTMS} (S2)"),
    NetworkEntry("unet_tiny", TinyUNet, "student", "medkd; convolutions of Howard 2017, arXiv 1704.04861"),
    NetworkEntry("enet", partial(ENet, **GRAY), "student", f"Paszke 2016, arXiv 1606.02147; {EMKD}", GRAY_384),
    NetworkEntry("espnet", partial(ESPNet, **GRAY), "student", f"Mehta 2018, arXiv 1803.06815; {EMKD}", GRAY_384),
    NetworkEntry(
        "erfnet", partial(ERFNet, **GRAY), "student", f"Romera 2017, IEEE T-ITS 19(1); {EMKD}", GRAY_384,
        "2,063,130 published, 258 of them in a head of the encoder that is never called",
    ),
    NetworkEntry(
        "mobilenetv2", partial(MobileNetV2, **GRAY), "student", f"Sandler 2018, arXiv 1801.04381; {EMKD}", GRAY_384,
        "2,228,996 published, 2,562 of them in an image classifier that is never called",
    ),
    NetworkEntry("resnet18", partial(ResNet18, **COLOUR), "student", f"He 2016, arXiv 1512.03385; {EMKD}", COLOUR_384),
    NetworkEntry("raunet", partial(RAUNet, **COLOUR), "teacher", f"Ni 2019, arXiv 1909.10360; {EMKD}", COLOUR_384),
    NetworkEntry("pspnet", partial(PSPNet, **COLOUR), "teacher", f"Zhao 2017, arXiv 1612.01105; {EMKD}", COLOUR_384),
    NetworkEntry(
        "unetplusplus", partial(UNetPlusPlus, **GRAY), "teacher", f"Zhou 2019, arXiv 1912.05074; {EMKD}", GRAY_384,
        "36,628,546 published, printed as 20.6 M; MONAI's has other channels after upsampling",
    ),
    NetworkEntry(
        "unet_nearest", partial(NearestUNet, **GRAY), "teacher", f"Ronneberger 2015, arXiv 1505.04597; {EMKD}", GRAY_384
    ),
    NetworkEntry(
        "deeplabv3plus", partial(DeepLabV3Plus, **GRAY), "teacher", f"Chen 2018, arXiv 1802.02611; {EMKD}", GRAY_384,
        "56,795,962 published, 2,049,000 of them in an image classifier that is never called",
    ),
    NetworkEntry("dcsaunet", DCSAUNet, "teacher", "Xu 2023, arXiv 2202.00972", COLOUR_384, "printed as 6.3 M"),
    NetworkEntry("fanet", FANet, "teacher", "Tomar 2021, arXiv 2103.17235", COLOUR_384),
    # Counted with the 9 classes of its paper.
    NetworkEntry("swin_unet", partial(SwinUNet, out_channels=9), "teacher", "Cao 2021, arXiv 2105.05537", CAO_224),
    NetworkEntry(
        "attention_unet", partial(AttentionUNet, **GRAY), "teacher", f"Oktay 2018, arXiv 1804.03999; {EMKD}", GRAY_384,
        "34,877,486 published, with 149.3 G multiply-adds; MONAI's gates and upsampling are lighter",
    ),
)  # fmt: skip

for _entry in ENTRIES:
    register_network(_entry)
