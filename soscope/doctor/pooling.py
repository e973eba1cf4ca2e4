"""Spots pooled into blocks of their lattice: large sections are judged whole, and not slower than small ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from soscope.distances import typical_distance
from soscope.lattice import Lattice
from soscope.matrices import Matrix

FULL_ENOUGH = 0.5
"""Share of a block that has spots; emptier ones, at the border, are left out."""


@dataclass(frozen=True)
class Pool:
    """What is compared with the image: spots, or blocks of them.

    Attributes
    ----------
    counts
        Profiles, ``(n, n_features)``; of a block the sum over its spots, as if it were full.
    xy
        Centres, of a block the mean of its spots', ``(n, 2)``.
    pitch
        Distance from one to the next, in the unit of ``xy``.
    side
        Spots along a block; 1 where there are no blocks.
    """

    counts: Matrix
    xy: np.ndarray
    pitch: float
    side: int = 1

    def only(self, kept: np.ndarray) -> Pool:
        """Return those that are ``kept``, ``(n,)`` of bool."""
        return self if kept.all() else Pool(self.counts[kept], self.xy[kept], self.pitch, self.side)


def pool(counts: Matrix, xy: np.ndarray, cells: np.ndarray, pitch: float, most: int) -> Pool:
    """Pool spots into the smallest blocks of which there are no more than ``most``.

    Parameters
    ----------
    counts
        ``(n_spots, n_features)``.
    xy
        Centres of spots, ``(n_spots, 2)``.
    cells
        Whole numbers of which one step is one pitch, as from `lattice_cells`, ``(n_spots, 2)``.
    pitch
        Distance from one spot to the next.
    most
        Largest number of blocks; as many spots stay as they are.
    """
    if len(xy) <= most:
        return Pool(counts, xy, pitch)
    side = math.isqrt((len(xy) - 1) // most)
    while True:
        side += 1
        block, members = _blocks(cells, side)
        full = members >= FULL_ENOUGH * side**2
        full = full if full.any() else members > 0
        if full.sum() <= most:
            break
    number = np.where(full, np.cumsum(full) - 1, -1)[block]
    inside = np.flatnonzero(number >= 0)
    shape = (int(full.sum()), len(xy))
    mean = sparse.csr_matrix((1 / members[block][inside], (number[inside], inside)), shape=shape)
    centres = mean @ xy
    sums = sparse.csr_matrix((mean * side**2).astype(np.float32) @ sparse.csr_matrix(counts))
    return Pool(sums, centres, typical_distance(centres), side)


def lattice_cells(lattice: Lattice, row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """Number spots so that one pitch is one step along either axis, ``(n_spots, 2)``: no two share both numbers."""
    columns = round(1 / float(lattice.unit_xy(np.array([0]), np.array([1]))[0, 0]))  # 2 on hexagonal arrays
    return np.column_stack([row, col // columns]).astype(np.int64)


def _blocks(cells: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the block of every spot, ``(n_spots,)``, and how many spots each block has."""
    row, col = ((cells - cells.min(0)) // side).T
    _, block = np.unique(row * (int(col.max()) + 1) + col, return_inverse=True)
    return block.ravel(), np.bincount(block.ravel())
