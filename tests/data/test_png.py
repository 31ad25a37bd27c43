from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from PIL import Image

from medkd.data.png import export_slices
from medkd.errors import UserError

DATA = os.environ.get("MEDKD_DATA")
SPACING = (2.0, 3.0, 5.0)
ALL_ORIENTATIONS = [
    "".join(codes) for axes in itertools.permutations(("LR", "PA", "IS")) for codes in itertools.product(*axes)
]


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def make_task(
    folder: Path,
    image: np.ndarray,
    label: np.ndarray,
    orientation: str = "RAS",
    names: tuple[str, ...] = ("a",),
    foreground: tuple[str, ...] = ("spleen",),
) -> Path:
    """A task of arrays given in RAS order, stored in another orientation."""
    ras = np.diag([*SPACING, 1.0])
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation))
    affine = ras @ inv_ornt_aff(turn, image.shape)
    for name in names:
        save(folder / f"imagesTr/{name}.nii.gz", apply_orientation(image, turn), affine)
        save(folder / f"labelsTr/{name}.nii.gz", apply_orientation(label, turn), affine)
    content = {
        "name": "Spleen",
        "labels": {str(value): name for value, name in enumerate(("background", *foreground))},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
    }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def body() -> tuple[np.ndarray, np.ndarray]:
    """4x5x3 voxels of 0 HU in RAS order, with one bright voxel and one labelled voxel.

    Bright: the patient's right (last in x), front (last in y), nearest to the feet (first in z).
    Labelled: the patient's left (first in x), second from the back, nearest to the head.
    """
    image, label = np.zeros((4, 5, 3), np.int16), np.zeros((4, 5, 3), np.uint8)
    image[3, 4, 0] = 400
    label[0, 1, 2] = 1
    return image, label


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "L"
        return np.asarray(picture)


@pytest.mark.parametrize("orientation", ALL_ORIENTATIONS)
def test_every_orientation_gives_the_same_radiological_pictures(tmp_path: Path, orientation: str) -> None:
    task = make_task(tmp_path / "task", *body(), orientation=orientation)
    out = tmp_path / "png"
    assert export_slices(task, out, progress=False) == {"cases": 1, "slices": 3, "foreground_slices": 1}
    names = [f"image_a_{index:03d}.png" for index in range(3)]
    assert sorted(path.name for path in (out / "images").iterdir()) == names
    assert sorted(path.name for path in (out / "masks").iterdir()) == names
    # 0 HU is 125 of the 400 HU above the lower end of the window: 255 * 125 / 400 = 79.7.
    expected = np.full((3, 5, 4), 80)
    expected[0, 0, 0] = 255  # feet, front row, column of the patient's right
    np.testing.assert_array_equal([pixels(out / "images" / name) for name in names], expected)
    masks = np.zeros((3, 5, 4))
    masks[2, 3, 3] = 255  # head, second row from the back, column of the patient's left
    np.testing.assert_array_equal([pixels(out / "masks" / name) for name in names], masks)
    (case,) = json.loads((out / "conversion.json").read_text())["cases"]
    assert case["png_rows_columns"] == [5, 4]
    assert case["png_spacing_mm"] == pytest.approx([3.0, 2.0])
    assert case["slice_spacing_mm"] == pytest.approx(5.0)
    assert case["nifti_orientation"] == orientation


@pytest.mark.parametrize(
    ("window", "grey"),
    [
        # HU:           -1000 -126 -125 -100   0   100   275   276   3000
        ((-125, 275), [0, 0, 0, 16, 80, 143, 255, 255, 255]),
        ((0, 255), [0, 0, 0, 0, 0, 100, 255, 255, 255]),
        ((-1000, 1040), [0, 109, 109, 112, 125, 138, 159, 160, 255]),
    ],
)
def test_window_is_scaled_linearly_and_cut(tmp_path: Path, window: tuple[float, float], grey: list[int]) -> None:
    values = np.array([-1000, -126, -125, -100, 0, 100, 275, 276, 3000], np.int16).reshape(1, 9, 1)
    task = make_task(tmp_path / "task", values, np.zeros_like(values, np.uint8), orientation="RPS")
    export_slices(task, tmp_path / "png", window=window, progress=False)
    # Stored from front to back but given in RAS order, so the picture has the values from bottom to top.
    assert pixels(tmp_path / "png/images/image_a_000.png")[::-1, 0].tolist() == grey


