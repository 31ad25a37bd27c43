"""A new scan in, its mask and measurements out."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from medkd.bundle import STUDENT, bundle_folder
from medkd.data.scan import read_scan
from medkd.data.transforms import PreparedScan, prepared_slices, stacked_slices
from medkd.data.volume import Volume
from medkd.engines.saved_model import SavedModel
from medkd.errors import UserError
from medkd.inference.backends import AUTO, Backend, create_backend
from medkd.inference.backends.model_file import model_hash
from medkd.inference.inputs import Scan, find_scans
from medkd.inference.measurements import measure_labels
from medkd.inference.options import Options
from medkd.inference.postprocessing import postprocess
from medkd.inference.segmentation import Segmentation
from medkd.inference.uncertainty import Uncertainty
from medkd.memory import PeakMemory

# The axes (B, C, x, y) to flip: not at all, left to right, front to back, both.
FLIPS: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))


class Segmenter:
    """Segments scans with a trained model, loaded once; may be used by several threads.

    Example::

        segmenter = medkd.Segmenter.load()  # the spleen model that comes with medkd, or load("runs/student")
        result = segmenter("scan.nii.gz")
        print(result.measurements["labels"]["spleen"]["volume_ml"])
        result.save("scan_seg.nii.gz")

    Args:
        backend: runs the network.
        model: what the network is.
        key: of the model, see :func:`~medkd.inference.backends.model_file.model_hash`.
        options: what is done beside the network.

    Raises:
        UserError: flips are asked for, and the model was trained without.
    """

    def __init__(self, backend: Backend, model: SavedModel, key: str = "", options: Options | None = None) -> None:
        self.backend = backend
        self.model = model
        self.key = key
        self.options = options or Options()
        if self.options.flips and not model.flips:
            raise UserError(
                "as far as its description says, the model was not trained on flipped slices, and it tells organs by "
                "their side: leave --flips out, or train with --augment turns."
            )

    @classmethod
    def load(
        cls,
        run: str | Path | None = None,
        backend: str = AUTO,
        device: str | None = None,
        threads: int | None = None,
        options: Options | None = None,
    ) -> Segmenter:
        """Load the model of a run folder, or of a bundle.

        Args:
            run: the folder; the student that comes with medkd by default.
            backend: ``torch``, ``onnx``, ``openvino`` or ``auto``, see
                :func:`~medkd.inference.backends.create_backend`.
            device: of torch, such as ``cuda:1``.
            threads: of the processor; all that the process may use by default.
            options: what is done beside the network.

        Raises:
            UserError: the folder holds no usable model, the backend cannot run it, or the options do not fit it.
        """
        run = bundle_folder(STUDENT) if run is None else run
        model = SavedModel.read(run)
        key = model_hash(run)
        return cls(create_backend(run, key, backend, device, threads), model, key, options)

    def __call__(self, scan: str | Path | Volume | Scan) -> Segmentation:
        """Segment one scan of any size, spacing and orientation.

        Args:
            scan: a file (NIfTI, NRRD, MetaImage), the folder of a DICOM series, or a volume, see
                :func:`medkd.data.volume_from_array`.

        Raises:
            UserError: the file cannot be used; the sentence names it.
        """
        started = time.perf_counter()
        peak = PeakMemory()
        volume = self._read(scan)
        grid = self.model.preprocessing.grid(volume)
        mask = np.zeros(volume.array.shape, np.uint8, order="F")
        uncertainty = Uncertainty(self.model.labels) if self.options.uncertainty else None
        preprocessing = self.model.preprocessing
        for which, logits in self._run(stacked_slices(preprocessing.slices(volume, grid), preprocessing.channels)):
            grid.label_slices(mask, which, logits)
            if uncertainty:
                uncertainty.add(logits)
        values = [value for value in self.model.labels if value]
        pieces = postprocess(mask, values, self.options, volume.spacing, self.model.compact_values)
        figures = measure_labels(mask, volume, self.model.labels)
        for value in values:
            figures[self.model.labels[value]]["components"] = pieces[value]
        for name, unsure in uncertainty.figures().items() if uncertainty else ():
            figures[name]["uncertainty"] = unsure
        measurements = {
            "labels": figures,
            "model": self.model.network.get("name", ""),
            "model_sha256": self.key,
            "backend": self.backend.name,
            "seconds": round(time.perf_counter() - started, 3),
            "peak_mb": peak.megabytes(),
        }
        return Segmentation(mask, volume.affine, volume, measurements)

    def cohort(self, inputs: Sequence[str | Path]) -> Iterator[tuple[Scan, Segmentation | UserError]]:
        """Segment one scan after the other, and write nothing; see :func:`~medkd.inference.run_cohort` for files.

        Args:
            inputs: scans and folders, see :func:`~medkd.inference.find_scans`.

        Yields:
            Every scan with its result, or with the reason why there is none; the rest goes on.

        Raises:
            UserError: a path does not exist, or there is no scan.
        """
        for scan in find_scans(inputs):
            try:
                yield scan, self(scan)
            except UserError as error:
                yield scan, error
            except Exception as error:
                yield scan, UserError(f"{scan.path} failed inside ({type(error).__name__}: {error}).")

    def predict(self, prepared: PreparedScan) -> np.ndarray:
        """The logits ``(C, size, size, Z)`` of a prepared scan."""
        parts = prepared_slices(prepared, self.model.preprocessing.channels)
        return np.moveaxis(np.concatenate([logits for _, logits in self._run(parts)]), 0, 3)

    def _read(self, scan: str | Path | Volume | Scan) -> Volume:
        if isinstance(scan, Volume):
            volume = scan
        else:
            volume = read_scan(scan.path, scan.series) if isinstance(scan, Scan) else read_scan(scan)
        if volume.modality not in ("", "CT") and self.model.preprocessing.window is not None:
            raise UserError(f"{volume.path} is {volume.modality} and the model was trained on HU: give CT.")
        return volume

    def _run(self, slices: Iterable[tuple[slice, np.ndarray]]) -> Iterator[tuple[slice, np.ndarray]]:
        """The logits of slices that come some at a time; the next are prepared while the network is busy with some."""
        with ThreadPoolExecutor(1) as lane:
            under_way: tuple[slice, Future[np.ndarray]] | None = None
            for which, images in slices:
                following = which, lane.submit(self._answer, images)
                if under_way is not None:
                    yield under_way[0], under_way[1].result()
                under_way = following
            if under_way is not None:
                yield under_way[0], under_way[1].result()

    def _answer(self, images: np.ndarray) -> np.ndarray:
        if not self.options.flips:
            return self.backend(images)
        total = sum(np.flip(self.backend(np.ascontiguousarray(np.flip(images, flip))), flip) for flip in FLIPS)
        return np.asarray(total / len(FLIPS), dtype=np.float32)
