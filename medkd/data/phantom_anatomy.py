"""The anatomy of the synthetic abdomen: organs, and the grid they are painted on."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

AIR, LUNG, FAT, SKIN, MUSCLE, DISC, HEART = -1000.0, -850.0, -100.0, 10.0, 55.0, 90.0, 125.0
MARROW, CORTEX = 220.0, 600.0
ENHANCED = ("spleen", "liver", "kidney", "vessel")
STRUCTURES = ("background", *ENHANCED, "stomach", "bowel", "colon", "pancreas", "muscle", "bone", "gas")
SPLEEN_VOLUMES = (85.0, 400.0)

Vector = tuple[float, float, float]
Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Organ:
    """A tilted, uneven ellipsoid.

    Args:
        name: the structure it belongs to.
        hu: its attenuation in HU, in the mean contrast phase.
        centre: rightwards and forwards in half widths and half depths of the abdominal cavity, upwards in mm.
        radii: along its own axes (right, front, up before the tilt), in mm.
        tilt: rotation about the right, then the front, then the up axis, in degrees.
        hollow: how strongly its rim curves towards its own right.
    """

    name: str
    hu: float
    centre: Vector
    radii: Vector
    tilt: Vector = (0.0, 0.0, 0.0)
    hollow: float = 0.0


# Painted in this order, the later over the earlier.
ORGANS = (
    Organ("muscle", 60.0, (0.25, -0.48, -110.0), (17.0, 19.0, 110.0), (0.0, 8.0, 0.0)),
    Organ("muscle", 60.0, (-0.25, -0.48, -110.0), (17.0, 19.0, 110.0), (0.0, -8.0, 0.0)),
    Organ("vessel", 132.0, (0.13, -0.17, 0.0), (11.0, 8.0, 400.0)),
    Organ("vessel", 145.0, (-0.08, -0.19, 0.0), (10.0, 10.0, 400.0)),
    Organ("pancreas", 100.0, (-0.05, 0.06, -8.0), (58.0, 11.0, 13.0), (0.0, 15.0, 15.0)),
    Organ("bowel", 112.0, (0.68, -0.12, -85.0), (26.0, 32.0, 56.0)),
    Organ("bowel", 112.0, (-0.46, 0.24, -66.0), (42.0, 36.0, 46.0), (35.0, 20.0, 20.0)),
    Organ("stomach", 112.0, (-0.44, 0.26, 32.0), (46.0, 38.0, 58.0), (35.0, 20.0, 20.0)),
    Organ("liver", 110.0, (0.10, 0.46, 32.0), (84.0, 32.0, 38.0), (0.0, 15.0, 0.0)),
    Organ("liver", 110.0, (0.60, 0.02, 34.0), (66.0, 76.0, 64.0), (0.0, 12.0, 0.0)),
    Organ("vessel", 130.0, (0.32, 0.10, 18.0), (38.0, 6.0, 7.0), (0.0, -20.0, 25.0)),
    Organ("vessel", 128.0, (0.45, -0.05, 50.0), (45.0, 5.0, 6.0), (0.0, 15.0, -35.0)),
    Organ("kidney", 120.0, (0.42, -0.48, -48.0), (25.0, 23.0, 52.0), (12.0, -12.0, -30.0)),
    Organ("kidney", 120.0, (-0.42, -0.46, -22.0), (25.0, 23.0, 54.0), (12.0, 12.0, 30.0)),
)
# The heights of these two follow from where the one ends and the other begins.
SPLEEN = Organ("spleen", 115.0, (-0.70, -0.36, 0.0), (21.0, 40.0, 50.0), (-20.0, 15.0, 35.0), hollow=0.3)
COLON = replace(SPLEEN, name="colon", radii=(21.0, 40.0, 48.0))


class Scene:
    """A body on a voxel grid, painted structure by structure; arrays are (up, front, right).

    Args:
        spacing: voxel size rightwards, forwards and upwards, in mm.
        shape: voxels rightwards, forwards and upwards; the middle of the body is in the middle.
        width: half width of the abdominal cavity, in mm.
        depth: half depth of the abdominal cavity, in mm.
    """

    def __init__(self, spacing: Vector, shape: Shape, width: float, depth: float) -> None:
        self.spacing, self.width, self.depth = spacing, width, depth
        self.axes = [((np.arange(n) - (n - 1) / 2) * s).astype(np.float32) for n, s in zip(shape, spacing, strict=True)]
        self.hu = np.full(shape[::-1], AIR, dtype=np.float32)
        self.structures = np.zeros(shape[::-1], dtype=np.uint8)
        self.room = np.zeros(shape[::-1], dtype=np.float32)

    def level(self, organ: Organ, rng: np.random.Generator) -> tuple[Box, np.ndarray]:
        """The box around ``organ`` and its level function there, about 1 at the surface and less inside."""
        tilt = _rotation(organ.tilt)
        centre = (organ.centre[0] * self.width, organ.centre[1] * self.depth, organ.centre[2])
        reach = (1.5 + 2.0 * organ.hollow) * np.sqrt(tilt**2 @ np.square(organ.radii))
        spans, offsets = [], []
        for axis, middle, half in zip(self.axes, centre, reach, strict=True):
            first, last = np.searchsorted(axis, (middle - half, middle + half))
            spans.append(slice(int(first), int(last)))
            offsets.append(axis[first:last] - np.float32(middle))
        x, y, z = offsets[0], offsets[1][:, None], offsets[2][:, None, None]
        own = (tilt / organ.radii).T.astype(np.float32)
        u, v, w = (along[0] * x + along[1] * y + along[2] * z for along in own)
        if organ.hollow:
            u = u - np.float32(organ.hollow) * (v * v + w * w - 0.5)
        level = np.sqrt(u * u + v * v + w * w)
        for amplitude in rng.uniform(0.03, 0.09, 3).astype(np.float32):
            (a, b, c), (p, q, r) = (rng.uniform(1.2, 2.8, 3) / organ.radii).tolist(), rng.uniform(0.0, 6.28, 3).tolist()
            level += amplitude * np.sin(a * x + p) * np.sin(b * y + q) * np.sin(c * z + r)
        return (spans[2], spans[1], spans[0]), level

    def paint(self, name: str, box: Box, share: np.ndarray, hu: float | np.ndarray) -> None:
        """Mix ``hu`` into ``box`` by the ``share`` (0 to 1) of each voxel that the structure ``name`` fills."""
        part = self.hu[box]
        part += share * (hu - part)
        self.structures[box][share >= 0.5] = STRUCTURES.index(name)

    def paint_organ(self, organ: Organ, box: Box, level: np.ndarray, hu: float, surface: float = 1.0) -> None:
        """Paint ``organ`` where the cavity has room, in a coat of 2 mm of fat that keeps it off its neighbours."""
        if organ.name != "vessel":
            coat = np.minimum(_share(level, surface + 2.0 / float(np.median(organ.radii))), self.room[box])
            self.paint("background", box, coat * (self.structures[box] != STRUCTURES.index(organ.name)), FAT)
        self.paint(organ.name, box, np.minimum(_share(level, surface), self.room[box]), hu)


def _rotation(degrees: Vector) -> np.ndarray:
    """The 3x3 matrix that turns about the first, then the second, then the third axis."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = step @ turn
    return turn


