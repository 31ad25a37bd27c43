"""Figures of a trained model on labelled volumes, on the grid of the original scans."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from medkd.data.decathlon import Case
from medkd.data.nifti import check_pair, read_image, read_label
from medkd.data.transforms import PreparedScan, prepared_slices
from medkd.errors import UserError
from medkd.inference.backends import TorchBackend
from medkd.inference.postprocessing import postprocess
from medkd.inference.segmenter import Segmenter
from medkd.metrics import OverlapCounts, labels_from_logits, psnr
from medkd.networks import count_parameters, reconstructs

# The published code says foreground where the LOGIT exceeds one half, a probability of 0.62.
THESIS_THRESHOLD = 0.5

Slices = Callable[[str, int], np.ndarray]


def evaluate(
    segmenter: Segmenter,
    cases: Sequence[Case],
    labels: dict[int, str],
    slices: Slices | None = None,
    postprocessed: bool = False,
) -> dict[str, Any]:
    """Segment every case and compare with its label.

    Args:
        segmenter: the model, run by torch.
        cases: with labels.
        labels: of the data set, value to name; they must be those of the model.
        slices: given the name and the number of axial slices of a case, tells which of them count in all figures, as
            :func:`~medkd.data.held_out_slices` does: ``(count,)`` bool from inferior to superior, whatever the order
            in which the scan is stored. The network sees the whole scan all the same.
        postprocessed: first keep the largest piece and fill holes, as the segmenter's options say and as it does with
            new scans; the pooled figures stay those of the network alone.

    Returns:
        ``cases`` (for each: name, figures by label), ``mean`` and ``standard_deviation`` over volumes by label,
        ``postprocessed``, ``pooled_slices`` as MTMS-KD computes them (one count over all prepared slices, logit above
        0.5), ``psnr`` of the reconstruction in dB for a multi-task model, ``parameters``. Figures are dice, iou,
        precision, recall.

    Raises:
        UserError: no case, a bad file, labels the model was not trained on, or another backend than torch.
    """
    if not isinstance(segmenter.backend, TorchBackend):
        raise UserError(f"the backend {segmenter.backend.name} cannot be evaluated: load the model with torch.")
    if not cases:
        raise UserError("there is no case to evaluate: check the split of the data set.")
    segmenter.model.check_labels(labels)
    rows = []
    pooled = {name: OverlapCounts() for value, name in labels.items() if value}
    for case in tqdm(cases, desc="evaluating", unit="volume", leave=False, delay=1.0):
        row, counts = _evaluate_case(segmenter, segmenter.backend, case, labels, slices, postprocessed)
        rows.append(row)
        pooled = {name: pooled[name] + counts[name] for name in pooled}
    report = {
        "parameters": count_parameters(segmenter.backend.network),
        "postprocessed": postprocessed,
        "cases": rows,
        "mean": _over_volumes(rows, statistics.fmean),
        "standard_deviation": _over_volumes(rows, lambda values: statistics.stdev(values) if len(values) > 1 else 0.0),
        "pooled_slices": {name: counts.figures() for name, counts in pooled.items()},
    }
    if "psnr" in rows[0]:
        report["psnr"] = statistics.fmean(row["psnr"] for row in rows)
    return report


def _evaluate_case(
    segmenter: Segmenter,
    torch_backend: TorchBackend,
    case: Case,
    labels: dict[int, str],
    slices: Slices | None,
    postprocessed: bool,
) -> tuple[dict[str, Any], dict[str, OverlapCounts]]:
    if case.label is None:
        raise UserError(f"{case.image} has no label: evaluate labelled cases only.")
    image, truth = read_image(case.image), read_label(case.label)
    check_pair(image, truth, list(labels))
    prepared = segmenter.model.preprocessing.apply(image, truth)
    logits, reconstruction = _predict(torch_backend, segmenter, prepared)
    mask = prepared.labels(logits)
    if postprocessed:
        values, compact = [value for value in labels if value], segmenter.model.compact_values
        postprocess(mask, values, segmenter.options, image.spacing, compact)
    thesis_mask = labels_from_logits(torch.from_numpy(logits), THESIS_THRESHOLD)[0].numpy()
    true_mask, prepared_truth = truth.array, prepared.label
    assert prepared_truth is not None
    counted: Any = slice(None)
    if slices is not None:
        counted = slices(case.name, logits.shape[3])
        on_scan = np.zeros(mask.shape, bool)
        prepared.grid.to_ras(on_scan)[:, :, counted] = True
        mask, true_mask = mask[on_scan], true_mask[on_scan]
        thesis_mask, prepared_truth = thesis_mask[..., counted], prepared_truth[..., counted]
    row: dict[str, Any] = {"name": case.name, "labels": {}}
    counts = {}
    for value, name in labels.items():
        if value:
            figures = OverlapCounts.of(mask == value, true_mask == value).figures()
            volumes = {
                "volume_ml": float((mask == value).sum()) * image.voxel_ml,
                "true_volume_ml": float((true_mask == value).sum()) * image.voxel_ml,
            }
            row["labels"][name] = figures | volumes
            counts[name] = OverlapCounts.of(thesis_mask == value, prepared_truth == value)
    if reconstruction is not None:
        # The middle channel of the reconstruction is the slice itself, however the channels are made.
        middle = torch.from_numpy(reconstruction[len(reconstruction) // 2])
        row["psnr"] = psnr(middle[..., counted], torch.from_numpy(prepared.image)[..., counted])
    return row, counts


def _predict(backend: TorchBackend, segmenter: Segmenter, prepared: PreparedScan) -> tuple[np.ndarray, Any]:
    """Logits ``(C, size, size, Z)`` and, of a network that makes it, the reconstruction in the same form."""
    if not reconstructs(backend.network):
        return segmenter.predict(prepared), None
    parts = prepared_slices(prepared, segmenter.model.preprocessing.channels)
    outputs = [backend.run(slices, reconstruct=True) for _, slices in parts]
    logits, reconstruction = (
        np.moveaxis(np.concatenate([output[index] for output in outputs]), 0, 3) for index in range(2)
    )
    return logits, reconstruction


def _over_volumes(rows: list[dict[str, Any]], summary: Any) -> dict[str, dict[str, float]]:
    first = rows[0]["labels"]
    return {
        label: {
            figure: summary([row["labels"][label][figure] for row in rows])
            for figure in ("dice", "iou", "precision", "recall")
        }
        for label in first
    }


def format_evaluation(report: dict[str, Any], run: str | Path) -> str:
    """A table of the report for the terminal, at most 80 columns."""
    cleaned = ", post-processed" if report["postprocessed"] else ""
    lines = [f"{Path(run).name}: {report['parameters']:,} parameters, {len(report['cases'])} volumes{cleaned}"]
    for label in report["mean"]:
        lines += ["", f"{label:<24}{'Dice':>8}{'IoU':>8}{'precision':>11}{'recall':>8}{'ml':>9}{'true ml':>9}"]
        for row in report["cases"]:
            figures = row["labels"][label]
            name = row["name"] if len(row["name"]) <= 22 else row["name"][:21] + "~"
            lines.append(_row("  " + name, figures) + f"{figures['volume_ml']:>9.1f}{figures['true_volume_ml']:>9.1f}")
        lines.append(_row("mean", report["mean"][label]))
        lines.append(_row("standard deviation", report["standard_deviation"][label]))
        lines.append(_row("pooled slices (thesis)", report["pooled_slices"][label]))
    if "psnr" in report:
        lines += ["", f"reconstruction PSNR {report['psnr']:.1f} dB"]
    return "\n".join(lines)


def _row(name: str, figures: dict[str, float]) -> str:
    return (
        f"{name:<24}{figures['dice']:>8.3f}{figures['iou']:>8.3f}{figures['precision']:>11.3f}{figures['recall']:>8.3f}"
    )
