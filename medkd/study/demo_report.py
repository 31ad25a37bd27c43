"""The report of a comparison of teacher, student alone and distilled student: one HTML file for people to read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medkd.files import atomic_write
from medkd.metrics import OverlapCounts
from medkd.run_folder import TERM_FIGURES
from medkd.study.charts import (
    Curve,
    curves_svg,
    line_sample_svg,
    mask_png,
    slice_png,
    window_around,
)
from medkd.study.demo_finding import finding
from medkd.study.page import (
    bullets,
    contour_legend,
    duration,
    facts,
    head_row,
    page,
    png_figure,
    section,
    table,
    text,
)
from medkd.study.pictures import Picture

# Order of the models in the summary, and of their lines in the charts.
TEACHER, STUDENT, DISTILLED = range(3)
FIGURES = {"dice": "Dice", "iou": "IoU", "precision": "Precision", "recall": "Recall"}
TERMS = {
    "segmentation": "Segmentation: disagreement with the label",
    "pmd": "Prediction maps (PMD): disagreement with the teacher's output",
    "encoder": "Encoder features: disagreement with the teacher's",
    "bottleneck": "Bottleneck features: disagreement with the teacher's",
    "decoder": "Decoder features: disagreement with the teacher's",
}
NO_TERMS = ("epoch", "loss", "val_dice", "seconds", *TERM_FIGURES)


def write_report(path: Path, summary: dict[str, Any], pictures: Sequence[Picture]) -> None:
    """Write the report; the same input gives the same bytes.

    Args:
        path: of the HTML file.
        summary: ``title``, ``description``, ``models`` (``teacher``, ``student`` and ``distilled`` in this order, each
            an evaluation with ``name``, ``macs``, ``history`` and ``seconds``), ``scaled`` (sentences), ``inference``
            (``scan``, ``mask``, ``volumes_ml``, ``seconds``), ``machine``, ``seed`` and ``seconds``.
        pictures: slices to show, in this order.

    Raises:
        UserError: the file cannot be written.
    """
    models = list(summary["models"].values())
    labels = list(models[TEACHER]["mean"])
    sections = [
        _opening(summary, labels),
        section("The models", _costs(models), *(_accuracy(models, label) for label in labels), _HOW_MEASURED),
        section("Each held-out volume", *(_volumes(models, label) for label in labels)),
        section("What the models drew", contour_legend(_LEGEND_REMARK), *map(_slices, pictures)) if pictures else "",
        section("How training went", _dice_curves(models), _loss_curves(models), _term_curves(models)),
        section("One scan segmented", _inference(summary["inference"])),
        section("What was scaled down", bullets(map(text, summary["scaled"])), anchor="scaled"),
        section("How it was made", _provenance(summary)),
    ]
    with atomic_write(path) as temporary:
        temporary.write_text(page(summary["title"], "\n".join(sections)), encoding="utf-8", newline="\n")


_HOW_MEASURED = """<p class="note">Dice, IoU, precision and recall run from 0 to 1, and more is better. Each is
computed on every held-out volume, on the grid of its scan; shown are the mean and, small, the standard deviation over
the volumes. “Pooled slices” is the Dice as the thesis computes it: one count over all prepared slices of all volumes,
foreground where the logit exceeds 0.5. PSNR, where there is one, tells how closely a multi-task model redraws the
scan.</p>"""

_LEGEND_REMARK = """The dotted frame on the left marks the part enlarged for the models. A anterior,
P posterior, R and L the patient's right and left."""


def _opening(summary: dict[str, Any], labels: list[str]) -> str:
    models = summary["models"].values()
    parts = [f"<header><h1>{text(summary['title'])}</h1><p class='lead'>{text(summary['description'])}</p></header>"]
    for label in labels:
        tiles = (
            f'<div class="tile"><b>{_figure(model, label, "dice")}</b><span>{text(model["name"])}</span></div>'
            for model in models
        )
        figures, effect, trust = map(text, finding(summary["models"], label))
        parts.append(f'<h2 class="first">Dice of the {text(label)}</h2><div class="tiles">{"".join(tiles)}</div>')
        parts.append(f"<p>{figures} <strong>{effect}</strong> {trust}</p>")
    parts.append('<p class="note">Read these figures with <a href="#scaled">what was scaled down</a> in mind.</p>')
    return "".join(parts)


def _costs(models: list[dict[str, Any]]) -> str:
    teacher = models[TEACHER]
    rows = [
        [
            text(model["name"]),
            f"{model['parameters']:,}",
            f"{teacher['parameters'] / model['parameters']:.1f} ×",
            f"{model['macs'] / 1e6:,.1f}",
            f"{teacher['macs'] / model['macs']:.1f} ×",
            duration(model["seconds"]),
        ]
        for model in models
    ]
    fewer = "Fewer than the teacher"
    head = ["Model", "Parameters", fewer, "Multiply-adds per slice, millions", fewer, "Training time"]
    return table("Size and cost", head_row(head), rows)


