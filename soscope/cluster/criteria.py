"""By what a resolution of Leiden is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import adjusted_rand_score, silhouette_score

from soscope.cluster.base import Progress

REPEATS, SHARE = 5, 0.8
"""Subsamples whose partitions are compared with the whole's, and their share of spots."""
SILHOUETTE_ROWS = 3000
"""Rows a silhouette is averaged over, at most: it compares all pairs."""


@dataclass(frozen=True)
class Trial:
    """Partitions to be judged.

    Attributes
    ----------
    scores
        What was divided, ``(n_rows, n_columns)``.
    spots
        Spot of each row.
    partitions
        Labels of all rows, one array per resolution.
    divide
        Divides some rows anew, ``(rows, seed)``, at every resolution.
    seed, progress
        As everywhere.
    """

    scores: np.ndarray
    spots: np.ndarray
    partitions: Sequence[np.ndarray]
    divide: Callable[[np.ndarray, int], list[np.ndarray]]
    seed: int
    progress: Progress


Judged = tuple[np.ndarray, np.ndarray]


def stability(trial: Trial) -> Judged:
    """Return the mean adjusted Rand index between the partition and those of subsamples, and its standard error.

    Whole spots are left out, with all their subspots, for these share a spot's noise: with half of each spot in every
    subsample, partitions into single spots would look stable.
    """
    rng = np.random.default_rng(trial.seed)
    spots = np.unique(trial.spots)
    index = np.empty((REPEATS, len(trial.partitions)))
    for i in trial.progress(range(REPEATS), "cluster: stability", REPEATS):
        kept = rng.choice(spots, int(np.ceil(SHARE * len(spots))), replace=False)
        rows = np.flatnonzero(np.isin(trial.spots, kept))
        again = trial.divide(rows, trial.seed + 1 + i)
        index[i] = [adjusted_rand_score(p[rows], a) for p, a in zip(trial.partitions, again, strict=True)]
    return index.mean(0), index.std(0, ddof=1) / np.sqrt(REPEATS)


def silhouette(trial: Trial) -> Judged:
    """Return the mean silhouette width of rows, of at most `SILHOUETTE_ROWS` drawn at random; NaN for a single group."""
    n = len(trial.scores)
    rng = np.random.default_rng(trial.seed)
    rows = np.arange(n) if n <= SILHOUETTE_ROWS else rng.choice(n, SILHOUETTE_ROWS, replace=False)
    width = [_width(trial.scores[rows], labels[rows]) for labels in trial.partitions]
    return np.array(width), np.zeros(len(width))


def _width(scores: np.ndarray, labels: np.ndarray) -> float:
    n_groups = len(np.unique(labels))
    return float(silhouette_score(scores, labels)) if 1 < n_groups < len(labels) else np.nan


CRITERIA: dict[str, Callable[[Trial], Judged]] = {"stability": stability, "silhouette": silhouette}
"""By name; a new one is a function of a `Trial` and a row here. Higher is better."""


def choose(n_clusters: np.ndarray, score: np.ndarray, error: np.ndarray) -> int:
    """Return which to take: the finest within one standard error of the best, among those that divide at all.

    One group is always stable, and says nothing. Without any division, the first is taken.
    """
    usable = (n_clusters > 1) & np.isfinite(score)
    if not usable.any():
        return 0
    best = int(np.argmax(np.where(usable, score, -np.inf)))
    good = np.flatnonzero(usable & (score >= score[best] - error[best]))
    return int(good[np.argmax(n_clusters[good])])
