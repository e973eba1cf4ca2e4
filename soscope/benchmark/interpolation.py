"""Baselines that look at counts and positions alone."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from soscope.benchmark.observed import Observed
from soscope.benchmark.registry import baseline
from soscope.split import Split


@baseline()
def copy_down(observed: Observed) -> Split:
    """Divide every spot equally over its subspots (averages are copied)."""
    return Split(mean=observed.to_subspots(observed.level[observed.used]))


@baseline()
def linear(observed: Observed) -> Split:
    """Interpolate linearly between spot centres; outside their hull the nearest spot's value."""
    return Split(mean=np.where(observed.spot[:, None] >= 0, interpolate(observed), 0.0))


@baseline(needs_counts=True)
def linear_to_totals(observed: Observed) -> Split:
    """Interpolate linearly, then restore totals."""
    return observed.with_totals(interpolate(observed))


def interpolate(observed: Observed) -> np.ndarray:
    """Interpolate the spots' values at all subspots, ``(n_subspots, n_features)``."""
    xy, at = observed.section.xy_um, observed.section.subspot_xy_um
    nearest = NearestNDInterpolator(xy, observed.level)(at)
    if np.linalg.matrix_rank(xy - xy.mean(0), tol=1e-6) < 2:  # all spots on one line
        return nearest
    inner = LinearNDInterpolator(xy, observed.level)(at)
    return np.where(np.isnan(inner), nearest, inner)
