"""MONAI dictionary transforms of the bundles: a scan to what a network sees, its logits back to the scan's own grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from monai.utils.enums import CommonKeys

from medkd.data.nifti import check_pair, read_image, read_label
from medkd.data.slices import scan_channels
from medkd.data.transforms import Preprocessing
from medkd.inference.files import mask_path
from medkd.inference.options import Options
from medkd.inference.postprocessing import postprocess
from medkd.inference.segmentation import save_mask


class PrepareScand(Transform):
    """Reads the file ``image``, and ``label`` if there is one, of an item.

    ``image`` becomes the batch of one that networks take, ``(1, C, size, size, Z)``, and ``label`` a label map on the
    scan's own grid, ``(1, 1, X, Y, Z)``. Added are ``scan`` (the volume as read), ``prepared`` (which leads back to its
    grid) and ``name``. Load the items with ``batch_size=None``.

    Args:
        preprocessing: of the model.
        label_values: what a label may hold.

    Raises:
        UserError: a file cannot be used; the sentence names it.
    """

    def __init__(self, preprocessing: Preprocessing, label_values: Sequence[int] = (0, 1)) -> None:
        self.preprocessing = preprocessing
        self.label_values = list(label_values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Prepare one item."""
        scan = read_image(data[CommonKeys.IMAGE])
        prepared = self.preprocessing.apply(scan)
        image = scan_channels(prepared, self.preprocessing.channels)[None]
        item = {**data, CommonKeys.IMAGE: image, "scan": scan, "prepared": prepared, "name": scan.path.name}
        if data.get(CommonKeys.LABEL) is not None:
            truth = read_label(data[CommonKeys.LABEL])
            check_pair(scan, truth, self.label_values)
            item[CommonKeys.LABEL] = torch.from_numpy(truth.array.astype("float32"))[None, None]
        return item


class LabelScanGridd(MapTransform):
    """Turns logits ``(1, C, size, size, Z)`` into the label map ``(1, 1, X, Y, Z)`` on the grid of the scan.

    Args:
        keys: the logits; ``prepared`` of :class:`PrepareScand` must be beside them.
    """

    def __init__(self, keys: KeysCollection = CommonKeys.PRED) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Label one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            mask = item["prepared"].labels(item[key][0].float().cpu().numpy())
            item[key] = torch.from_numpy(mask)[None, None]
        return item


class PostprocessMaskd(MapTransform):
    """Cleans label maps of :class:`LabelScanGridd` as ``medkd infer`` does by default: one piece, without holes.

    Args:
        label_values: of the labels.
        keys: the label maps; ``scan`` of :class:`PrepareScand` must be beside them.
        compact: those of the labels whose piece ends at necks, ``compact_values`` of the model.
    """

    def __init__(
        self, label_values: Sequence[int], keys: KeysCollection = CommonKeys.PRED, compact: Sequence[int] = ()
    ) -> None:
        super().__init__(keys)
        self.label_values = [value for value in label_values if value]
        self.compact = compact

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Clean one item."""
        item = dict(data)
        for key in self.key_iterator(item):
            mask = item[key][0, 0].numpy().copy()
            postprocess(mask, self.label_values, Options(), item["scan"].spacing, self.compact)
            item[key] = torch.from_numpy(mask)[None, None]
        return item


class SaveMaskd(MapTransform):
    """Writes label maps of :class:`LabelScanGridd` to ``output_dir/<scan>_seg.nii.gz``, with the header of the scan.

    Args:
        output_dir: the folder.
        keys: the label maps; ``scan`` of :class:`PrepareScand` must be beside them.
    """

    def __init__(self, output_dir: str | Path, keys: KeysCollection = CommonKeys.PRED) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> Mapping[Hashable, Any]:
        """Write one item."""
        scan = data["scan"]
        for key in self.key_iterator(dict(data)):
            save_mask(data[key][0, 0].cpu().numpy().astype("uint8"), scan, mask_path(scan.path, self.output_dir))
        return data