def test_nifti_grid_can_be_recovered_from_the_pictures(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    image = random.randint(-125, 276, (6, 5, 4)).astype(np.int16)
    label = random.randint(0, 3, (6, 5, 4)).astype(np.uint8)
    # An oblique grid: 20 degrees about the body's long axis, axes in an unusual order.
    task = make_task(tmp_path / "task", image, label, orientation="ILA", foreground=("spleen", "left kidney"))
    cosine, sine = np.cos(np.pi / 9), np.sin(np.pi / 9)
    turned = np.array([[cosine, -sine, 0, 7], [sine, cosine, 0, -9], [0, 0, 1, 3], [0, 0, 0, 1]])
    stored: dict[str, Any] = {}
    for kind in ("imagesTr", "labelsTr"):
        source = nibabel.Nifti1Image.from_filename(task / kind / "a.nii.gz")
        stored[kind] = np.asarray(source.dataobj)
        save(task / kind / "a.nii.gz", stored[kind], turned @ source.affine)
    out = tmp_path / "png"
    export_slices(task, out, progress=False)
    conversion = json.loads((out / "conversion.json").read_text())
    (case,) = conversion["cases"]
    assert conversion["mask_folders"] == {"masks": [1, 2], "masks_spleen": [1], "masks_left_kidney": [2]}

    def volume(folder: str) -> np.ndarray:
        slices = [pixels(out / folder / f"image_a_{index:03d}.png").T for index in range(case["slices"])]
        back = ornt_transform(axcodes2ornt(conversion["orientation"]), io_orientation(np.array(case["nifti_affine"])))
        return apply_orientation(np.stack(slices, axis=-1), back)

    assert list(volume("images").shape) == case["nifti_shape"] == list(stored["imagesTr"].shape)
    low, high = conversion["window_hu"]
    np.testing.assert_allclose(volume("images") / 255 * (high - low) + low, stored["imagesTr"], atol=0.79)
    np.testing.assert_array_equal(volume("masks") == 255, stored["labelsTr"] > 0)
    rebuilt = (volume("masks_spleen") // 255) + 2 * (volume("masks_left_kidney") // 255)
    np.testing.assert_array_equal(rebuilt, stored["labelsTr"])


@pytest.mark.parametrize("size", [3, 16])
def test_size_makes_square_pictures(tmp_path: Path, size: int) -> None:
    image, label = np.zeros((8, 6, 2), np.int16), np.zeros((8, 6, 2), np.uint8)
    image[:4] = 275
    label[:4] = 1
    export_slices(make_task(tmp_path / "task", image, label), tmp_path / "png", size=size, progress=False)
    picture, mask = (pixels(tmp_path / f"png/{kind}/image_a_001.png") for kind in ("images", "masks"))
    assert picture.shape == mask.shape == (size, size)
    assert set(np.unique(mask)) == {0, 255}
    # The patient's left half is bright and labelled: the right half of the picture.
    assert (picture[:, 0] < picture[:, -1]).all()
    assert (mask[:, 0] == 0).all() and (mask[:, -1] == 255).all()
    (case,) = json.loads((tmp_path / "png/conversion.json").read_text())["cases"]
    assert case["png_spacing_mm"] == pytest.approx([3.0 * 6 / size, 2.0 * 8 / size])


def test_slice_numbers_sort_beyond_999(tmp_path: Path) -> None:
    image = np.arange(1001, dtype=np.int16).reshape(1, 1, 1001)
    export_slices(make_task(tmp_path / "task", image, np.zeros_like(image, np.uint8)), tmp_path / "png", progress=False)
    names = sorted(path.name for path in (tmp_path / "png/images").iterdir())
    assert (names[0], names[-1], len(names)) == ("image_a_0000.png", "image_a_1000.png", 1001)


def test_bad_case_leaves_nothing_behind(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", *body(), names=("a", "b", "c"))
    bad = task / "imagesTr/b.nii.gz"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(UserError, match=r"b\.nii\.gz is cut off or damaged"):
        export_slices(task, tmp_path / "png", progress=False)
    assert not (tmp_path / "png").exists()
    (tmp_path / "png").mkdir()
    (tmp_path / "png/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"b\.nii\.gz is cut off or damaged"):
        export_slices(task, tmp_path / "png", progress=False)
    assert [path.name for path in (tmp_path / "png").iterdir()] == ["notes.txt"]


def test_label_of_another_grid_is_refused(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", *body())
    save(task / "labelsTr/a.nii.gz", body()[1], np.eye(4))
    with pytest.raises(UserError, match="lies elsewhere"):
        export_slices(task, tmp_path / "png", progress=False)


def test_folder_with_an_export_is_refused_and_kept(tmp_path: Path) -> None:
    task = make_task(tmp_path / "task", *body())
    export_slices(task, tmp_path / "png", progress=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "png").rglob("*")}
    with pytest.raises(UserError, match="png holds exported slices already"):
        export_slices(task, tmp_path / "png", progress=False)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "png").rglob("*")} == before


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "png").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write .*png"):
        export_slices(make_task(tmp_path / "task", *body()), tmp_path / "png", progress=False)
    assert (tmp_path / "png").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"window": (275, -125)}, "window is 275 to -125 HU"),
        ({"window": (5, 5)}, "window is 5 to 5 HU"),
        ({"window": (float("nan"), 5)}, "window is nan to 5 HU"),
        ({"size": 0}, "size is 0 pixels"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        export_slices(make_task(tmp_path / "task", *body()), tmp_path / "png", progress=False, **options)


def test_label_names_that_are_no_folder_names(tmp_path: Path) -> None:
    names = ("../tumour / edema", "Größe")
    export_slices(make_task(tmp_path / "a", *body(), foreground=names), tmp_path / "png", progress=False)
    folders = sorted(path.name for path in (tmp_path / "png").iterdir() if path.is_dir())
    assert folders == ["images", "masks", "masks_Größe", "masks__tumour_edema"]
    clash = make_task(tmp_path / "b", *body(), foreground=("left kidney", "Left_Kidney"))
    with pytest.raises(UserError, match=r"label Left_Kidney of .* gives a mask folder twice"):
        export_slices(clash, tmp_path / "other", progress=False)


@pytest.mark.realdata
@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is unset: no real scan to convert")
def test_real_scan_shows_the_spleen_on_the_left_side_of_the_body(tmp_path: Path) -> None:
    source = Path(str(DATA)) / "btcv_spleen"
    content = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    content["training"] = [
        {kind: str(source / f"{kind}sTr/spleen_16.nii.gz") for kind in ("image", "label")},
    ]
    (tmp_path / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    out = tmp_path / "png"
    counts = export_slices(tmp_path, out, progress=False)
    label = np.asarray(nibabel.Nifti1Image.from_filename(source / "labelsTr/spleen_16.nii.gz").dataobj)
    assert counts == {"cases": 1, "slices": 88, "foreground_slices": int(label.any(axis=(0, 1)).sum())}
    masks = np.stack([pixels(path) for path in sorted((out / "masks").iterdir())])
    assert int((masks == 255).sum()) == int(label.sum())
    _, rows, columns = np.nonzero(masks)
    # Radiological display: the spleen is on the picture's right, and it lies to the back.
    assert columns.mean() > 257 * 0.6
    assert rows.mean() > 257 * 0.5
