"""Matrices that may be dense or sparse."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

Matrix: TypeAlias = "np.ndarray | sparse.csr_matrix"


def to_dense(x: Any, dtype: type | None = None) -> np.ndarray:
    """Return a dense array."""
    return np.asarray(x.toarray() if sparse.issparse(x) else x, dtype=dtype)
