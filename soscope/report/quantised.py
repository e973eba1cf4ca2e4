"""Values of many features in few bytes, for pages that carry them all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVELS = 65_535
BYTES_IN_PAGE = 2 * 4 / 3
"""Of a value, at most: 16 bits, written as base64 (bokeh packs them before, the better the more zeros there are)."""


@dataclass(frozen=True)
class Quantised:
    """Values as 16-bit steps between the least and the greatest of their feature.

    Attributes
    ----------
    codes
        Number of steps above ``low``, ``(n_features, n_rows)`` of uint16.
    low, step
        Least value and size of a step, ``(n_features,)``.
    """

    codes: np.ndarray
    low: np.ndarray
    step: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Quantised:
        """Round values ``(n_rows, n_features)``; none is moved by more than half a step."""
        low, high = values.min(0), values.max(0)
        step = (high - low) / LEVELS
        codes = np.rint((values - low) / np.where(step > 0, step, 1.0))
        return cls(np.ascontiguousarray(codes.T.astype(np.uint16)), low, step)

    def of_feature(self, i: int) -> np.ndarray:
        """Return the values of one feature, ``(n_rows,)`` of float32."""
        return (self.low[i] + self.step[i] * self.codes[i]).astype(np.float32)


def features_that_fit(first: list[str], all_features: list[str], rows: int, limit_mb: float) -> list[str]:
    """Return the features whose values fit into a page: ``first``, then the others in their order; at least one.

    Parameters
    ----------
    first, all_features
        Names; the former are among the latter.
    rows
        Values per feature.
    limit_mb
        Megabytes (10^6 bytes) their values may take in the page.
    """
    before = set(first)
    ordered = [*first, *(name for name in all_features if name not in before)]
    return ordered[: max(1, int(limit_mb * 1e6 / (rows * BYTES_IN_PAGE)))]
