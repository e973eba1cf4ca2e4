"""Checks of observed values that name the spot and the feature."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from soscope.errors import DataError
from soscope.matrices import Matrix


def check_counts(x: Matrix, where: str, spots: list[str], features: list[str]) -> None:
    """Refuse values that are not finite non-negative integers."""
    check_finite(x, where, spots, features)
    values = stored_values(x)
    negative = values < 0
    fractional = values != np.floor(values)
    if not (negative | fractional).any():
        return
    kind, bad = ("negative", negative) if negative.any() else ("fractional", fractional)
    raise DataError(
        f"{where}: counts must be non-negative integers, but {int(bad.sum()):,} of {np.prod(x.shape):,} values are "
        f"{kind} (first: {first_entry(x, bad, spots, features)}). Give raw counts, "
        "or use model=gaussian with representation=values (model.modalities.rna.representation=values)."
    )


def stored_values(x: Matrix) -> np.ndarray:
    """Return the stored values of a matrix, flat; the zeros a sparse matrix leaves out cannot be wrong."""
    return np.asarray(x.data if sparse.issparse(x) else x).ravel()


def first_entry(x: Any, bad: np.ndarray, spots: list[str], features: list[str]) -> str:
    """Name the spot, feature and value of the first flagged stored value."""
    at = int(np.flatnonzero(bad)[0])
    if sparse.issparse(x):
        row, column = int(np.searchsorted(x.indptr, at, side="right") - 1), int(x.indices[at])
    else:
        row, column = divmod(at, x.shape[1])
    return f"spot '{spots[row]}', feature '{features[column]}', {stored_values(x)[at]:g}"


def check_finite(x: Matrix, where: str, spots: list[str], features: list[str]) -> None:
    """Refuse NaN and infinite values."""
    bad = ~np.isfinite(stored_values(x))
    if bad.any():
        raise DataError(
            f"{where}: {int(bad.sum()):,} values are NaN or infinite (first: {first_entry(x, bad, spots, features)}). "
            "Replace or drop them before running."
        )
