"""What hangs on an organ by a neck belongs to another one."""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np
from scipy import ndimage

# Of the depth of the shallower of two bodies: where the way from one to the other is nowhere deeper, that is a neck.
NECK = 0.6
# Of the voxels of the largest body: another with more may be the other half of the organ, whose middle was missed.
HALF = 0.5
# Depths at which necks are looked for, up to the deepest that one can have.
LEVELS = 16


def cut_necks(piece: np.ndarray, spacing: Sequence[float], neck: float = NECK) -> np.ndarray:
    """Cut off what hangs on a piece by a neck.

    The depth of a voxel is its distance to the nearest one outside. Two bodies are joined by a neck where every way
    from one to the other comes through a place at most ``neck`` times as deep as the deepest of either. What is thin
    all along, such as the tip of an organ, is no body of its own, and stays. A body goes with all that is nearer to it
    than to the others, unless it has more than half the voxels of the largest: then nobody knows which is the organ, or
    whether both are.

    A spleen has no necks; kidneys, vessels, the pancreas do (``docs/necks.md``).

    Args:
        piece: ``(X, Y, Z)`` bool, of one piece.
        spacing: of its voxels in mm.
        neck: between 0 and 1.

    Returns:
        ``(X, Y, Z)`` bool, a new array.
    """
    # As if the scan ended with background: what it cuts off is not known to go on. The edge of a hole is no edge.
    kept = ndimage.binary_fill_holes(np.pad(piece, 1))
    depth = ndimage.distance_transform_edt(kept, spacing)
    in_doubt = 0  # bodies that were left as they are
    for level in np.linspace(0, neck * depth.max(), LEVELS + 1)[1:]:
        inside = depth > level
        cores, count = cc3d.connected_components(inside.view(np.uint8), connectivity=6, return_N=True)
        deepest = np.zeros(count + 1)
        np.maximum.at(deepest, cores[inside], depth[inside])
        bodies = np.flatnonzero(neck * deepest > level)
        if len(bodies) < 2 or len(bodies) == in_doubt:
            continue
        cores[~np.isin(cores, bodies)] = 0
        nearest = ndimage.distance_transform_edt(cores == 0, spacing, return_distances=False, return_indices=True)
        body_of = np.where(kept, cores[tuple(nearest)], 0)
        sizes = np.bincount(body_of.ravel(), minlength=count + 1)[bodies]
        if np.partition(sizes, -2)[-2] > HALF * sizes.max():
            in_doubt = len(bodies)
            continue
        kept = body_of == bodies[sizes.argmax()]
        depth[~kept] = 0
    return kept[1:-1, 1:-1, 1:-1] & piece
