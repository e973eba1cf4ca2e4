"""Tables whose rows need not all be in memory: read from a store, or computed, when they are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from scipy import sparse

from soscope.errors import DataError

IN_MEMORY = 2**25
"""Entries up to which stored features are read as float32: 128 MB."""
BLOCK = 2**22
"""Entries of the blocks a table is gone through in."""

Chosen: TypeAlias = "np.ndarray | slice"


class Rows(Protocol):
    """What an array is too: a shape, and rows that can be taken by number, mask or slice."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and columns."""

    def __getitem__(self, chosen: Chosen, /) -> np.ndarray:
        """Return the rows chosen, ``(n_chosen, n_columns)``."""


class StoredRows:
    """Rows of an array of another precision, in memory or in a zarr store, as float32 when they are taken."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self._at = array if isinstance(array, np.ndarray) else array.oindex

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows and columns."""
        return tuple(self.array.shape)

    def __getitem__(self, chosen: Chosen) -> np.ndarray:
        """Read the rows chosen; `DataError` where the store is damaged."""
        try:
            found = self.array[chosen] if isinstance(chosen, slice) else self._at[chosen]
        except (OSError, RuntimeError, ValueError) as error:
            raise DataError(
                f"stored image features cannot be read ({error}). Prepare again in a new run folder."
            ) from error
        return np.asarray(found).astype(np.float32)


class ComputedRows:
    """Rows that are computed when they are taken.

    Parameters
    ----------
    shape
        Number of rows and columns.
    compute
        From row numbers to rows, ``(n_chosen, n_columns)``.
    """

    def __init__(self, shape: tuple[int, ...], compute: Callable[[np.ndarray], np.ndarray]) -> None:
        self.shape, self.compute = shape, compute

    def __getitem__(self, chosen: Chosen) -> np.ndarray:
        """Compute the rows chosen."""
        return self.compute(np.arange(self.shape[0])[chosen])


def rows_of(values: Any, largest_gb: float) -> Rows:
    """Return features as rows of float32.

    Up to `IN_MEMORY` entries are read at once; larger ones are kept in memory in their own precision up to ``largest_gb``, and
    beyond that are read from the store as they are taken.
    """
    if values.size <= IN_MEMORY:
        return np.asarray(values[:], dtype=np.float32)
    return StoredRows(values[:] if values.nbytes <= largest_gb * 1e9 else values)


def averaged(rows: Rows, weight: sparse.csr_matrix, chosen: np.ndarray) -> np.ndarray:
    """Return averages over other rows by the chosen rows of ``weight``, ``(n, n)``, which are divided by their sums."""
    part = weight[chosen]
    needed, place = np.unique(part.indices, return_inverse=True)
    among = sparse.csr_matrix((part.data, place, part.indptr), (len(chosen), len(needed)))
    return np.asarray((among @ rows[needed]) / np.asarray(among.sum(1))).astype(np.float32)


def joined(parts: Sequence[Rows], of_each: Sequence[np.ndarray]) -> Rows:
    """Return some rows of several tables with the same columns, one table after another."""
    part = np.repeat(np.arange(len(parts)), [len(rows) for rows in of_each])
    row = np.concatenate(of_each)

    def take(chosen: np.ndarray) -> np.ndarray:
        out = np.empty((len(chosen), parts[0].shape[1]), dtype=np.float32)
        for i in np.unique(part[chosen]):
            mine = part[chosen] == i
            out[mine] = parts[i][row[chosen[mine]]]
        return out

    return ComputedRows((len(row), parts[0].shape[1]), take)


def side_by_side(parts: Sequence[Rows]) -> Rows:
    """Return the columns of several tables with the same rows, one table after another."""
    shape = parts[0].shape[0], sum(part.shape[1] for part in parts)
    return ComputedRows(shape, lambda chosen: np.concatenate([part[chosen] for part in parts], 1))


def blocks(rows: Rows, size: int = BLOCK) -> Iterator[np.ndarray]:
    """Go through a table in blocks of rows of about ``size`` entries."""
    step = max(size // max(rows.shape[1], 1), 1)
    return (rows[i : i + step] for i in range(0, rows.shape[0], step))


def evenly_spaced(n_rows: int, n_columns: int, largest: int) -> np.ndarray:
    """Return evenly spaced row numbers, of a table with at most about ``largest`` entries."""
    return np.arange(0, n_rows, max(-(-n_rows * n_columns // largest), 1))
