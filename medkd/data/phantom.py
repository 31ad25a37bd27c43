"""Synthetic abdominal CT with a labelled spleen, in the layout of the Decathlon's Task09_Spleen, for demos and tests.

Spleen, liver, kidneys, stomach and bowel have nearly the same attenuation, as in a portal-venous scan with oral
contrast, and a full colon below the spleen has its shape too: what tells the spleen apart is its place in the body.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from medkd.data.phantom_anatomy import STRUCTURES, Scene, Shape, Vector, paint_organs, paint_spine, paint_trunk
from medkd.errors import UserError
from medkd.files import atomic_write, write_json

SLICE_SPACINGS, SLICE_SPACING_ODDS = (1.5, 2.5, 3.75, 5.0, 7.0, 8.0), (0.02, 0.08, 0.15, 0.40, 0.20, 0.15)
ORIENTATIONS = ("RAS", "LAS", "LPS")
SMALLEST_SHAPE = 16


def _add_noise(scene: Scene, rng: np.random.Generator) -> None:
    """Scanner noise that is correlated between neighbouring pixels of a slice."""
    sigma = rng.uniform(8.0, 15.0)
    rows, columns = scene.hu.shape[1:]
    for part in scene.hu:
        noise = rng.standard_normal((rows + 2, columns + 2), dtype=np.float32)
        noise = noise[:-2] + 2 * noise[1:-1] + noise[2:]
        part += np.float32(sigma / 6.0) * (noise[:, :-2] + 2 * noise[:, 1:-1] + noise[:, 2:])


def _draw(seed: int, spacing: Vector | None, shape: Shape | None) -> tuple[Scene, str, np.ndarray]:
    """The painted scene, the directions its axes are to be stored in, and where the middle of the body lies in mm."""
    if seed < 0:
        raise UserError(f"seed {seed} is negative: give 0 or a larger whole number.")
    if spacing is not None and shape is not None:
        raise UserError("spacing and shape cannot both be set: give the one, the other follows from the field of view.")
    rng = np.random.default_rng(seed)
    width, wall, fat = rng.uniform(120.0, 148.0), rng.uniform(10.0, 15.0), rng.uniform(8.0, 30.0)
    depth, body = width * rng.uniform(0.66, 0.76), 2 * (width + wall + fat)
    pixel = rng.uniform(max(0.7, (body + 25.0) / 512), 0.9)
    matrix = min(512, 16 * int(np.ceil(max(400.0, (body + 35.0) / pixel) / 16)))
    thickness = float(rng.choice(SLICE_SPACINGS, p=SLICE_SPACING_ODDS))
    field = (pixel * matrix, pixel * matrix, thickness * round(rng.uniform(185.0, 235.0) / thickness))
    orientation, middle = str(rng.choice(ORIENTATIONS)), rng.uniform(-30.0, 30.0, 3)
    if shape is None:
        spacing = spacing or (pixel, pixel, thickness)
        if not min(spacing) > 0:
            raise UserError(f"spacing {spacing} has an axis of no size: give three numbers of mm above 0.")
        shape = (round(field[0] / spacing[0]), round(field[1] / spacing[1]), round(field[2] / spacing[2]))
    if min(shape) < SMALLEST_SHAPE:
        raise UserError(f"shape {shape} is too coarse for the organs: give each axis {SMALLEST_SHAPE} voxels or more.")
    if spacing is None:
        spacing = (field[0] / shape[0], field[1] / shape[1], field[2] / shape[2])
    scene = Scene(spacing, shape, width, depth)
    paint_trunk(scene, rng, wall, fat)
    paint_spine(scene, rng)
    paint_organs(scene, rng)
    _add_noise(scene, rng)
    return scene, orientation, middle


def make_phantom(
    seed: int, *, spacing: Vector | None = None, shape: Shape | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a synthetic abdominal CT volume and the mask of its spleen.

    The seed fixes the patient and the field of view, which always holds the whole width of the body. Spacing and shape
    follow from each other by the field of view: give neither, and the spacing is drawn too, or give the one you want.

    Args:
        seed: the patient, 0 or larger.
        spacing: voxel size along the stored axes, in mm.
        shape: voxels along the stored axes, each 16 or more.

    Returns:
        The volume in HU (int16, ``shape``), the mask of the spleen (uint8, ``shape``) and the affine (4x4, voxel to mm
        with right, front and up positive, as in nibabel). The stored axes lie right-left, front-back and up-down.

    Raises:
        UserError: the seed is negative, spacing and shape are both given, or one of them does not suffice.
    """
    scene, orientation, middle = _draw(seed, spacing, shape)
    hu = np.rint(scene.hu).clip(-1024, 3071).astype(np.int16).T
    spleen = STRUCTURES.index("spleen")
    label = (spleen == scene.structures.T).astype(np.uint8)
    signs = np.array([1 if letter in "RAS" else -1 for letter in orientation])
    affine = np.eye(4)
    affine[:3, :3] = np.diag(signs * scene.spacing)
    affine[:3, 3] = middle + signs * [axis[0] for axis in scene.axes]
    flip = tuple(slice(None, None, int(sign)) for sign in signs)
    return hu[flip], label[flip], affine


def write_phantom_task(
    out: Path, volumes: int, seed: int, *, shape: Shape | None = None, progress: bool = True
) -> None:
    """Write a task folder of synthetic volumes, as ``Task09_Spleen`` is laid out; ``dataset.json`` comes last.

    Volume k depends on ``seed`` and k alone, down to the bytes of its files.

    Args:
        out: the folder to write to; it must not hold a task yet.
        volumes: how many volumes.
        seed: fixes all of them, 0 or larger.
        shape: voxels of every volume along the stored axes; drawn for each when None.
        progress: show a progress bar.

    Raises:
        UserError: fewer than one volume, a negative seed, a folder that holds a task or cannot be written to.
    """
    out = Path(out)
    if volumes < 1:
        raise UserError(f"volumes is {volumes}: ask for 1 or more.")
    if seed < 0:
        raise UserError(f"seed {seed} is negative: give 0 or a larger whole number.")
    if (out / "dataset.json").exists():
        raise UserError(f"{out} already holds a dataset.json: choose another folder or delete this one.")
    names = [f"spleen_{k}.nii.gz" for k in range(1, volumes + 1)]
    for k, name in enumerate(tqdm(names, desc="phantom volumes", unit="volume", disable=not progress)):
        patient = int(np.random.SeedSequence((seed, k)).generate_state(1)[0])
        hu, label, affine = make_phantom(patient, shape=shape)
        _write_nifti(out / "imagesTr" / name, hu, affine)
        _write_nifti(out / "labelsTr" / name, label, affine)
    write_json(
        out / "dataset.json",
        {
            "name": "Spleen",
            "description": f"Synthetic abdominal CT with a labelled spleen, seed {seed}; no patient data",
            "modality": {"0": "CT"},
            "labels": {"0": "background", "1": "spleen"},
            "numTraining": volumes,
            "numTest": 0,
            "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
            "test": [],
        },
    )


def _write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    # No name and no time in the gzip header: the same seed gives the same bytes. Level 1, since noise hardly packs.
    with (
        atomic_write(path) as temporary,
        temporary.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0) as packed,
    ):
        packed.write(image.to_bytes())
