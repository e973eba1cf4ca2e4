"""How well what the image shows at the spots predicts their profiles, and how well it would by chance."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds
from scipy.spatial import cKDTree

from soscope.doctor.orientations import ORIENTATIONS, within_box
from soscope.groups import compact_groups
from soscope.matrices import Matrix
from soscope.prepare.graphs import neighbour_edges

N_FEATURES, N_COMPONENTS = 1000, 2
"""Most abundant features whose principal components stand for the profiles, and how many components."""
N_FOLDS, PENALTY = 8, 10.0
LEAST_R2, LEAST_WEIGHT = -0.3, 0.05
N_CHANCE, FAR = 200, 3.0
"""Displacements that show what chance gives, and how far these are from nothing at all, in pitches."""


class Association:
    """Cross-validated prediction of profiles from the image.

    Parameters
    ----------
    counts
        Counts or real values, ``(n_spots, n_features)``.
    xy
        Centres of spots, ``(n_spots, 2)``.
    pitch
        Distance from one spot to the next, in the unit of ``xy``.

    Attributes
    ----------
    targets
        Log totals (of counts) and leading principal components, standardised, ``(n_spots, n_targets)``.
    morans_i
        Moran's I of each, row-normalised weights between neighbours.
    """

    def __init__(self, counts: Matrix, xy: np.ndarray, pitch: float) -> None:
        self.xy, self.pitch = xy, pitch
        self.targets = standardised(profile_targets(counts))
        self.neighbours = _neighbours(xy, pitch)
        self.morans_i = self._morans_i(self.targets)
        self.folds = compact_groups(xy, -(-len(xy) // N_FOLDS))

    def score(self, features: np.ndarray) -> float:
        """Return the R2 of a ridge regression in blocks of the tissue it has not seen, averaged over targets.

        Targets weigh by their Moran's I: what is noise from spot to spot cannot be predicted by anything.
        """
        predicted = self._predict(standardised(features))
        r2 = 1 - ((self.targets - predicted) ** 2).mean(0)
        weight = np.clip(self.morans_i, LEAST_WEIGHT, 1)
        return float((np.clip(r2, LEAST_R2, 1) * weight).sum() / weight.sum())

    def chance(self, features: np.ndarray, seed: int = 0) -> np.ndarray:
        """Return scores ``(N_CHANCE,)`` of the same features elsewhere: turned or mirrored, and moved round the tissue's box.

        Both sides keep their own smoothness, which alone makes unrelated maps agree more than shuffled ones would.
        """
        rng = np.random.default_rng(seed)
        tree = cKDTree(self.xy)
        return np.array([self.score(features[self._elsewhere(tree, rng)]) for _ in range(N_CHANCE)])

    @cached_property
    def autocorrelation_by_chance(self) -> float:
        """Standard deviation of Moran's I over shuffled spots."""
        rng = np.random.default_rng(0)
        return float(np.std([self._morans_i(rng.permutation(self.targets)) for _ in range(50)]))

    def _elsewhere(self, tree: cKDTree, rng: np.random.Generator) -> np.ndarray:
        low, high = self.xy.min(0) - self.pitch / 2, self.xy.max(0) + self.pitch / 2
        span = high - low
        orientation = ORIENTATIONS[rng.integers(len(ORIENTATIONS))]
        nearest = FAR * self.pitch / span
        move = rng.uniform(np.minimum(nearest, 0.4), 1 - np.minimum(nearest, 0.4)) * span
        return tree.query((within_box(self.xy, orientation, low, high) - low + move) % span + low)[1]

    def _predict(self, features: np.ndarray) -> np.ndarray:
        predicted = np.zeros_like(self.targets)
        gram, cross = features.T @ features, features.T @ self.targets
        for fold in self.folds:
            part, own = features[fold], self.targets[fold]
            n = len(features) - len(fold)
            centre, level = (
                -part.sum(0) / n,
                -own.sum(0) / n,
            )  # all sum to zero, so those outside the fold to minus its sum
            a = gram - part.T @ part - n * np.outer(centre, centre) + PENALTY * np.eye(features.shape[1])
            b = cross - part.T @ own - n * np.outer(centre, level)
            predicted[fold] = (part - centre) @ np.linalg.solve(a, b) + level
        return predicted

    def _morans_i(self, targets: np.ndarray) -> np.ndarray:
        linked = np.asarray(self.neighbours.sum(1)).ravel() > 0
        squares = (targets[linked] ** 2).sum(0)
        return (targets * (self.neighbours @ targets))[linked].sum(0) / np.where(squares > 0, squares, 1)


def standardised(values: np.ndarray) -> np.ndarray:
    """Return columns of mean 0 and variance 1; constant ones become 0."""
    values = np.asarray(values, dtype=np.float64)
    spread = values.std(0)
    return np.where(spread > 1e-6, (values - values.mean(0)) / np.where(spread > 1e-6, spread, 1), 0.0)


def profile_targets(counts: Matrix) -> np.ndarray:
    """Return log totals and leading components of log-normalised profiles; of values that may be negative, components alone."""
    x = sparse.csr_matrix(counts).astype(np.float64)
    if x.nnz and x.data.min() < 0:
        return _components(standardised(x.toarray()))
    total, abundance = np.asarray(x.sum(1)).ravel(), np.asarray(x.sum(0)).ravel()
    top = np.argsort(-abundance, kind="stable")[:N_FEATURES]
    typical = np.median(total[total > 0]) if (total > 0).any() else 1.0
    logs = np.log1p(x[:, top].toarray() * (typical / np.maximum(total, 1e-12))[:, None])
    return np.column_stack([np.log1p(total), _components(logs - logs.mean(0))])


def _components(centred: np.ndarray) -> np.ndarray:
    n = min(N_COMPONENTS, min(centred.shape) - 1)
    if n < 1 or not centred.any():
        return centred[:, :N_COMPONENTS]
    u, s, _ = svds(centred, n, v0=np.ones(min(centred.shape)))
    return (u * s)[:, np.argsort(-s)]


def _neighbours(xy: np.ndarray, pitch: float) -> sparse.csr_matrix:
    edges = neighbour_edges(xy, 1.3 * pitch)
    degree = np.bincount(edges[0], minlength=len(xy))
    return sparse.csr_matrix((1.0 / degree[edges[0]], (edges[0], edges[1])), shape=(len(xy), len(xy)))
