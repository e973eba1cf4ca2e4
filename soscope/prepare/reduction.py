"""Image features to few columns, and the same map again for sections that come later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import PCA


@dataclass(frozen=True)
class Reduction:
    """What one encoder's features went through: ``(block - mean) @ directions / scale``.

    Attributes
    ----------
    mean
        Mean of every column, ``(n_columns,)``.
    directions
        Principal directions ``(n_columns, n)``; without columns, features were standardised alone.
    scale
        What the result is divided by, ``(n,)``.
    """

    mean: np.ndarray
    directions: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, block: np.ndarray, n_components: int, seed: int) -> tuple[Reduction, np.ndarray]:
        """Reduce features by PCA, ``(n_subspots, n)`` of float32, and return how.

        Blocks narrower than ``n_components`` are standardised instead. The result has mean square 1 over its columns, with the
        relative sizes of principal components kept.
        """
        block = np.asarray(block, dtype=np.float32)
        mean = block.mean(0)
        block = block - mean
        if block.shape[1] <= n_components:
            spread = block.std(0)
            spread = np.where(spread > 1e-6, spread, 1)
            return cls(mean, np.zeros((block.shape[1], 0), np.float32), spread), (block / spread).astype(np.float32)
        pca = PCA(min(n_components, len(block)), svd_solver="randomized", random_state=seed)
        scores = pca.fit_transform(block)
        scale = np.full(scores.shape[1], max(float(scores.std()), 1e-12))
        return cls(mean + pca.mean_, pca.components_.T, scale), (scores / scale[0]).astype(np.float32)

    @classmethod
    def none(cls, n_columns: int) -> Reduction:
        """Return what leaves features as they are."""
        return cls(
            np.zeros(n_columns, np.float32), np.zeros((n_columns, 0), np.float32), np.ones(n_columns, np.float32)
        )

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Reduce the features of another section alike, ``(n_subspots, n)`` of float32."""
        centred = np.asarray(block, dtype=np.float32) - self.mean
        reduced = centred @ self.directions if self.directions.shape[1] else centred
        return (reduced / self.scale).astype(np.float32)

    def as_arrays(self) -> dict[str, np.ndarray]:
        """Return plain arrays by name, to be kept with a table."""
        return {name: np.asarray(value, dtype=np.float32) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any]) -> Reduction:
        """Return what `as_arrays` was made of."""
        return cls(*(np.asarray(arrays[name]) for name in ("mean", "directions", "scale")))
