"""How right a split is, given the true subspot profiles."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torchmetrics.functional import pearson_corrcoef

from soscope.matrices import Matrix, to_dense
from soscope.split import Split

LEVELS = (25, 50, 75, 90, 95)
"""Per cent of the stated distribution around its middle, whose coverage is scored."""


def pearson(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return Pearson's r of each feature across subspots, ``(n_features,)``; 0 where either side is constant."""
    varies = (predicted.std(0) > 1e-12) & (truth.std(0) > 1e-12)
    r = np.zeros(truth.shape[1])
    if varies.any():
        a, b = (torch.as_tensor(np.asarray(v[:, varies], dtype=np.float64)) for v in (predicted, truth))
        r[varies] = np.atleast_1d(pearson_corrcoef(a, b).numpy())
    return r


def within_spot_pearson(predicted: np.ndarray, truth: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Return Pearson's r of each feature after both sides' spot means are taken off: zero for equal division."""
    return pearson(_within(predicted, parent), _within(truth, parent))


def composition_within_spot_pearson(predicted: np.ndarray, truth: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Return `within_spot_pearson` of profiles divided by their panel total: what is left without library size.

    A subspot whose total is not above zero has a composition of zeros.
    """
    return within_spot_pearson(_composition(predicted), _composition(truth), parent)


def randomised_pit(below: np.ndarray, at: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return ``P(X < x) + v (P(X <= x) - P(X < x))`` with uniform ``v``: uniform when the stated distribution is right.

    Notes
    -----
    Czado, Gneiting & Held 2009, doi:10.1111/j.1541-0420.2009.01191.x. For continuous values both sides are equal.
    """
    return below + rng.random(at.shape) * (at - below)


def coverages(
    below: np.ndarray, at: np.ndarray, observed_total: np.ndarray, parent: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return the shares of true values inside the central part of their stated distribution, for all of `LEVELS`.

    Parameters
    ----------
    below, at
        Stated probabilities of less than, and of at most, the true value, ``(n_subspots, n_features)``.
    observed_total
        Observed profiles of spots, ``(n_spots, n_features)``; entries whose spot has nothing above zero do not count.
    parent
        Spot of each subspot; those under no spot (-1) do not count.
    rng
        Of the randomised PIT.

    Returns
    -------
    ``coverage90`` and so on: share per feature, ``(n_features,)``; NaN for a feature without any entry that counts.

    Notes
    -----
    Integer intervals cover more than they say; randomised PIT values inside [.05, .95] do not.
    """
    inside = parent >= 0
    counted = observed_total[parent[inside]] > 0
    off_centre = 2 * np.abs(randomised_pit(below[inside], at[inside], rng) - 0.5)
    entries = counted.sum(0)
    hits = {level: ((off_centre <= level / 100) & counted).sum(0) for level in LEVELS}
    return {coverage_name(k): np.where(entries > 0, h / np.maximum(entries, 1), np.nan) for k, h in hits.items()}


def coverage_name(level: int) -> str:
    """Return the column of a level's coverage."""
    return f"coverage{level}"


def coverages_of(
    split: Split, truth: Matrix, observed_total: np.ndarray, parent: np.ndarray, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return `coverages` of a split from its distribution, or its draws; NaN when it states neither."""
    values = to_dense(truth, np.float64)
    if split.cdf is not None:
        return coverages(*split.cdf(values), observed_total, parent, rng)
    if split.draws:
        return coverages(*cdf_of_draws(split.draws, values), observed_total, parent, rng)
    return {coverage_name(level): np.full(values.shape[1], np.nan) for level in LEVELS}


def cdf_of_draws(draws: list[Matrix], truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the shares of draws below, and at most, the truth: `coverages` of a method that states draws only."""
    dense = [to_dense(d, np.float64) for d in draws]
    below, at = (np.mean([compare(d, truth) for d in dense], axis=0) for compare in (np.less, np.less_equal))
    return below, at


def normalised_mse(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each feature divided by the truth's variance."""
    variance = truth.var(0)
    return ((predicted - truth) ** 2).mean(0) / np.where(variance > 0, variance, 1)


def score(predicted: Matrix, truth: Matrix, parent: np.ndarray) -> dict[str, np.ndarray]:
    """Return every metric per feature; subspots under no spot are left out."""
    inside = parent >= 0
    p, t = (to_dense(m, np.float64)[inside] for m in (predicted, truth))
    return {
        "pearson": pearson(p, t),
        "within_spot_r": within_spot_pearson(p, t, parent[inside]),
        "within_spot_r_composition": composition_within_spot_pearson(p, t, parent[inside]),
        "nmse": normalised_mse(p, t),
    }


def _composition(values: np.ndarray) -> np.ndarray:
    total = values.sum(1, keepdims=True)
    return np.divide(values, total, out=np.zeros(values.shape), where=total > 0)


def _within(values: np.ndarray, parent: np.ndarray) -> np.ndarray:
    spots, index = np.unique(parent, return_inverse=True)
    which = sparse.csr_matrix((np.ones(len(index)), (index, np.arange(len(index)))), shape=(len(spots), len(index)))
    mean = (which @ values) / np.bincount(index)[:, None]
    return values - mean[index]
