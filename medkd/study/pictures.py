"""Which slices a report shows, and what the models draw on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medkd.data import Case, DecathlonTask, PreparedScan, read_image, read_label
from medkd.errors import UserError
from medkd.inference import Segmenter
from medkd.metrics import labels_from_logits
from medkd.run_folder import WEIGHTS_FILE
from medkd.study.job import jobs_of
from medkd.study.outcome import standing
from medkd.study.plan import Study

# The models of a study's pictures, in the order in which they are shown.
ROLES = {"teacher": "Teacher", "student": "Student alone", "distilled": "Student distilled"}


@dataclass(frozen=True)
class Picture:
    """A slice with the contours of the truth and of the models.

    Attributes:
        case: name of the volume.
        caption: why this slice was chosen, such as "median case".
        image: ``(H, W)`` of 0 to 1, row 0 anterior, column 0 the patient's right.
        truth: boolean ``(H, W)``.
        masks: display name of a model to its boolean ``(H, W)``.
    """

    case: str
    caption: str
    image: np.ndarray
    truth: np.ndarray
    masks: dict[str, np.ndarray]


def study_pictures(out: Path, study: Study) -> list[Picture]:
    """What the three models of ``study.pictures`` draw, trained with the first seed.

    Args:
        out: folder of the study.
        study: as it was planned.

    Returns:
        As :func:`draw_cases`. Nothing where the study names no such models, one of them is not finished, is of another
        recipe or was deleted, they do not share their pre-processing or labels, or the data has gone.

    Raises:
        UserError: a file cannot be used.
    """
    if not study.pictures.keys() >= ROLES.keys():
        return []
    jobs = {job.id: job for job in jobs_of(study, out)}
    chosen = {role: jobs[f"{study.pictures[role]}-{study.seeds[0]}"] for role in ROLES}
    # Where a role evaluates the model of another run, that one's must be what the study has too.
    trained = {role: jobs[f"{job.run.of or job.run.name}-{job.seed}"] for role, job in chosen.items()}
    folders = {role: job.out for role, job in trained.items()}
    needed = [*chosen.values(), *trained.values()]
    finished = standing(needed, out).results
    if any(job.run.dataset for job in trained.values()):
        return []
    data = Path(chosen["distilled"].data)
    files = [data / "dataset.json", *(folder / WEIGHTS_FILE for folder in folders.values())]
    if not all(job.id in finished for job in needed) or not all(file.is_file() for file in files):
        return []
    segmenters = {
        f"{name}: {chosen[role].run.title}": Segmenter.load(folders[role], backend="torch")
        for role, name in ROLES.items()
    }
    preparations = [segmenter.model.preprocessing for segmenter in segmenters.values()]
    if len({preparation.key() for preparation in preparations}) > 1:
        return []
    cases = finished[chosen["distilled"].id]["cases"]
    dice = {case["name"]: case["labels"][study.label]["dice"] for case in cases}
    return draw_cases(segmenters, DecathlonTask.load(data), dice, study.label)


def draw_cases(
    segmenters: Mapping[str, Segmenter], task: DecathlonTask, dice: Mapping[str, float], label: str
) -> list[Picture]:
    """Draw the best, the median and the worst case of the distilled student; fewer where there are fewer cases.

    Args:
        segmenters: display name to a model; all prepare their slices in one way.
        task: that the cases are of.
        dice: case to the Dice of the distilled student.
        label: name of the structure to draw.

    Returns:
        Of each case the slice that holds most of the structure.

    Raises:
        UserError: a case is not in the task, or its files cannot be used.
    """
    value = next(value for value, name in task.labels.items() if name == label)
    chosen = _choose(dice)
    return [
        _draw(segmenters, case, caption, value)
        for caption, case in zip(chosen.values(), task.select(chosen), strict=True)
    ]


def _choose(dice: Mapping[str, float]) -> dict[str, str]:
    """Case to why it is shown."""
    order = list(dice)
    order = [order[index] for index in np.argsort(list(dice.values()), kind="stable")[::-1]]
    if len(order) == 1:
        return {order[0]: "only case"}
    return {order[0]: "best case", order[len(order) // 2]: "median case", order[-1]: "worst case"}


def _draw(segmenters: Mapping[str, Segmenter], case: Case, caption: str, value: int) -> Picture:
    if case.label is None:
        raise UserError(f"{case.image} has no label: pictures need labelled cases.")
    preprocessing = next(iter(segmenters.values())).model.preprocessing
    prepared = preprocessing.apply(read_image(case.image), read_label(case.label))
    truth = np.asarray(prepared.label == value)
    index = int(truth.sum(axis=(0, 1)).argmax())
    masks = {name: _display(_labels(segmenter, prepared, index) == value) for name, segmenter in segmenters.items()}
    return Picture(
        case=case.name,
        caption=f"{caption} of the distilled student, slice {index}",
        image=_display(prepared.image[:, :, index]),
        truth=_display(truth[:, :, index]),
        masks=masks,
    )


def _labels(segmenter: Segmenter, prepared: PreparedScan, index: int) -> np.ndarray:
    """What a model draws on a slice of the prepared scan."""
    logits = torch.from_numpy(segmenter.predict(prepared)[..., index])
    return labels_from_logits(logits)[0].numpy()


def _display(plane: np.ndarray) -> np.ndarray:
    """RAS ``(x, y)`` to rows from the front and columns from the patient's right, as radiologists look at it."""
    return plane.T[::-1, ::-1]
