"""Neighbour graphs weighted by similarity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from rich.progress import track
from scipy import sparse
from scipy.spatial import cKDTree

from soscope.distances import typical_distance
from soscope.rows import BLOCK, Rows


@dataclass
class Graph:
    """Directed edges ``(2, n_edges)`` (both directions, no self-loops) and their weights ``(n_edges,)`` in (0, 1]."""

    edges: np.ndarray
    weight: np.ndarray

    def to_matrix(self, n: int) -> sparse.csr_matrix:
        """Return the ``n x n`` sparse matrix of weights."""
        return sparse.csr_matrix((self.weight, (self.edges[0], self.edges[1])), shape=(n, n))

    def only(self, number: np.ndarray) -> Graph:
        """Return the edges between nodes with a new ``number``, -1 for those left out, ``(n,)``."""
        ends = number[self.edges]
        kept = (ends >= 0).all(0)
        return Graph(ends[:, kept], self.weight[kept])

    @classmethod
    def from_matrix(cls, matrix: sparse.spmatrix, dtype: type = np.float32) -> Graph:
        """Read edges from a sparse matrix; the diagonal is dropped."""
        coo = sparse.coo_matrix(matrix)
        keep = coo.row != coo.col
        edges = np.stack([coo.row[keep], coo.col[keep]]).astype(np.int64)
        return cls(edges, coo.data[keep].astype(dtype))


def neighbour_edges(xy: np.ndarray, radius: float) -> np.ndarray:
    """Link points closer than ``radius`` in both directions, ``(2, n_edges)``, by a KD-tree."""
    pairs = cKDTree(xy).query_pairs(radius, output_type="ndarray").astype(np.int64)
    edges = np.concatenate([pairs, pairs[:, ::-1]]).T
    return edges[:, np.lexsort((edges[1], edges[0]))]


def nearest_edges(xy: np.ndarray, n_neighbours: int, reach: float = 1.3) -> np.ndarray:
    """Link points without a lattice to their nearest in both directions, ``(2, n_edges)``.

    None is further than ``reach`` times the typical distance to the last of them, so that the border of a regular grid is
    not linked across its diagonals, nor an outlier across the tissue.
    """
    n = min(n_neighbours, len(xy) - 1)
    limit = reach * typical_distance(xy, n)
    distance, other = cKDTree(xy).query(xy, k=n + 1)
    source = np.repeat(np.arange(len(xy)), n + 1)
    keep = (distance.ravel() <= limit) & (source != other.ravel())
    pairs = np.stack([source[keep], other.ravel()[keep]])
    return np.unique(np.concatenate([pairs, pairs[::-1]], 1), axis=1)


def distances(values: Rows, edges: np.ndarray, chunk: int = BLOCK, progress: bool = False) -> np.ndarray:
    """Return the Euclidean distances of rows ``(n, width)`` at the ends of edges, ``(n_edges,)``, ``chunk`` entries at a time."""
    step = max(chunk // max(values.shape[1], 1), 1)
    found = [np.zeros(0)]
    for i in track(range(0, edges.shape[1], step), "similarity", disable=not progress, transient=True):
        ends, places = np.unique(edges[:, i : i + step], return_inverse=True)
        here, there = places.reshape(2, -1)
        rows = values[ends].astype(np.float64)
        found.append(np.linalg.norm(rows[here] - rows[there], axis=1))
    return np.concatenate(found)


def similarity(values: Rows, edges: np.ndarray, scale: float = 5.0, progress: bool = False) -> np.ndarray:
    """Weigh edges by how alike their ends are, ``(n_edges,)``.

    Parameters
    ----------
    values
        Profiles or image features, ``(n, width)``; with no column at all, every edge weighs 1.
    edges
        ``(2, n_edges)``.
    scale
        The edge of median distance weighs ``1 / scale``, the closest 1.
    progress
        Show a bar.

    Notes
    -----
    ``w = exp(-(d - d_min) / delta)`` with ``delta = (d_median - d_min) / ln(scale)`` and ``d`` Euclidean, as in the released
    program's graphs; 1 where the median equals the minimum.
    """
    if not edges.shape[1]:
        return np.zeros(0)
    d = distances(values, edges, progress=progress)
    nearest, median = d.min(), np.median(d)
    if median <= nearest:
        return np.ones_like(d)
    return np.exp(-(d - nearest) / ((median - nearest) / math.log(scale)))
