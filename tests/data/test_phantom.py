from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medkd.data import phantom, phantom_anatomy
from medkd.data.phantom import make_phantom, write_phantom_task
from medkd.data.phantom_anatomy import STRUCTURES
from medkd.errors import UserError

SMALL = (64, 64, 40)
# One seed for each direction in which axes are stored.
SEED_OF = {"RAS": 5, "LAS": 4, "LPS": 2}


def centre_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return affine[:3, :3] @ np.argwhere(mask).mean(axis=0) + affine[:3, 3]


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def where_inside(scene: phantom.Scene, name: str) -> np.ndarray:
    return ndimage.binary_erosion(scene.structures == STRUCTURES.index(name))


def test_arrays_are_what_nifti_wants() -> None:
    hu, label, affine = make_phantom(0, shape=SMALL)
    assert (hu.dtype, hu.shape) == (np.int16, SMALL)
    assert (label.dtype, label.shape) == (np.uint8, SMALL)
    assert set(np.unique(label)) == {0, 1}
    assert affine.shape == (4, 4)


@pytest.mark.parametrize("orientation", SEED_OF)
def test_spleen_lies_on_the_left_and_behind_however_it_is_stored(orientation: str) -> None:
    hu, label, affine = make_phantom(SEED_OF[orientation], shape=SMALL)
    assert "".join(nib.aff2axcodes(affine)) == orientation
    offset = centre_mm(label, affine) - centre_mm(hu > -300, affine)
    assert -130 < offset[0] < -50
    assert -70 < offset[1] < -10


@pytest.mark.parametrize("orientation", SEED_OF)
def test_storing_moves_no_voxel_in_the_world(orientation: str) -> None:
    seed = SEED_OF[orientation]
    hu, label, affine = make_phantom(seed, shape=SMALL)
    scene, _, middle = phantom._draw(seed, None, SMALL)
    ras = nib.as_closest_canonical(nib.Nifti1Image(hu, affine))
    np.testing.assert_array_equal(np.asarray(ras.dataobj).T, np.rint(scene.hu).clip(-1024, 3071))
    middle_voxel = (np.array(SMALL) - 1) / 2
    np.testing.assert_allclose(affine[:3, :3] @ middle_voxel + affine[:3, 3], middle, atol=1e-3)
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), scene.spacing)
    # The liver is the one large organ on the other side: mirrored in the middle of the body, the spleen falls into it.
    liver = scene.structures == STRUCTURES.index("liver")
    right, _, _ = np.argwhere(liver).mean(axis=0)[::-1]
    assert scene.axes[0][round(right)] > 30
    spleen = np.asarray(nib.as_closest_canonical(nib.Nifti1Image(label, affine)).dataobj).T.astype(bool)
    assert liver[:, :, ::-1][spleen].mean() > 0.3


@pytest.mark.parametrize("seed", range(8))
def test_spleen_is_one_piece_of_a_patients_volume(seed: int) -> None:
    _, label, affine = make_phantom(seed, shape=SMALL)
    millilitres = label.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000
    assert 75 <= millilitres <= 415
    assert ndimage.label(label)[1] == 1


def test_volumes_of_spleens_differ() -> None:
    volumes = [make_phantom(seed, shape=(32, 32, 24))[1].sum() for seed in range(8)]
    assert max(volumes) > 1.5 * min(volumes)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("spleen", 75, 155),
        ("liver", 70, 150),
        ("kidney", 75, 165),
        ("stomach", 80, 140),
        ("bowel", 80, 140),
        ("vessel", 90, 180),
        ("muscle", 40, 70),
        ("bone", 150, 700),
    ],
)
def test_attenuation_of_organs(name: str, low: float, high: float) -> None:
    for seed in (1, 2, 3):
        scene, _, _ = phantom._draw(seed, None, (96, 96, 40))
        assert low < np.median(scene.hu[where_inside(scene, name)]) < high


def test_attenuation_around_organs() -> None:
    hu, _, _ = make_phantom(1, shape=SMALL)
    assert abs(np.median(hu[0, 0]) + 1000) < 10, "air outside the body"
    counts, edges = np.histogram(hu, bins=np.arange(-1025, 400, 50))
    modes = edges[:-1][counts > 0.01 * hu.size]
    assert -875 in modes, "lung"
    assert -125 in modes, "fat"


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_painted_over_the_spleen(seed: int) -> None:
    scene, _, _ = phantom._draw(seed, None, (96, 96, 40))
    spleen = scene.structures == STRUCTURES.index("spleen")
    values = scene.hu[where_inside(scene, "spleen")]
    # Its inside is of one attenuation, up to the scanner's noise of 8 to 15 HU; the organ it lies in takes none of it.
    assert 7 < values.std() < 18
    assert np.abs(values - np.median(values)).max() < 90
    assert scene.room[spleen].min() >= 0.5


