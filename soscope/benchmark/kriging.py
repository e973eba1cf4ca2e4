"""Area-to-point kriging: a Gaussian process over subspots, seen through its averages over spots.

References
----------
Kyriakidis 2004, A geostatistical framework for area-to-point spatial interpolation, doi:10.1111/j.1538-4632.2004.tb01135.x.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor

from soscope.benchmark.observed import Observed

RANGES = (1.0, 2.0, 4.0)
"""Ranges of the covariance over distance that are tried, in pitches."""
IMAGE_SHARES = (0.05, 0.15, 0.35, 0.6, 0.85)
"""Parts of the variance that image features may explain."""
NOISES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.8, 1.6, 4.0, 12.0)
"""Noise variances tried, relative to the field's variance between spots."""
IMAGE_WIDTH = 10.0
"""Squared width of the image kernel over the median squared distance of two subspots: wide, so nearly linear."""
BLOCK = 64
"""Subspots whose covariances with all others are held at a time."""
GROUP = 500
"""Spots whose joint likelihood is taken; larger sections add up the likelihoods of compact groups."""


def matern32(distance: Tensor, length: float) -> Tensor:
    """Return the Matern-3/2 correlation at a distance."""
    scaled = distance * (3**0.5 / length)
    return torch.exp(-scaled).mul_(scaled.add_(1))