def _accuracy(models: list[dict[str, Any]], label: str) -> str:
    rows = []
    for model in models:
        figures = [_figure(model, label, figure) for figure in FIGURES]
        pooled = f"{model['pooled_slices'][label]['dice']:.3f}"
        reconstruction = f"{model['psnr']:.1f}" if "psnr" in model else "–"
        rows.append([text(model["name"]), *figures, pooled, reconstruction])
    head = ["Model", *FIGURES.values(), "Dice, pooled slices (thesis)", "PSNR, dB"]
    return table(f"Accuracy: {text(label)}", head_row(head), rows)


def _figure(model: dict[str, Any], label: str, figure: str) -> str:
    mean = f"{model['mean'][label][figure]:.3f}"
    if len(model["cases"]) < 2:
        return mean
    return f"{mean} <small>± {model['standard_deviation'][label][figure]:.3f}</small>"


def _volumes(models: list[dict[str, Any]], label: str) -> str:
    rows = []
    for cases in zip(*(model["cases"] for model in models), strict=True):
        figures = [case["labels"][label] for case in cases]
        change = f"{figures[DISTILLED]['dice'] - figures[STUDENT]['dice']:+.3f}".replace("-", "−")
        cells = [cell for own in figures for cell in (f"{own['dice']:.3f}", f"{own['volume_ml']:.1f}")]
        rows.append([text(cases[0]["name"]), f"{figures[0]['true_volume_ml']:.1f}", *cells, change])
    groups = "".join(f'<th colspan="2" scope="colgroup">{text(model["name"])}</th>' for model in models)
    head = (
        f'<tr><th rowspan="2">Volume</th><th rowspan="2">True ml</th>{groups}'
        f'<th rowspan="2">Dice, distilled minus alone</th></tr>{head_row(["Dice", "ml"] * len(models))}'
    )
    return table(f"Dice and measured volume: {text(label)}", head, rows)


def _slices(picture: Picture) -> str:
    window = window_around([picture.truth, *picture.masks.values()])
    figures = [png_figure(slice_png(picture.image, picture.truth, window), "The slice", "with the truth")]
    for name, mask in picture.masks.items():
        png = mask_png(picture.image, picture.truth, mask, window)
        figures.append(png_figure(png, name, f"Dice {OverlapCounts.of(mask, picture.truth).dice:.3f} on this slice"))
    heading = f"<h3>{text(picture.case)} <small>{text(picture.caption)}</small></h3>"
    return f'<div class="block">{heading}<div class="slices">{"".join(figures)}</div></div>'


def _dice_curves(models: list[dict[str, Any]]) -> str:
    chart = _chart("Dice on the validation volumes: higher is better", models, "val_dice", (700, 250))
    names = (f"{line_sample_svg(line)}<span>{text(model['name'])}</span>" for line, model in enumerate(models))
    return f'<div class="block dice">{chart}{bullets(names)}</div>'


def _loss_curves(models: list[dict[str, Any]]) -> str:
    note = "Lower is better. Each model adds up its own terms: compare the shapes of these curves, not their heights."
    charts = (_chart(model["name"], models, "loss", only=(line,)) for line, model in enumerate(models))
    return _charts("Loss in training", note, charts)


def _term_curves(models: list[dict[str, Any]]) -> str:
    terms = [name for name in models[DISTILLED]["history"][0] if name not in NO_TERMS]
    if not terms:
        return ""
    note = "The terms of its loss before they are weighted, each on its own scale; lower is better. Where the student "
    note += "alone learns the same term, its curve is drawn too."
    charts = (_chart(TERMS.get(term, term), models, term, only=(STUDENT, DISTILLED)) for term in terms)
    return _charts("What the distilled student learns from", note, charts)


def _charts(heading: str, note: str, charts: Iterable[str]) -> str:
    grid = f'<div class="charts">{"".join(charts)}</div>'
    return f'<div class="block"><h3>{heading}</h3><p class="note">{note}</p>{grid}</div>'


def _chart(
    title: str,
    models: list[dict[str, Any]],
    figure: str,
    size: tuple[int, int] = (340, 200),
    only: Sequence[int] = (TEACHER, STUDENT, DISTILLED),
) -> str:
    curves = []
    for line in only:
        rows = [row for row in models[line]["history"] if figure in row]
        if rows:
            curves.append(Curve(line, [row["epoch"] for row in rows], [row[figure] for row in rows]))
    return f"<figure><figcaption><b>{text(title)}</b></figcaption>{curves_svg(curves, title, *size)}</figure>"


def _inference(inference: dict[str, Any]) -> str:
    volumes = (f"{text(label)} {volume:.1f} ml" for label, volume in inference["volumes_ml"].items())
    return facts(
        {
            "Scan": f"<code>{text(inference['scan'])}</code>",
            "Measured": ", ".join(volumes),
            "Mask, beside this report": f"<code>{text(inference['mask'])}</code>",
            "Time": duration(inference["seconds"]),
        }
    )


def _provenance(summary: dict[str, Any]) -> str:
    machine = summary["machine"]
    versions = {"medkd": "medkd", "Python": "python", "PyTorch": "torch", "MONAI": "monai"}
    return facts(
        {
            "Processor": text(f"{machine['processor']}; cores: {machine['cores']}, threads: {machine['threads']}"),
            "GPU": text(machine["gpu"] or "none"),
            "Versions": text(", ".join(f"{name} {machine[key]}" for name, key in versions.items())),
            "Seed": text(summary["seed"]),
            "Time of the whole run": duration(summary["seconds"]),
        }
    )
