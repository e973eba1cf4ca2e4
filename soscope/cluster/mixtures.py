"""Gaussian mixtures on the latent state, their number by BIC."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from soscope.cluster.base import UNKNOWN, ClusterMethod, Found, NoClustersError, Source, drawn, numbered_by_size
from soscope.cluster.base import principal_axes as axes_of
from soscope.schema import ClusterConfig

RESTARTS = 3
LEAST_VARIANCE = 1e-3
"""Added to the variance of every component, as a share of that of the values: keeps components off single points."""


class GaussianMixtures(ClusterMethod):
    """Mixtures with full covariances on the leading components of z, learned from spots, assigned to subspots by their own z.

    The Bayesian information criterion counts independent observations. Those are the spots: z of subspots is interpolated
    between theirs, and counting each subspot would favour ever more components.
    """

    column = "soscope_gmm"
    setting = "components"

    def score_name(self, settings: ClusterConfig) -> str:
        """Name the criterion; lower is better."""
        return "BIC"

    def __call__(self, source: Source, settings: ClusterConfig, seed: int) -> Found:
        """Compare numbers of components and assign subspots by the best."""
        rows = drawn(np.arange(len(source.latent)), settings.fit_on, np.random.default_rng(seed))
        axes = axes_of(source.latent[rows], settings.n_components, seed, "latent means of spots")
        scores = axes.transform(source.latent) / np.sqrt(axes.explained_variance_[0])
        fitted = _fitted(scores[rows], _numbers(settings.range, len(rows), scores.shape[1]), seed)
        bic = [model.bic(scores[rows]) for model in fitted]
        best = int(np.argmin(bic))
        # z is an average over spots, and so are its components
        labels = fitted[best].predict(source.at @ scores)
        reached = np.diff(source.at.indptr) > 0
        numbers = [model.n_components for model in fitted]
        tried = pd.DataFrame({"tried": numbers, "n_clusters": numbers, "score": bic, "error": 0.0})
        return Found(numbered_by_size(np.where(reached, labels, UNKNOWN)), tried.assign(chosen=tried.index == best))


def _numbers(limits: Sequence[int], n_rows: int, n_columns: int) -> range:
    """Return the numbers of components to try: those with no more parameters than there are values to learn them from."""
    low, high = limits
    each = 1 + n_columns + n_columns * (n_columns + 1) // 2
    most = min((n_rows * n_columns + 1) // each, n_rows)
    if most < low:
        raise NoClustersError(
            f"{n_rows:,} spots are too few for {low} Gaussian components in {n_columns} dimensions. Lower "
            "cluster.range or cluster.n_components"
        )
    return range(low, min(high, most) + 1)


def _fitted(scores: np.ndarray, numbers: range, seed: int) -> list[GaussianMixture]:
    least = LEAST_VARIANCE * float(scores.var(0).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its BIC is then that of a worse fit, and it is not chosen
        return [GaussianMixture(n, reg_covar=least, n_init=RESTARTS, random_state=seed).fit(scores) for n in numbers]
