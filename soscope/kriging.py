"""Area-to-point kriging: a Gaussian process over subspots, seen through its averages over spots.

References
----------
Kyriakidis 2004, A geostatistical framework for area-to-point spatial interpolation, doi:10.1111/j.1538-4632.2004.tb01135.x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from soscope.groups import compact_groups
from soscope.kernels import Kernels, Places, Point
from soscope.matrices import Groups

NOISES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.6, 4.0, 12.0)
"""Noise variances tried, relative to the field's variance between spots."""
NEGLIGIBLE = 0.05
"""Hyper-parameters this much less likely than a column's best are left out."""
WHOLE_UP_TO = 500
"""Spots that are kriged together; larger sections are taken in compact groups, so that the cost stays linear,"""
GROUP = 200
"""of so many spots: with what lies around them, larger groups take longer."""
HALO = 4.0
"""Pitches around a group within which other spots inform it."""
LEARNED_FROM = 10
"""How many of these groups choose the hyper-parameters by likelihood."""


class Setting(NamedTuple):
    """Hyper-parameters: the weight of every kernel, and the variance of the noise."""

    kernels: np.ndarray
    noise: float


class Source(NamedTuple):
    """What is predicted from: the observations that are known, their mean, and the weights of all settings."""

    known: np.ndarray
    mean: np.ndarray
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
        self.groups = compact_groups(places.spot_xy, GROUP if len(places.spot_xy) > WHOLE_UP_TO else WHOLE_UP_TO)
        self._tree = cKDTree(places.spot_xy)
        self.grid = self.kernels.grid
        self.settings = [Setting(self.kernels.weights(point), noise) for point in self.grid for noise in NOISES]
        self._work = np.empty((0, 0))
        chosen = np.linspace(0, len(self.groups) - 1, min(LEARNED_FROM, len(self.groups))).round().astype(int)
        self._learned_from = [self.groups[i] for i in chosen]
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

    def both(self, values: np.ndarray, known: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Predict from the ``known`` observations alone, boolean ``(n_observed,)``, and from all.

        Covariances, most of the work, are computed once for both. Returns ``(2, n_subspots, n_columns)`` of float32: ``out``,
        which may be a file, if it is given.
        """
        return self._from(values, [known, np.ones(len(values), dtype=bool)], out)

    def _from(self, values: np.ndarray, which: list[np.ndarray], out: np.ndarray | None = None) -> np.ndarray:
        """Predict from each of several choices of observations."""
        with threadpool_limits(1, "blas"):  # its waiting threads take the cores from torch's
            weights = self.weigh(values, which)
            sources = [Source(k, values[k].mean(0), w) for k, w in zip(which, weights, strict=True)]
            shape = len(which), len(self.places.spot), values.shape[1]
            predicted = np.empty(shape, dtype=np.float32) if out is None else out
            owned = Groups(self._owner(), len(self.groups))
            for i, group in enumerate(self.groups):
                rows = owned.rows(np.array([i]))
                for whole, source, part in zip(
                    predicted, sources, self._predict(rows, group, values, sources), strict=True
                ):
                    whole[rows] = source.mean + part
        return predicted

    def weigh(self, values: np.ndarray, which: Sequence[np.ndarray]) -> np.ndarray:
        """Return the weight of every one of ``settings`` in every column, ``(n_choices, n_settings, n_columns)``.

        Weights are posterior probabilities given the observations that are known, all settings being equally likely before;
        those below a twentieth of a column's largest are zero.

        Parameters
        ----------
        values
            ``(n_observed, n_columns)``.
        which
            Choices of known observations, each boolean ``(n_observed,)``; those of the first are part of all others.
        """
        likelihood: np.ndarray = np.stack([self.log_likelihood(values, p, which) for p in self.grid], 1)
        likelihood = likelihood.reshape(len(which), -1, values.shape[1])
        weights: np.ndarray = np.exp(likelihood - likelihood.max(1, keepdims=True))
        weights[weights < NEGLIGIBLE] = 0
        return weights / weights.sum(1, keepdims=True)

    def log_likelihood(self, values: np.ndarray, point: Point, which: Sequence[np.ndarray]) -> np.ndarray:
        """Return the log marginal likelihood at the best variance of the field, up to a constant.

        As `weigh`, of one point of the grid: ``(n_choices, n_noises, n_columns)``.
        """
        square = np.zeros((len(which), len(NOISES), values.shape[1]))
        log_det, n = np.zeros((len(which), len(NOISES), 1)), np.zeros((len(which), 1, 1))
        for group, between in zip(self._learned_from, self._between, strict=True):
            order = _first(which[0][group])
            rows = group[order]
            covariance = _weighted(between, self.kernels.weights(point))[np.ix_(order, order)]
            known = [k[rows] for k in which]
            centred = [(values[rows] - values[k].mean(0)) * i[:, None] for k, i in zip(which, known, strict=True)]
            n += np.sum(known, axis=1)[:, None, None]
            for noise, found in enumerate(NOISES):
                factor = self._factor(covariance, found, rows)
                white = solve_triangular(factor, np.concatenate(centred, 1), lower=True, check_finite=False)
                logs = 2 * np.log(factor.diagonal())
                for j, (k, part) in enumerate(zip(known, np.split(white, len(which), axis=1), strict=True)):
                    square[j, noise] += (part[k] ** 2).sum(0)
                    log_det[j, noise] += logs[k].sum()
        return np.asarray(-0.5 * n * np.log(np.maximum(square / n, 1e-300)) - 0.5 * log_det)

    def _factor(self, covariance: np.ndarray, noise: float, rows: np.ndarray) -> np.ndarray:
        """Return the lower Cholesky factor of a symmetric covariance of observations ``rows`` and their noise.

        Its leading part is the factor of the leading part: with those known to all first, one factor serves all choices. It
        stands in memory that the next one is written to.
        """
        if self._work.shape != covariance.shape:
            self._work = np.empty(covariance.shape, order="F")
        np.copyto(self._work, covariance.T)
        self._work[np.diag_indices_from(self._work)] += noise * self.noise[rows]
        return np.asarray(cholesky(self._work, lower=True, overwrite_a=True, check_finite=False))

    def _owner(self) -> np.ndarray:
        """Return the group that predicts each subspot, the one of the nearest observed spot."""
        group_of = np.empty(len(self.places.spot_xy), dtype=np.int64)
        for i, group in enumerate(self.groups):
            group_of[group] = i
        return group_of[self._tree.query(self.places.xy)[1]]

    def _predict(
        self, rows: np.ndarray, group: np.ndarray, values: np.ndarray, sources: list[Source]
    ) -> list[np.ndarray]:
        """Return what each source says of the subspots ``rows`` about its mean."""
        around = self._around(group)
        around = around[_first(sources[0].known[around])]
        seen = self.places.only(around)
        kernels = np.array([s.kernels for s in self.settings])
        used = np.asarray((kernels[self._weighing(sources)] > 0).any(0))
        between = self.kernels.between_spots(seen, used)
        solved = self._solve(between, values, around, sources)
        predicted = [np.zeros((len(rows), values.shape[1])) for _ in sources]
        for part, blocks in self.kernels.to_spots(self.places.rows(rows), seen, used):
            for whole, each in zip(predicted, solved, strict=True):
                for block, s in zip(blocks, each, strict=True):
                    if block is not None:
                        whole[part] += block[: len(s)].T @ s
        return predicted

    def _around(self, group: np.ndarray) -> np.ndarray:
        """Return the spots no further than `HALO` from some spot of a group, in order."""
        xy = self.places.spot_xy
        low, high = xy[group].min(0), xy[group].max(0)
        square = self._tree.query_ball_point(
            (low + high) / 2, (high - low).max() / 2 + HALO, p=np.inf, return_sorted=True
        )
        near = np.asarray(square)
        return near[cKDTree(xy[group]).query(xy[near])[0] <= HALO]

    @staticmethod
    def _weighing(sources: list[Source]) -> np.ndarray:
        """Return the numbers of the settings that have weight in some column."""
        return np.flatnonzero(np.any([s.weights.any(1) for s in sources], axis=0))

    def _solve(
        self, between: list[np.ndarray], values: np.ndarray, around: np.ndarray, sources: list[Source]
    ) -> list[list[np.ndarray]]:
        """Return per source what each kernel is multiplied with: ``(C + noise)^-1 centred``, averaged over settings.

        One factor serves all columns that give a setting weight, and all sources: ``around`` starts with what the first knows.
        """
        n_known = [int(s.known[around].sum()) for s in sources]
        centred = [(values[around[:n]] - s.mean) for n, s in zip(n_known, sources, strict=True)]
        solved = [[np.zeros_like(c) for _ in between] for c in centred]

        def one(i: int) -> list[np.ndarray]:
            setting = self.settings[i]
            factor = self._factor(_weighted(between, setting.kernels), setting.noise, around)
            wanted = [s.weights[i] for s in sources]
            return [
                cho_solve((factor[: len(c), : len(c)], True), c[:, w > 0], check_finite=False) * w[w > 0]
                for c, w in zip(centred, wanted, strict=True)
            ]

        for i in self._weighing(sources):
            for source, part, totals in zip(sources, one(i), solved, strict=True):
                for total, share in zip(totals, self.settings[i].kernels, strict=True):
                    if share:
                        total[:, source.weights[i] > 0] += share * part
        return solved


def _weighted(covariances: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    return np.asarray(sum(w * c for w, c in zip(weights, covariances, strict=True) if w))


def _first(chosen: np.ndarray) -> np.ndarray:
    """Return the order that puts what is chosen first."""
    return np.argsort(~chosen, kind="stable")