def test_noise_is_correlated_within_a_slice_only() -> None:
    scene, _, _ = phantom._draw(2, None, (128, 128, 32))
    air = scene.hu[:, :10] - phantom_anatomy.AIR
    variance = np.mean(air**2)
    assert 8 <= np.sqrt(variance) <= 15
    # The filter 1 2 1 correlates neighbours with (1*2 + 2*1) / (1 + 4 + 1) = 2/3 and those two apart with 1/6.
    assert np.mean(air[:, :, 1:] * air[:, :, :-1]) / variance == pytest.approx(2 / 3, abs=0.03)
    assert np.mean(air[:, 1:] * air[:, :-1]) / variance == pytest.approx(2 / 3, abs=0.03)
    assert np.mean(air[:, :, 2:] * air[:, :, :-2]) / variance == pytest.approx(1 / 6, abs=0.03)
    assert np.mean(air[1:] * air[:-1]) / variance == pytest.approx(0, abs=0.03)


def test_edges_are_shared_between_voxels() -> None:
    x = np.linspace(-2, 2, 5, dtype=np.float32)
    # A plane at 0.25 between unit voxels: the voxel at 0 is filled to 0.75, its neighbours fully or not at all.
    np.testing.assert_allclose(phantom_anatomy._share(x, 0.25), [1, 1, 0.75, 0, 0], atol=1e-5)


def test_drawn_spacing_and_field_of_view(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("paint_trunk", "paint_spine", "paint_organs", "_add_noise"):
        monkeypatch.setattr(phantom, name, lambda *_: None)
    slice_spacings, orientations = set(), set()
    for seed in range(30):
        hu, _, affine = make_phantom(seed)
        spacing = nib.affines.voxel_sizes(affine)
        assert 0.7 <= spacing[0] <= 0.9
        assert spacing[0] == pytest.approx(spacing[1])
        assert 1.5 <= spacing[2] <= 8.0
        assert 400 <= hu.shape[0] == hu.shape[1] <= 512
        assert 180 <= hu.shape[2] * spacing[2] <= 240
        slice_spacings.add(spacing[2])
        orientations.add("".join(nib.aff2axcodes(affine)))
    assert len(slice_spacings) >= 4
    assert orientations == set(SEED_OF)


def test_full_size_volume() -> None:
    hu, label, affine = make_phantom(2)
    assert min(hu.shape[:2]) >= 400
    assert 75_000 <= label.sum() * abs(np.linalg.det(affine)) <= 415_000
    assert np.median(hu[label > 0]) == pytest.approx(115, abs=40)


@pytest.mark.parametrize("seed", range(4))
def test_small_shape_keeps_patient_and_field_of_view(seed: int) -> None:
    hu, coarse, coarse_affine = make_phantom(seed, shape=(48, 48, 32))
    _, fine, fine_affine = make_phantom(seed, shape=(96, 80, 48))
    for axis, (few, many) in enumerate(zip((48, 48, 32), (96, 80, 48), strict=True)):
        coarse_field = few * nib.affines.voxel_sizes(coarse_affine)[axis]
        assert coarse_field == pytest.approx(many * nib.affines.voxel_sizes(fine_affine)[axis])
        assert (280 if axis < 2 else 180) <= coarse_field <= (461 if axis < 2 else 240)
    np.testing.assert_allclose(centre_mm(coarse, coarse_affine), centre_mm(fine, fine_affine), atol=6)
    volumes = [m.sum() * abs(np.linalg.det(a[:3, :3])) for m, a in ((coarse, coarse_affine), (fine, fine_affine))]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.02)
    sides = np.concatenate([hu[[0, -1]].ravel(), hu[:, [0, -1]].ravel()])
    assert sides.max() < -700, "the body touches the border of the field of view"


def test_given_spacing_is_kept() -> None:
    hu, _, affine = make_phantom(3, spacing=(6.0, 5.0, 8.0))
    np.testing.assert_allclose(nib.affines.voxel_sizes(affine), (6.0, 5.0, 8.0))
    _, _, reference = make_phantom(3, shape=(16, 16, 16))
    field = 16 * nib.affines.voxel_sizes(reference)
    np.testing.assert_allclose(np.array(hu.shape) * (6.0, 5.0, 8.0), field, atol=4.0)


