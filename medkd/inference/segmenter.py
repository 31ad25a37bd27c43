"""A new scan in, its mask and measurements out."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import nn

from medkd.data.nifti import Volume, read_image
from medkd.data.slices import scan_channels
from medkd.data.transforms import PreparedScan
from medkd.engines.saved_model import SavedModel
from medkd.files import atomic_write
from medkd.metrics import labels_from_logits
from medkd.networks.layout import channels_last


@dataclass(frozen=True)
class Segmentation:
    """The mask of one scan.

    Attributes:
        mask: ``(X, Y, Z)`` uint8 label map on the grid of the scan.
        affine: of the scan, 4x4.
        scan: the volume that was segmented.
        measurements: volume in ml for each label, voxel count, seconds.
    """

    mask: np.ndarray
    affine: np.ndarray
    scan: Volume
    measurements: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Write the mask; see :func:`save_mask`."""
        save_mask(self.mask, self.scan, path)


def save_mask(mask: np.ndarray, scan: Volume, path: str | Path) -> None:
    """Write a mask ``(X, Y, Z)`` as NIfTI with the shape, affine and orientation codes of its scan."""
    header = scan.header.copy()
    header.set_data_dtype(np.uint8)
    header["cal_min"], header["cal_max"] = 0, 0
    header.set_slope_inter(1, 0)
    kind = nibabel.Nifti2Image if isinstance(header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    image = kind(mask, None, header)
    with atomic_write(path) as temporary:
        nibabel.save(image, temporary)


class Segmenter:
    """Segments scans with a trained model, loaded once.

    Example::

        segmenter = medkd.Segmenter.load("runs/student")
        result = segmenter("scan.nii.gz")
        print(result.measurements["volumes_ml"]["spleen"])
        result.save("scan_seg.nii.gz")

    Args:
        network: returns logits.
        model: what the network is.
        device: where to run; a GPU if there is one by default.
        batch_size: slices at a time.
    """

    def __init__(
        self, network: nn.Module, model: SavedModel, device: str | torch.device | None = None, batch_size: int = 16
    ) -> None:
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(chosen)
        self.network = channels_last(network.to(self.device)).eval()
        self.model = model
        self.batch_size = batch_size

    @classmethod
    def load(cls, run: str | Path, device: str | torch.device | None = None) -> Segmenter:
        """Load the model of a run folder, or of a bundle.

        Raises:
            UserError: the folder holds no usable model.
        """
        model = SavedModel.read(run)
        return cls(model.load_network(run), model, device)

    def __call__(self, scan: str | Path | Volume) -> Segmentation:
        """Segment one scan of any size, spacing and orientation.

        Args:
            scan: path of a 3-D NIfTI file, or a volume that was read already.

        Raises:
            UserError: the file cannot be used; the sentence names it.
        """
        started = time.perf_counter()
        volume = scan if isinstance(scan, Volume) else read_image(scan)
        prepared = self.model.preprocessing.apply(volume)
        logits = prepared.to_scan_grid(self.predict(prepared))
        mask = labels_from_logits(logits)[0].numpy()
        return Segmentation(mask, volume.affine, volume, self._measure(mask, volume, time.perf_counter() - started))

    def predict(self, prepared: PreparedScan, **arguments: Any) -> Any:
        """Run the network over all slices.

        Args:
            prepared: the scan.
            arguments: keyword arguments of the network, such as ``reconstruct=True``.

        Returns:
            What the network returns (a tensor or a tuple of them), each ``(C, size, size, Z)`` on the CPU.
        """
        stacked = scan_channels(prepared, self.model.preprocessing.channels).permute(3, 0, 1, 2)
        outputs: list[tuple[torch.Tensor, ...]] = []
        with torch.inference_mode():
            for batch in stacked.split(self.batch_size):
                batch = batch.to(self.device, memory_format=torch.channels_last)
                output = self.network(batch, **arguments)
                parts = output if isinstance(output, tuple) else (output,)
                outputs.append(tuple(part.float().cpu() for part in parts))
        joined = tuple(torch.cat(parts).permute(1, 2, 3, 0) for parts in zip(*outputs, strict=True))
        return joined if len(joined) > 1 else joined[0]

    def _measure(self, mask: np.ndarray, volume: Volume, seconds: float) -> dict[str, Any]:
        counts = {name: int(np.count_nonzero(mask == value)) for value, name in self.model.labels.items() if value}
        return {
            "volumes_ml": {name: round(count * volume.voxel_ml, 3) for name, count in counts.items()},
            "voxels": counts,
            "seconds": round(seconds, 3),
        }
