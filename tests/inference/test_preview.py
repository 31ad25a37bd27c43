"""Pictures of segmented scans: planes, directions, proportions, contours."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, inv_ornt_aff
from PIL import Image, ImageDraw, ImageFont

from medkd.data.volume import Volume, nifti_header
from medkd.errors import UserError
from medkd.inference.preview import COLOURS, HEIGHT, MARGIN, MAX_WIDTH, draw_preview, write_preview

ORDERS = [
    np.array(list(zip(axes, signs, strict=True)))
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]
BOX = HEIGHT + 2 * MARGIN  # of a square plane


def volume(array: np.ndarray, spacing=(1.0, 1.0, 1.0), affine: np.ndarray | None = None) -> Volume:
    """A volume whose axes run to the right, front and head (RAS+)."""
    affine = np.diag([*spacing, 1.0]) if affine is None else affine
    return Volume(array, affine, nifti_header(array.shape, affine), Path("scan.nii.gz"))


def distances(shape, spacing) -> np.ndarray:
    """Of each voxel from the middle, in mm."""
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def coloured(picture: np.ndarray, colour=COLOURS[0]) -> np.ndarray:
    """Where the picture has a contour colour at full strength."""
    return np.abs(picture - np.array(colour)).max(axis=-1) <= 2


def is_grey(picture: np.ndarray) -> np.ndarray:
    return np.ptp(picture, axis=-1) == 0


def panels_of(picture: np.ndarray) -> list[np.ndarray]:
    """The inner squares of three square planes."""
    return [picture[MARGIN : MARGIN + HEIGHT, k * BOX + MARGIN : k * BOX + MARGIN + HEIGHT] for k in range(3)]


@pytest.fixture(scope="module")
def odd_scan() -> tuple[Volume, np.ndarray]:
    """Noise on a slope, three labels of odd shapes, an oblique grid of long voxels."""
    random = np.random.default_rng(1)
    shape = (40, 33, 14)
    array = (random.normal(0, 60, shape) + np.linspace(-150, 150, 40)[:, None, None]).astype(np.int16)
    mask = np.zeros(shape, np.uint8)
    mask[5:22, 8:20, 3:9] = 1
    mask[9:14, 11:13, 3:5] = 0
    mask[25:35, 4:30:2, 8:12] = 2
    mask[28, 20, 8] = 3
    turn = nibabel.eulerangles.euler2mat(0.3, -0.2, 0.15)
    return volume(array, affine=nibabel.affines.from_matvec(turn @ np.diag([1.1, 1.4, 4.0]), [5, -70, 12])), mask


@pytest.mark.parametrize("window", [(-160.0, 240.0), None])
def test_all_48_axis_orders_of_a_volume_give_the_same_picture(odd_scan, window) -> None:
    scan, mask = odd_scan
    labels = {1: "a", 2: "b", 3: "c"}
    expected = pixels(draw_preview(scan, mask, labels, window))
    assert coloured(expected).any()
    for order in ORDERS:
        affine = scan.affine @ inv_ornt_aff(order, mask.shape)
        turned = volume(np.ascontiguousarray(apply_orientation(scan.array, order)), affine=affine)
        picture = pixels(draw_preview(turned, np.ascontiguousarray(apply_orientation(mask, order)), labels, window))
        assert np.array_equal(picture, expected), turned.orientation


def test_the_right_side_is_left_the_front_and_the_head_are_on_top() -> None:
    quarter = slice(24, 32)
    array = np.zeros((32, 32, 32), np.int16)
    array[quarter] += 100  # to the right
    array[:, quarter] += 50  # to the front
    array[:, :, quarter] += 25  # to the head
    picture = draw_preview(volume(array), np.zeros(array.shape, np.uint8), {}, (0, 255))
    axial, coronal, sagittal = (panel[..., 0] for panel in panels_of(pixels(picture)))
    near, far = HEIGHT // 8, HEIGHT - HEIGHT // 8
    # The middle planes are in no such quarter.
    assert (axial[far, near], axial[far, far], axial[near, far]) == (100, 0, 50)
    assert (coronal[far, near], coronal[far, far], coronal[near, far]) == (100, 0, 25)
    assert (sagittal[far, near], sagittal[far, far], sagittal[near, far]) == (50, 0, 25)


def test_letters_name_the_directions() -> None:
    scan = volume(np.zeros((32, 32, 32), np.int16))
    picture = draw_preview(scan, np.zeros(scan.array.shape, np.uint8), {}, (0, 255))
    middle, half = BOX // 2, MARGIN // 2
    places = ((half, middle), (BOX - half, middle), (middle, half), (middle, BOX - half))
    for panel, letters in enumerate(("RLAP", "RLHF", "APHF")):
        for letter, (x, y) in zip(letters, places, strict=True):
            expected = Image.new("RGB", (MARGIN, MARGIN))
            font = ImageFont.load_default(size=13)
            ImageDraw.Draw(expected).text((half, half), letter, (225, 225, 225), font, anchor="mm")
            left, top = panel * BOX + x - half, y - half
            found = picture.crop((left, top, left + MARGIN, top + MARGIN))
            assert np.array_equal(pixels(found), pixels(expected)), (panel, letter)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((96, 96, 96), (1, 1, 1)),
        ((100, 100, 20), (1, 1, 5.0)),
        ((24, 96, 48), (4, 1, 2.0)),
        ((24, 120, 96), (4, 0.8, 1)),
    ],
)
def test_a_ball_is_round_and_its_contour_lies_on_its_border_in_every_plane(shape, spacing) -> None:
    radius = 30.0
    distance = distances(shape, spacing)
    mask = (distance < radius).astype(np.uint8)
    scan = volume((1000 - distance * 10).astype(np.int16), spacing)
    picture = pixels(draw_preview(scan, mask, {1: "ball"}, (0, 2000)))
    for panel in panels_of(picture):
        rows, columns = np.nonzero(coloured(panel))
        mm = shape[0] * spacing[0] / HEIGHT
        from_middle = np.hypot(rows - (HEIGHT - 1) / 2, columns - (HEIGHT - 1) / 2) * mm
        # To a voxel's half diagonal and the contour's own width.
        slack = 0.5 * np.linalg.norm(sorted(spacing)[1:]) + 3 * mm
        assert radius - slack < from_middle.min() <= from_middle.max() < radius + slack
        assert len(np.unique(np.round(np.degrees(np.arctan2(rows - 143.5, columns - 143.5)) / 30))) >= 12  # closed
        assert is_grey(panel[HEIGHT // 2 - 40 : HEIGHT // 2 + 40, HEIGHT // 2 - 40 : HEIGHT // 2 + 40]).all()


def test_planes_cross_the_middle_of_the_largest_structure() -> None:
    array = np.arange(40 * 50 * 60).reshape(40, 50, 60) % 251
    mask = np.zeros(array.shape, np.uint8)
    mask[5:10, 10:15, 20:25] = 1  # 125 voxels, widest at no place: the middle
    mask[30:33, 40:43, 50:53] = 2  # 27 voxels
    expected = draw_preview(volume(array), np.zeros_like(mask), {1: "a"}, (0, 250))
    spot = np.zeros_like(mask)
    spot[7, 12, 22] = 1
    middle = pixels(draw_preview(volume(array), mask, {3: "none of them"}, (0, 250)))
    assert np.array_equal(middle, pixels(draw_preview(volume(array), spot, {3: "none of them"}, (0, 250))))
    assert not np.array_equal(middle, pixels(expected))


def test_a_structure_of_one_voxel_is_seen_in_every_plane() -> None:
    mask = np.zeros((700, 700, 35), np.uint8)
    mask[100, 200, 20] = 1
    picture = pixels(draw_preview(volume(np.zeros(mask.shape, np.int16), (0.5, 0.5, 10)), mask, {1: "spot"}, (0, 1)))
    parts = np.split(picture[: HEIGHT + 2 * MARGIN], [BOX, 2 * BOX], axis=1)
    assert all((~is_grey(part)).any() for part in parts)


def test_the_window_goes_from_black_to_white() -> None:
    array = np.zeros((32, 32, 32), np.int16)
    array[:16] = 300
    array[16:24] = 40
    array[24:] = -1000
    scan, mask = volume(array), np.zeros(array.shape, np.uint8)
    axial = panels_of(pixels(draw_preview(scan, mask, {}, (-160, 240))))[0][100, :, 0]
    assert (axial[20], axial[100], axial[250]) == (0, round(200 / 400 * 255), 255)
    axial = panels_of(pixels(draw_preview(scan, mask, {})))[0][100, :, 0]
    assert (axial[20], axial[100], axial[250]) == (0, round(1040 / 1300 * 255), 255)


def test_a_constant_scan_without_a_window_is_drawn() -> None:
    scan = volume(np.full((8, 8, 8), 7, np.int16))
    assert not panels_of(pixels(draw_preview(scan, np.zeros((8, 8, 8), np.uint8), {})))[0].any()


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((64, 64, 1), (0.7, 0.7, 5)), ((1, 64, 64), (3, 1, 1)), ((20, 20, 900), (1, 1, 1)), ((1, 1, 1), (1, 1, 1))],
)
def test_thin_and_long_volumes_fit_their_boxes(tmp_path: Path, shape, spacing) -> None:
    mask = np.ones(shape, np.uint8)
    mask[..., : shape[2] // 2] = 0
    scan = volume(np.zeros(shape, np.float32), spacing)
    picture = draw_preview(scan, mask, {1: "part"}, (0, 1))
    assert picture.height == HEIGHT + 3 * MARGIN
    assert picture.width <= 3 * (MAX_WIDTH + 2 * MARGIN)
    assert coloured(pixels(picture)[: HEIGHT + 2 * MARGIN]).any()


def test_every_label_has_its_own_line_and_its_name_below() -> None:
    array = np.zeros((128, 128, 128), np.int16)
    mask = np.zeros(array.shape, np.uint8)
    mask[:, :, 60:68] = 15  # the largest: planes cross it, and all others at z = 64
    for value in range(14):
        x, y = 8 + 30 * (value % 4), 8 + 30 * (value // 4)
        mask[x : x + 24, y : y + 24, 50:78] = value + 1
    labels = {value + 1: f"organ {value}" for value in range(14)}
    picture = pixels(draw_preview(volume(array), mask, labels, (0, 1)))
    axial = panels_of(picture)[0]
    amounts = [int(coloured(axial, colour).sum()) for colour in COLOURS]
    assert min(amounts) > 0
    # Solid and dashed of each colour, of equal size.
    for value, colour in enumerate(COLOURS):
        amounts = []
        for label in (value + 1, value + 8):
            rows, columns = np.nonzero((mask == label)[::-1, ::-1, 64].T)
            scale = HEIGHT / 128
            square = axial[
                int(rows.min() * scale) : int((rows.max() + 1) * scale),
                int(columns.min() * scale) : int((columns.max() + 1) * scale),
            ]
            amounts.append(int(coloured(square, colour).sum()))
        assert 0.25 * amounts[0] < amounts[1] < 0.6 * amounts[0]
    legend = picture[BOX:]
    assert all(coloured(legend, colour).any() for colour in COLOURS)
    assert legend.shape[0] >= 2 * MARGIN  # 14 names need more than one line


def test_colours_differ_for_colour_blind_eyes() -> None:
    # Machado, Oliveira, Fernandes 2009, severity 1.0, on linear RGB.
    kinds = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    }
    linear = (np.array(COLOURS) / 255) ** 2.2
    for kind, matrix in kinds.items():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1) ** (1 / 2.2) * 255
        for one, other in itertools.combinations(range(len(COLOURS)), 2):
            assert np.linalg.norm(seen[one] - seen[other]) > 30, (kind, one, other)


def test_no_volume_is_copied() -> None:
    mask = np.zeros((256, 256, 128), np.uint8)
    mask[40:200, 40:200, 20:100] = 1
    scan = volume(np.zeros(mask.shape, np.int16))
    draw_preview(scan, mask, {1: "box"})
    tracemalloc.start()
    draw_preview(scan, mask, {1: "box"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < mask.nbytes / 2


def test_a_mask_of_another_grid_is_refused(tmp_path: Path) -> None:
    scan = volume(np.zeros((8, 9, 10), np.int16))
    with pytest.raises(UserError, match=r"the mask for scan.nii.gz is 8x9x11, the scan 8x9x10"):
        write_preview(scan, np.zeros((8, 9, 11), np.uint8), {1: "a"}, None, tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


def test_the_file_shows_the_drawing_in_fewer_colours(tmp_path: Path, odd_scan) -> None:
    scan, mask = odd_scan
    labels = {1: "a", 2: "b", 3: "c"}
    write_preview(scan, mask, labels, (-160, 240), tmp_path / "deep" / "p.png")
    with Image.open(tmp_path / "deep" / "p.png") as file:
        assert not file.info  # and says nothing else
        written = pixels(file.convert("RGB"))
    drawn = pixels(draw_preview(scan, mask, labels, (-160, 240)))
    assert np.abs(written - drawn).max() <= 40
    assert is_grey(written)[is_grey(drawn)].all()
    assert np.abs(written - drawn)[is_grey(drawn)].max() <= 6  # of 255
    for colour in COLOURS[:3]:
        assert coloured(drawn, colour).sum() <= coloured(written, colour).sum()
    first = (tmp_path / "deep" / "p.png").read_bytes()
    write_preview(scan, mask, labels, (-160, 240), tmp_path / "deep" / "p.png")
    assert (tmp_path / "deep" / "p.png").read_bytes() == first


@pytest.mark.realdata
def test_a_real_scan_gives_a_small_file(tmp_path: Path, real_data: Path) -> None:
    for case in ("spleen_20", "spleen_27"):  # the largest of all 20
        image = nibabel.load(real_data / "btcv_spleen" / "imagesTr" / f"{case}.nii.gz")
        label = nibabel.load(real_data / "btcv_spleen" / "labels13Tr" / f"{case}.nii.gz")
        scan = Volume(np.asarray(image.dataobj), image.affine, image.header, Path(case))
        labels = {value: f"organ {value}" for value in range(1, 14)}
        write_preview(scan, np.asarray(label.dataobj).astype(np.uint8), labels, (-160, 240), tmp_path / f"{case}.png")
        assert (tmp_path / f"{case}.png").stat().st_size < 200_000