def test_task_folder(tmp_path: Path) -> None:
    write_phantom_task(tmp_path / "task", 2, seed=7, shape=(48, 48, 24), progress=False)
    content = json.loads((tmp_path / "task" / "dataset.json").read_text())
    assert content["modality"] == {"0": "CT"}
    assert content["labels"] == {"0": "background", "1": "spleen"}
    assert (content["numTraining"], content["numTest"], content["test"]) == (2, 0, [])
    assert content["training"] == [
        {"image": "./imagesTr/spleen_1.nii.gz", "label": "./labelsTr/spleen_1.nii.gz"},
        {"image": "./imagesTr/spleen_2.nii.gz", "label": "./labelsTr/spleen_2.nii.gz"},
    ]
    assert content["name"] and content["description"]
    for case in content["training"]:
        image, label = (nib.load(tmp_path / "task" / case[key]) for key in ("image", "label"))
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        assert image.shape == label.shape == (48, 48, 24)
        np.testing.assert_array_equal(image.affine, label.affine)
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-3)
        assert (int(image.header["qform_code"]), int(image.header["sform_code"])) == (1, 1)
        assert image.header.get_xyzt_units()[0] == "mm"
        assert set(np.unique(np.asarray(label.dataobj))) == {0, 1}
    assert len(files_below(tmp_path)) == 5, "no temporary file is left"


def test_same_seed_same_bytes_whatever_the_number_of_volumes(tmp_path: Path) -> None:
    for name, volumes, seed in (("two", 2, 3), ("again", 2, 3), ("three", 3, 3), ("other", 2, 4)):
        write_phantom_task(tmp_path / name, volumes, seed, shape=(32, 32, 24), progress=False)
    two, again, three, other = (files_below(tmp_path / name) for name in ("two", "again", "three", "other"))
    assert two == again
    volumes = [name for name in two if name.endswith(".nii.gz")]
    assert len(volumes) == 4
    for name in volumes:
        assert two[name] == three[name] != other[name]
        # Bytes 3 to 7 of a gzip file: no flag (such as a file name), and no time.
        assert two[name][3:8] == bytes(5)
    assert two[str(Path("imagesTr/spleen_1.nii.gz"))] != two[str(Path("imagesTr/spleen_2.nii.gz"))]
    assert two[str(Path("labelsTr/spleen_1.nii.gz"))] != two[str(Path("labelsTr/spleen_2.nii.gz"))]


@pytest.mark.parametrize("progress", [True, False])
def test_progress_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str], progress: bool) -> None:
    write_phantom_task(tmp_path / "task", 1, 0, shape=(16, 16, 16), progress=progress)
    assert ("phantom volumes" in capsys.readouterr().err) == progress


def test_a_failed_run_leaves_no_task_and_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(phantom, "make_phantom", fail)
        with pytest.raises(KeyboardInterrupt):
            write_phantom_task(tmp_path, 1, 0, shape=(16, 16, 16), progress=False)
    assert not (tmp_path / "dataset.json").exists()
    write_phantom_task(tmp_path, 1, 0, shape=(16, 16, 16), progress=False)
    assert (tmp_path / "dataset.json").exists()


@pytest.mark.parametrize(
    ("volumes", "seed", "shape", "sentence"),
    [(0, 0, None, "volumes is 0"), (1, -1, None, "seed -1"), (1, 0, (64, 64, 15), r"shape \(64, 64, 15\)")],
)
def test_task_refusals(tmp_path: Path, volumes: int, seed: int, shape: tuple[int, int, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        write_phantom_task(tmp_path / "task", volumes, seed, shape=shape, progress=False)
    assert not (tmp_path / "task").exists()


def test_a_task_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(UserError, match="already holds a dataset"):
        write_phantom_task(tmp_path, 1, 0, shape=(16, 16, 16), progress=False)
    assert files_below(tmp_path) == {"dataset.json": b"{}"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": -1}, "seed -1"),
        ({"seed": 0, "shape": (8, 64, 64)}, "too coarse"),
        ({"seed": 0, "spacing": (40.0, 40.0, 5.0)}, "too coarse"),
        ({"seed": 0, "spacing": (0.0, 1.0, 5.0)}, "no size"),
        ({"seed": 0, "spacing": (4.0, 4.0, 5.0), "shape": (64, 64, 32)}, "cannot both be set"),
    ],
)
def test_phantom_refusals(options: dict, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_phantom(**options)
