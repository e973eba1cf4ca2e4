"""How well any method could score on a truth that is itself a noisy count."""

from __future__ import annotations

import numpy as np

from soscope.benchmark.metrics import pearson, within_spot_pearson
from soscope.errors import DataError
from soscope.matrices import Matrix, to_dense

HALVINGS = 10


def reliability(truth: Matrix, parent: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return how well the truth would agree with a second measurement of the same tissue, per feature and metric.

    Parameters
    ----------
    truth
        Counts of subspots, ``(n_subspots, n_features)``.
    parent
        Spot of each subspot; those under no spot (-1) are left out.
    seed
        Of the halvings.

    Returns
    -------
    For ``pearson`` and ``within_spot_r``, the mean correlation of binomial halvings, stepped up to the whole count by
    Spearman and Brown's formula and clipped at 0, ``(n_features,)``.
    """
    inside = parent >= 0
    counts = to_dense(truth, np.float64)[inside]
    if (counts < 0).any() or (counts % 1 != 0).any():
        raise DataError("noise ceilings need a truth of counts, but some values are negative or fractional.")
    rng = np.random.default_rng(seed)
    total, within = [], []
    for _ in range(HALVINGS):
        half = rng.binomial(counts.astype(np.int64), 0.5).astype(np.float64)
        total.append(pearson(half, counts - half))
        within.append(within_spot_pearson(half, counts - half, parent[inside]))
    return {"pearson": spearman_brown(np.mean(total, 0)), "within_spot_r": spearman_brown(np.mean(within, 0))}


def spearman_brown(r: np.ndarray) -> np.ndarray:
    """Return the reliability of a sum of two halves that correlate by ``r``; 0 where they do not."""
    r = np.clip(r, 0, None)
    return 2 * r / (1 + r)


def ceilings(truth: Matrix, parent: np.ndarray, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Return the noise ceilings per feature.

    Returns
    -------
    ``blind``, of a method that does not see the spots: the root of the reliability, for ``pearson`` and ``within_spot_r``.
    ``with totals``, of one that knows the spots' counts and so a K-th of the noise: for ``within_spot_r``.
    """
    rho = reliability(truth, parent, seed)
    spots = parent[parent >= 0]
    n_per_spot = len(spots) / max(len(np.unique(spots)), 1)
    with_totals = rho["within_spot_r"] + (1 - rho["within_spot_r"]) / n_per_spot
    return {
        "blind": {name: np.sqrt(value) for name, value in rho.items()},
        "with totals": {"within_spot_r": np.sqrt(with_totals)},
    }
