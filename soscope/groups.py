"""Dividing points into compact groups."""

from __future__ import annotations

import math

import numpy as np


def compact_groups(xy: np.ndarray, size: int) -> list[np.ndarray]:
    """Divide points into as few compact groups of at most ``size`` as there can be, cutting across the longer side."""
    pending, done = [(np.arange(len(xy)), math.ceil(len(xy) / size))], []
    while pending:
        group, n_groups = pending.pop()
        if n_groups <= 1:
            done.append(group)
            continue
        along = np.ptp(xy[group], axis=0).argmax()
        ordered = group[np.argsort(xy[group, along], kind="stable")]
        first = n_groups // 2
        cut = math.ceil(len(group) * first / n_groups)
        pending += [(ordered[:cut], first), (ordered[cut:], n_groups - first)]
    return done
