"""Matrices that may be dense or sparse."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

Matrix: TypeAlias = "np.ndarray | sparse.csr_matrix"


def to_dense(x: Any, dtype: type | None = None) -> np.ndarray:
    """Return a dense array."""
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=dtype)


def rank_within(index: np.ndarray) -> np.ndarray:
    """Return how many earlier rows have the same index."""
    order = np.argsort(index, kind="stable")
    sorted_index = index[order]
    first = np.r_[True, sorted_index[1:] != sorted_index[:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(index)), 0))
    rank = np.empty(len(index), dtype=np.int64)
    rank[order] = np.arange(len(index)) - start
    return rank


def group_rows(index: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows sorted by their index, -1 left out, and where each of ``n`` groups starts in them, ``(n + 1,)``."""
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index[index >= 0], minlength=n)
    return order[len(index) - counts.sum() :], np.concatenate([[0], np.cumsum(counts)])


def numbered(rows: np.ndarray, n: int) -> np.ndarray:
    """Return the place of each of ``n`` rows among ``rows``, -1 for the others and for row -1, ``(n + 1,)``."""
    place = np.full(n + 1, -1)
    place[rows] = np.arange(len(rows))
    return place
