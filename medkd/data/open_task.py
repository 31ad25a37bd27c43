"""Opening the data of a recipe: a Decathlon folder, one to be downloaded first, or files named one by one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from medkd.data.decathlon import DecathlonTask, read_labels
from medkd.errors import UserError, first_line
from medkd.files import unwritable


def open_task(
    folder: str | Path,
    download: bool = False,
    images: Sequence[str | Path] | None = None,
    labels: Sequence[str | Path] | None = None,
    names: Sequence[str] = ("background", "spleen"),
) -> DecathlonTask:
    """Open the data of a recipe.

    Args:
        folder: the task folder.
        download: fetch it first through MONAI if it is missing (see :func:`download_task`).
        images: files to use instead of the cases that ``dataset.json`` lists; the folder then needs none.
        labels: the label of each image, in the same order.
        names: of the label values 0, 1 ..., where ``images`` are given and the folder has no ``dataset.json``.

    Raises:
        UserError: the folder, ``dataset.json`` or a file is missing, or images and labels do not pair up.
    """
    folder = Path(folder)
    if download:
        download_task(folder.name, folder.parent)
    if images is None and labels is None:
        return DecathlonTask.load(folder)
    for name, files in (("images", images), ("labels", labels)):
        if isinstance(files, str):
            raise UserError(f"{name} is {files!r}: give a list, such as '$sorted(glob.glob(\"CT/*.nii.gz\"))'.")
    if not images or not labels or len(images) != len(labels):
        raise UserError(
            f"{len(images or [])} images and {len(labels or [])} labels do not pair up: give one label for each image."
        )
    description = folder / "dataset.json"
    values = read_labels(description) if description.is_file() else dict(enumerate(names))
    return DecathlonTask.of_files(folder, images, labels, values)


def download_task(name: str, root: str | Path) -> Path:
    """Download a Decathlon task through MONAI unless its folder exists already.

    Args:
        name: the task, such as `Task09_Spleen`.
        root: the folder that shall hold the task folder.

    Returns:
        The task folder, `root / name`.

    Raises:
        UserError: the name is not a task of the Decathlon, `root` cannot be written to, or the download failed.
    """
    root = Path(root)
    folder = root / name
    if folder.is_dir():
        return folder
    from monai.apps import DecathlonDataset  # slow to import, and not needed to read a folder

    if name not in DecathlonDataset.resource:
        raise UserError(f"{name} is not a Decathlon task: choose one of {', '.join(DecathlonDataset.resource)}.")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(root, error) from error
    try:
        DecathlonDataset(root_dir=root, task=name, section="training", download=True, cache_num=0)
    except BaseException as error:
        # A folder unpacked in part would pass for the task at the next call.
        shutil.rmtree(folder, ignore_errors=True)
        if not isinstance(error, Exception):
            raise
        # MONAI wraps a failed connection in a bare Exception, so there is no narrower type to ask for.
        reason = first_line(error)
        raise UserError(
            f"{name} could not be downloaded ({reason}): check the network, or unpack {name}.tar into {root} yourself."
        ) from error
    return folder
