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


class Groups:
    """Rows by the one of ``n`` groups they belong to; rows of ``index`` -1 belong to none."""

    def __init__(self, index: np.ndarray, n: int) -> None:
        counts = np.bincount(index[index >= 0], minlength=n)
        self._order = np.argsort(index, kind="stable")[len(index) - counts.sum() :]
        self._start = np.concatenate([[0], np.cumsum(counts)])

    def sizes(self, groups: np.ndarray) -> np.ndarray:
        """Return the number of rows of some groups."""
        return self._start[groups + 1] - self._start[groups]

    def rows(self, groups: np.ndarray) -> np.ndarray:
        """Return the rows of some groups, those of a group together, in the order of ``groups``."""
        sizes = self.sizes(groups)
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return self._order[np.repeat(self._start[groups], sizes) + within]


def numbered(rows: np.ndarray, n: int) -> np.ndarray:
    """Return the place of each of ``n`` rows among ``rows``, -1 for the others and for row -1, ``(n + 1,)``."""
    place = np.full(n + 1, -1)
    place[rows] = np.arange(len(rows))
    return place
