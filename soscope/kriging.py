"""Area-to-point kriging: a Gaussian process over subspots, seen through its averages over spots.

References
----------
Kyriakidis 2004, A geostatistical framework for area-to-point spatial interpolation, doi:10.1111/j.1538-4632.2004.tb01135.x.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from soscope.groups import compact_groups
from soscope.kernels import Kernels, Places, Point

NOISES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.6, 4.0, 12.0)
"""Noise variances tried, relative to the field's variance between spots."""
NEGLIGIBLE = 0.05
"""Hyper-parameters this much less likely than a column's best are left out."""
GROUP = 500
"""Spots that are kriged together; larger sections are taken in compact groups, so that the cost stays linear."""
HALO = 4.0
"""Pitches around a group within which other spots inform it."""
LEARNED_FROM, LEARNED_GROUP = 4, 500
"""How many compact groups choose the hyper-parameters by likelihood, and the most spots of one: work grows with its cube."""


T = TypeVar("T")
S = TypeVar("S")


class Setting(NamedTuple):
    """Hyper-parameters: the weight of every kernel, and the variance of the noise."""

    kernels: np.ndarray
    noise: float


class Source(NamedTuple):
    """What is predicted from: the observations that are known, their mean, and hyper-parameters with their weights."""

    known: np.ndarray
    mean: np.ndarray
    settings: list[Setting]
    weights: np.ndarray