def _steepness(level: np.ndarray) -> np.ndarray:
    """How much ``level`` can change from one end of a voxel to the other."""
    change = np.full_like(level, 1e-6)
    for axis in range(level.ndim):
        if level.shape[axis] > 1:
            change += np.abs(np.gradient(level, axis=axis))
    return change


def _share(level: np.ndarray, surface: float = 1.0) -> np.ndarray:
    """The share of each voxel below ``surface``, taking the level function as linear within it: partial volume."""
    return np.clip(0.5 + (surface - level) / _steepness(level), 0.0, 1.0)


def paint_trunk(scene: Scene, rng: np.random.Generator, wall: float, fat: float) -> None:
    """Skin, fat, muscle wall, ribs, lungs and heart; what is left for the organs goes to ``scene.room``."""
    x, y, z = scene.axes[0], scene.axes[1][:, None], scene.axes[2]
    angle = np.arctan2(x, -y)
    uneven = 1.0 + 0.025 * np.cos(2 * angle + rng.uniform(-1, 1)) * np.sin(3 * angle + rng.uniform(0, 6))
    outlines = []
    for margin in (wall + fat, wall + fat - 2.0, wall, 0.0):
        round_box = np.abs(x / (scene.width + margin)) ** 2.5 + np.abs(y / (scene.depth + margin)) ** 2.5
        level = (round_box ** (1 / 2.5) * uneven).astype(np.float32)
        outlines.append((level, _steepness(level)))
    girth = 1.0 - 0.05 * np.cos((z - rng.uniform(-40, 40)) / 70.0)

    # The lungs end below in two domes, the right one higher, and reach furthest down behind and at the sides.
    lateral = np.maximum(np.abs(x) / scene.width - 0.3, 0.0)
    dome = rng.uniform(70, 80) + 4.0 * np.tanh(x / 30.0) - 80.0 * lateral**2 - 25.0 * (y / scene.depth - 0.1) ** 2
    dome = dome.astype(np.float32)
    slant = scene.spacing[2] + _steepness(dome)
    heart = np.hypot((x / scene.width + 0.14) * 2.2, (y / scene.depth - 0.15) * 1.5).astype(np.float32)

    # Ribs run down from the spine to the front, every 25 mm, in the wall; at the front they end at the costal margin.
    turn = np.abs(angle)
    drop, first = rng.uniform(32, 42) * turn, rng.uniform(-60, -40)
    inner, inner_steepness = outlines[-1]
    for k, height in enumerate(z):
        shares = [np.clip(0.5 + (girth[k] - level) / steepness, 0.0, 1.0) for level, steepness in outlines]
        part = scene.hu[k]
        for share, hu in zip(shares, (SKIN, FAT, MUSCLE, FAT), strict=True):
            part += share * (hu - part)
        number = np.round((height + drop - first) / 25.0)
        below = height + drop - first - 25.0 * number
        outside = (inner - girth[k]) / inner_steepness * scene.spacing[0] - 0.45 * wall
        core = np.hypot(outside / 4.0, below / 6.5)
        has_rib = (number >= 0) & (turn > 0.3) & (turn < 2.1 + 0.01 * (height + 60.0))
        rib = np.clip((1.15 - core) * 4.0, 0.0, 1.0) * has_rib
        part += rib * (np.clip(core, 0.0, 1.0) * (CORTEX - MARROW) + MARROW - part)
        scene.structures[k][rib >= 0.5] = STRUCTURES.index("bone")
        chest = shares[-1] * np.clip(0.5 + (height - dome) / slant, 0.0, 1.0)
        part += chest * (LUNG - part)
        part += chest * _share(heart, min(1.0, (height + 10.0) / 100.0)) * (HEART - part)
        scene.room[k] = shares[-1] - chest