class Covariances:
    """Covariances the field may be made of: over distance at several ranges, then over image features if there are any.

    Each is scaled so that averages over spots vary by 1 about their common mean.

    Parameters
    ----------
    observed
        Geometry and image features; subspots under no spot take no part.
    """

    def __init__(self, observed: Observed) -> None:
        section = observed.section
        inside = np.flatnonzero(observed.spot >= 0)
        self.average = observed.average[:, inside].astype(np.float32)
        xy = section.subspot_xy_um[inside] / section.pitch_um
        self.xy = torch.as_tensor(xy - xy.mean(0), dtype=torch.float32)
        self.image = torch.as_tensor(section.image_features[inside], dtype=torch.float32)
        few = self.image[:: max(1, len(inside) // 1000)]
        self.width = IMAGE_WIDTH * max(float(torch.pdist(few).square_().median()) if len(few) > 1 else 0.0, 1e-12)
        self.shares = IMAGE_SHARES if self.image.shape[1] else (0.0,)
        self.scale = np.ones(len(RANGES) + 1)
        self.between_spots = self._between_spots()
        for i, spots in enumerate(self.between_spots):
            variance = spots.diagonal().mean() - spots.mean()
            self.scale[i] = 1 / variance if variance > 1e-9 else 1.0
            spots *= self.scale[i]

    def to_spots(self) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Go through blocks of subspots with their covariances to the averages over spots, each ``(n_block, n_spots)``."""
        for start in range(0, len(self.xy), BLOCK):
            rows = slice(start, start + BLOCK)
            yield rows, [s * (self.average @ k.T).T for s, k in zip(self.scale, self._rows(rows), strict=False)]

    def weights(self, length: int, share: float) -> np.ndarray:
        """Return the weight of each covariance when ``share`` of the variance is the image's, the rest of one range."""
        return np.r_[np.eye(len(RANGES))[length] * (1 - share), share][: len(self.between_spots)]

    def _rows(self, rows: slice) -> list[np.ndarray]:
        distance = torch.cdist(self.xy[rows], self.xy, compute_mode="donot_use_mm_for_euclid_dist")
        kernels = [matern32(distance, length) for length in RANGES]
        if self.image.shape[1]:
            kernels.append(torch.cdist(self.image[rows], self.image).square_().mul_(-0.5 / self.width).exp_())
        return [k.numpy() for k in kernels]

    def _between_spots(self) -> list[np.ndarray]:
        n = self.average.shape[0]
        sums = [np.zeros((n, n)) for _ in range(len(RANGES) + bool(self.image.shape[1]))]
        for rows, blocks in self.to_spots():
            weight = self.average[:, rows]
            hit = np.flatnonzero(np.diff(weight.indptr))
            for total, block in zip(sums, blocks, strict=True):
                total[hit] += weight[hit] @ block
        return sums


class AreaKriging:
    """Predicts subspots from spots, feature by feature, with hyper-parameters of the largest marginal likelihood.

    Parameters
    ----------
    observed
        Geometry and image features. The noise of a spot falls with its number of subspots.
    """

    def __init__(self, observed: Observed) -> None:
        self.spot = observed.spot
        self.noise = observed.n_per_spot.mean() / observed.n_per_spot
        self.covariances = Covariances(observed)
        self.groups = compact_groups(observed.section.xy_um[observed.used], GROUP)
        self.grid = list(itertools.product(range(len(RANGES)), self.covariances.shares))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Predict.

        Parameters
        ----------
        values
            Averages over the spots that have subspots, ``(n_used, n_features)``.

        Returns
        -------
        Predicted values, ``(n_subspots, n_features)``; zero under no spot.
        """
        mean = values.mean(0)
        chosen, noise = self.choose(values - mean)
        weights = np.stack([self.covariances.weights(*point) for point in self.grid])[chosen]
        solved = self._solve(values - mean, chosen, noise)
        inside = np.empty((int((self.spot >= 0).sum()), len(mean)))
        for rows, blocks in self.covariances.to_spots():
            inside[rows] = mean + sum(block @ (solved * w) for block, w in zip(blocks, weights.T, strict=True))
        predicted = np.zeros((len(self.spot), len(mean)))
        predicted[self.spot >= 0] = inside
        return predicted

    def choose(self, centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each feature's point of ``grid`` and its noise variance."""
        likelihood = np.stack([self.log_likelihood(centred, *point) for point in self.grid])
        best = likelihood.reshape(-1, centred.shape[1]).argmax(0)
        return best // len(NOISES), np.array(NOISES)[best % len(NOISES)]

    def log_likelihood(self, centred: np.ndarray, length: int, share: float) -> np.ndarray:
        """Return the log marginal likelihood at the best variance of the field, up to a constant.

        One eigendecomposition serves all features and noises, ``(n_noises, n_features)``.
        """
        covariance = self._covariance(length, share)
        whiten = 1 / np.sqrt(self.noise)
        square, log_det = np.zeros((len(NOISES), centred.shape[1])), np.zeros(len(NOISES))
        for group in self.groups:
            w = whiten[group]
            values, vectors = np.linalg.eigh(covariance[np.ix_(group, group)] * w * w[:, None])
            variance = np.maximum(values, 0) + np.array(NOISES)[:, None]
            square += (1 / variance) @ (vectors.T @ (centred[group] * w[:, None])) ** 2
            log_det += np.log(variance).sum(1)
        n = len(centred)
        return -0.5 * n * np.log(np.maximum(square / n, 1e-300)) - 0.5 * log_det[:, None]

    def _covariance(self, length: int, share: float) -> np.ndarray:
        weights = self.covariances.weights(length, share)
        return sum(w * c for w, c in zip(weights, self.covariances.between_spots, strict=True))

    def _solve(self, centred: np.ndarray, chosen: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return ``(C + noise)^-1 centred``, by one Cholesky factor for all features of the same hyper-parameters."""
        solved = np.empty_like(centred)
        for point, level in sorted(set(zip(chosen.tolist(), noise.tolist(), strict=True))):
            same = (chosen == point) & (noise == level)
            factor = cho_factor(self._covariance(*self.grid[point]) + np.diag(level * self.noise), lower=True)
            solved[:, same] = cho_solve(factor, centred[:, same])
        return solved


def compact_groups(xy: np.ndarray, size: int) -> list[np.ndarray]:
    """Divide points into compact groups of at most ``size`` by halving along the longer side."""
    pending, done = [np.arange(len(xy))], []
    while pending:
        group = pending.pop()
        if len(group) <= size:
            done.append(group)
            continue
        along = np.ptp(xy[group], axis=0).argmax()
        pending += np.array_split(group[np.argsort(xy[group, along], kind="stable")], 2)
    return done