class AreaKriging:
    """Predicts subspots from spots, column by column, averaged over hyper-parameters by their marginal likelihood.

    Parameters
    ----------
    places
        Geometry and image features. The noise of a spot falls with its number of subspots.
    local
        Whether effects of the image may change over the tissue.
    """

    def __init__(self, places: Places, local: bool = False) -> None:
        self.places = places
        n_per_spot = np.bincount(places.spot[places.spot >= 0], minlength=len(places.spot_xy))
        self.noise = n_per_spot.mean() / np.maximum(n_per_spot, 1)
        self.kernels = Kernels(places, local)
        self.groups = compact_groups(places.spot_xy, GROUP)
        self.grid = self.kernels.grid
        smaller = compact_groups(places.spot_xy, LEARNED_GROUP)
        chosen = np.linspace(0, len(smaller) - 1, min(LEARNED_FROM, len(smaller))).round().astype(int)
        self._learned_from = [smaller[i] for i in chosen]
        self._between = [self.kernels.between_spots(places.only(g)) for g in self._learned_from]
        self.kernels.normalise(self._between[0])
        for others in self._between[1:]:
            for scale, covariance in zip(self.kernels.scale, others, strict=True):
                covariance *= scale

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Predict.

        Parameters
        ----------
        values
            Averages over the observed spots, ``(n_observed, n_columns)``.

        Returns
        -------
        Predicted values of all subspots, ``(n_subspots, n_columns)``.
        """
        return self._from(values, [np.ones(len(values), dtype=bool)])[0]

    def both(self, values: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict from the ``known`` observations alone, boolean ``(n_observed,)``, and from all.

        Covariances, most of the work, are computed once for both.
        """
        without, whole = self._from(values, [known, np.ones(len(values), dtype=bool)])
        return without, whole

    def _from(self, values: np.ndarray, which: list[np.ndarray]) -> list[np.ndarray]:
        """Predict from each of several choices of observations."""
        sources = [Source(known, values[known].mean(0), *self.weigh(values, known)) for known in which]
        predicted = [np.empty((len(self.places.spot), values.shape[1]), dtype=np.float32) for _ in which]
        owner = self._owner()
        for i, group in enumerate(self.groups):
            rows = np.flatnonzero(owner == i)
            for whole, source, part in zip(
                predicted, sources, self._predict(rows, group, values, sources), strict=True
            ):
                whole[rows] = source.mean + part
        return predicted

    def weigh(self, values: np.ndarray, known: np.ndarray | None = None) -> tuple[list[Setting], np.ndarray]:
        """Return the hyper-parameters that some column gives weight, and the weights, ``(n_settings, n_columns)``.

        Weights are posterior probabilities given the ``known`` observations, all points of the grid being equally likely
        before; those below a twentieth of a column's largest are left out.
        """
        known = np.ones(len(values), dtype=bool) if known is None else known
        centred = values - values[known].mean(0)
        likelihood: np.ndarray = np.stack(
            in_threads(lambda point: self.log_likelihood(centred, point, known), self.grid)
        )
        likelihood = likelihood.reshape(-1, centred.shape[1])
        weights = np.exp(likelihood - likelihood.max(0))
        weights[weights < NEGLIGIBLE] = 0
        some = np.flatnonzero(weights.any(1))
        settings = [Setting(self.kernels.weights(self.grid[i // len(NOISES)]), NOISES[i % len(NOISES)]) for i in some]
        return settings, weights[some] / weights.sum(0)

    def log_likelihood(self, centred: np.ndarray, point: Point, known: np.ndarray | None = None) -> np.ndarray:
        """Return the log marginal likelihood at the best variance of the field, up to a constant.

        One eigendecomposition serves all columns and noises, ``(n_noises, n_columns)``.
        """
        square, log_det, n = np.zeros((len(NOISES), centred.shape[1])), np.zeros(len(NOISES)), 0
        for group, between in zip(self._learned_from, self._between, strict=True):
            inside = np.arange(len(group)) if known is None else np.flatnonzero(known[group])
            w = 1 / np.sqrt(self.noise[group[inside]])
            covariance = _weighted(between, self.kernels.weights(point))[np.ix_(inside, inside)]
            values, vectors = np.linalg.eigh(covariance * w * w[:, None])
            variance = np.maximum(values, 0) + np.array(NOISES)[:, None]
            square += (1 / variance) @ (vectors.T @ (centred[group[inside]] * w[:, None])) ** 2
            log_det += np.log(variance).sum(1)
            n += len(inside)
        return -0.5 * n * np.log(np.maximum(square / n, 1e-300)) - 0.5 * log_det[:, None]

    def _owner(self) -> np.ndarray:
        """Return the group that predicts each subspot, the one of the nearest observed spot."""
        group_of = np.empty(len(self.places.spot_xy), dtype=np.int64)
        for i, group in enumerate(self.groups):
            group_of[group] = i
        return group_of[cKDTree(self.places.spot_xy).query(self.places.xy)[1]]

    def _predict(
        self, rows: np.ndarray, group: np.ndarray, values: np.ndarray, sources: list[Source]
    ) -> list[np.ndarray]:
        """Return what each source says of the subspots ``rows`` about its mean."""
        around = _within(self.places.spot_xy, group, HALO)
        seen = self.places.only(around)
        used = np.asarray(np.stack([s.kernels for source in sources for s in source.settings]).max(axis=0) > 0)
        between = self.kernels.between_spots(seen, used)
        solved = []
        for known, mean, settings, weights in sources:
            inside = np.flatnonzero(known[around])
            some = [c[np.ix_(inside, inside)] for c in between] if len(inside) < len(around) else between
            parts = self._solve(some, (values[around] - mean)[inside], self.noise[around][inside], settings, weights)
            solved.append([_spread(part, inside, len(around)) for part in parts])
        predicted = [np.empty((len(rows), values.shape[1])) for _ in sources]
        for part, blocks in self.kernels.to_spots(self.places.rows(rows), seen, used):
            for whole, each in zip(predicted, solved, strict=True):
                whole[part] = sum(block @ s for block, s in zip(blocks, each, strict=True))
        return predicted

    @staticmethod
    def _solve(
        between: list[np.ndarray], centred: np.ndarray, spread: np.ndarray, settings: list[Setting], weights: np.ndarray
    ) -> list[np.ndarray]:
        """Return what each kernel is multiplied with: ``(C + noise)^-1 centred``, averaged over settings.

        One Cholesky factor serves all columns that give a setting weight.
        """
        solved = [np.zeros_like(centred) for _ in between]

        def one(chosen: tuple[Setting, np.ndarray]) -> np.ndarray:
            setting, weight = chosen
            covariance = _weighted(between, setting.kernels)
            covariance[np.diag_indices_from(covariance)] += setting.noise * spread
            factor = cho_factor(covariance, lower=True, overwrite_a=True, check_finite=False)
            return cho_solve(factor, centred[:, weight > 0]) * weight[weight > 0]

        pairs = list(zip(settings, weights, strict=True))
        for (setting, weight), part in zip(pairs, in_threads(one, pairs), strict=True):
            for total, share in zip(solved, setting.kernels, strict=True):
                if share:
                    total[:, weight > 0] += share * part
        return solved


def _weighted(covariances: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    return np.asarray(sum(w * c for w, c in zip(weights, covariances, strict=True) if w))


def _spread(values: np.ndarray, rows: np.ndarray, n: int) -> np.ndarray:
    """Return ``(n, ...)`` with values in some rows and zeros in the others."""
    out = np.zeros((n, *values.shape[1:]))
    out[rows] = values
    return out


def _within(xy: np.ndarray, group: np.ndarray, distance: float) -> np.ndarray:
    """Return the points no further than ``distance`` from some point of a group."""
    low, high = xy[group].min(0) - distance, xy[group].max(0) + distance
    near = np.flatnonzero(((xy >= low) & (xy <= high)).all(1))
    return near[cKDTree(xy[group]).query(xy[near])[0] <= distance]


def in_threads(do: Callable[[T], S], items: Sequence[T]) -> list[S]:
    """Return what ``do`` makes of every item, one thread to an item: small matrices gain little from more."""
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(do, items))