def paint_spine(scene: Scene, rng: np.random.Generator) -> None:
    """Vertebrae with discs, arches and processes, the canal, and the muscles along the spine."""
    size, back = rng.uniform(0.92, 1.08), -0.48 * scene.depth
    from_middle = np.abs((scene.axes[2] - rng.uniform(0, 33)) % 33.0 - 16.5)[:, None, None]
    vertebra, process = (np.clip((half - from_middle) / scene.spacing[2] + 0.5, 0.0, 1.0) for half in (12.5, 7.0))
    # Name, centre (right, front of the vertebra) and radii in mm, HU by height.
    parts = (
        ("muscle", 34.0, -46.0, 30.0, 19.0, MUSCLE),
        ("muscle", -34.0, -46.0, 30.0, 19.0, MUSCLE),
        ("bone", 26.0, -27.0, 20.0, 4.0, MUSCLE + process * (CORTEX - MUSCLE)),
        ("bone", -26.0, -27.0, 20.0, 4.0, MUSCLE + process * (CORTEX - MUSCLE)),
        ("bone", 0.0, -52.0, 4.0, 16.0, FAT + process * (CORTEX - FAT)),
        ("bone", 0.0, -26.0, 17.0, 14.0, MARROW + process * (CORTEX - MARROW)),
        ("bone", 0.0, 0.0, 22.0, 17.0, DISC + vertebra * (CORTEX - DISC)),
        ("bone", 0.0, 0.0, 19.5, 14.5, DISC + vertebra * (MARROW - DISC)),
        ("muscle", 0.0, -26.0, 10.0, 8.0, 30.0),
    )
    for name, right, front, half_width, half_depth, hu in parts:
        u = (scene.axes[0] / size - right) / half_width
        v = ((scene.axes[1][:, None] - back) / size - front) / half_depth
        share = _share(np.hypot(u, v))
        rows, columns = np.flatnonzero(share.any(axis=1)), np.flatnonzero(share.any(axis=0))
        if rows.size == 0:
            continue
        box = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        scene.paint(name, box, np.broadcast_to(share[box[1:]], scene.hu[box].shape), hu)
        scene.room[box] = np.minimum(scene.room[box], 1.0 - share[box[1:]])


