"""Distances between neighbouring points."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree


def typical_distance(xy: np.ndarray, n_neighbours: int = 1) -> float:
    """Return the median distance to the ``n_neighbours``-th nearest point, 0 for fewer than two points.

    On a lattice this is the pitch for as many neighbours as most points have.
    """
    n = min(n_neighbours, len(xy) - 1)
    return float(np.median(cKDTree(xy).query(xy, k=n + 1)[0][:, -1])) if n > 0 else 0.0