def _vary(organ: Organ, rng: np.random.Generator, scale: float = 1.0) -> Organ:
    """``organ`` as one patient has it, its radii times ``scale``."""
    right, front, up = organ.centre + rng.normal(0.0, (0.03, 0.03, 4.0)).clip((-0.06, -0.06, -8.0), (0.06, 0.06, 8.0))
    a, b, c = rng.uniform(0.86, 1.14, 3) * organ.radii * scale
    roll, pitch, yaw = organ.tilt + rng.uniform(-10.0, 10.0, 3)
    return replace(organ, centre=(right, front, up), radii=(a, b, c), tilt=(roll, pitch, yaw))


def _loops(rng: np.random.Generator) -> list[Organ]:
    """Loops of bowel filled with oral contrast, in the lower and front part of the cavity."""
    centres = rng.uniform((-0.50, -0.10, -120.0), (0.65, 0.75, -40.0), (18, 3)).tolist()
    radii = rng.uniform(14.0, 30.0, (18, 3)).tolist()
    tilts = rng.uniform(0.0, 180.0, (18, 3)).tolist()
    return [Organ("bowel", 108.0, *shape) for shape in zip(centres, radii, tilts, strict=True)]


def paint_organs(scene: Scene, rng: np.random.Generator) -> None:
    """What lies in the cavity; the spleen last, and with exactly the volume drawn for it."""
    phase = rng.uniform(-18.0, 18.0)
    shift = {name: rng.normal(0.0, 5.0) + phase * (name in ENHANCED) for name in STRUCTURES}
    shift["colon"] = shift["spleen"]
    volume = float(np.clip(rng.lognormal(np.log(190.0), 0.45), *SPLEEN_VOLUMES))
    # A third more than the volume, for what the wall and the diaphragm cut away.
    grown = np.cbrt(1.3 * volume * 1000.0 / (4 / 3 * np.pi * np.prod(SPLEEN.radii)))
    spleen, colon, tip = _vary(SPLEEN, rng, grown), _vary(COLON, rng), rng.normal(-20.0, 5.0)
    spleen = replace(spleen, centre=(*spleen.centre[:2], tip + 0.95 * spleen.radii[2]))
    colon = replace(colon, centre=(*colon.centre[:2], tip - 3.0 - 0.95 * colon.radii[2]))
    for organ in (*_loops(rng), *(_vary(organ, rng) for organ in ORGANS), colon):
        hu = organ.hu + shift[organ.name] + rng.normal(0.0, 4.0)
        gas, fluid_front = rng.random() < 0.4, organ.centre[1] * scene.depth + rng.uniform(0.2, 0.6) * organ.radii[1]
        box, level = scene.level(organ, rng)
        if level.size == 0:
            continue
        scene.paint_organ(organ, box, level, hu)
        if organ.name == "kidney":
            (right, front, up), (a, b, c) = organ.centre, organ.radii
            sinus = replace(organ, centre=(0.78 * right, front, up), radii=(0.4 * a, 0.4 * b, 0.5 * c))
            box, level = scene.level(sinus, rng)
            scene.paint("background", box, _share(level), FAT)
        elif gas and organ.name in ("stomach", "bowel"):
            front_of_fluid = np.clip((scene.axes[1][box[1], None] - fluid_front) / scene.spacing[1] + 0.5, 0.0, 1.0)
            scene.paint("gas", box, np.minimum(front_of_fluid * _share(level, 0.92), scene.room[box]), AIR)
    box, level = scene.level(spleen, rng)
    inside = np.sort(level[scene.room[box] >= 0.5])
    surface = float(inside[round(volume * 1000.0 / np.prod(scene.spacing)) - 1])
    scene.paint_organ(spleen, box, level, SPLEEN.hu + shift["spleen"], surface)
