"""Enhanced profiles as a few principal components, read block of subspots by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from soscope.cluster.base import NoClustersError, Source, drawn, principal_axes
from soscope.matrices import to_dense
from soscope.rows import BLOCK, IN_MEMORY

Scale = Callable[[np.ndarray], np.ndarray]


def profile_scores(source: Source, n_components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return principal components of enhanced profiles, and which subspots have any.

    Counts are divided by their total, brought to the median total and log-transformed; real values are standardised. Every
    modality then has the same total variance. Axes are learned from as many subspots as fit memory.

    Returns
    -------
    Scores ``(n_subspots, n_kept)``, and ``(n_subspots,)`` of bool: a subspot without a count has no composition.
    """
    tables, n = source.profiles, len(source.parent)
    width = sum(t.values.shape[1] for t in tables)
    rng = np.random.default_rng(seed)
    sampled = drawn(np.arange(n), max(IN_MEMORY // max(width, 1), n_components), rng)
    sample = [_rows(t.values, sampled, width) for t in tables]
    counted = _counted(sample, tables)
    if not counted.any():
        raise NoClustersError("enhanced profiles hold no counts")
    scales = [_even(_SCALES[t.counted](x[counted]), x[counted]) for t, x in zip(tables, sample, strict=True)]
    learned = _side_by_side([s(x[counted]) for s, x in zip(scales, sample, strict=True)])
    axes = principal_axes(learned, n_components, seed, "enhanced profiles of subspots")
    scores = np.zeros((n, len(axes.components_)), dtype=np.float32)
    known = np.zeros(n, dtype=bool)
    for rows in source.progress(
        list(_slices(n, width)), "cluster: read enhanced profiles", len(list(_slices(n, width)))
    ):
        block = [to_dense(t.values[rows], np.float64) for t in tables]
        scores[rows] = axes.transform(_side_by_side([s(x) for s, x in zip(scales, block, strict=True)]))
        known[rows] = _counted(block, tables)
    return scores, known


def _slices(n_rows: int, width: int) -> Iterator[slice]:
    step = max(BLOCK // max(width, 1), 1)
    return (slice(i, i + step) for i in range(0, n_rows, step))


def _rows(values: Any, chosen: np.ndarray, width: int) -> np.ndarray:
    """Read sorted rows of what may lie on disk, going through it once."""
    parts = []
    for rows in _slices(values.shape[0], width):
        low, high = np.searchsorted(chosen, [rows.start, rows.stop])
        parts.append(to_dense(values[rows], np.float64)[chosen[low:high] - rows.start])
    return np.concatenate(parts)


def _counted(blocks: list[np.ndarray], tables: Any) -> np.ndarray:
    """Tell which rows have a total in every table of counts."""
    totals = [x.sum(1) > 0 for x, t in zip(blocks, tables, strict=True) if t.counted]
    return np.all(totals, axis=0) if totals else np.ones(len(blocks[0]), dtype=bool)


def _log_normalised(sample: np.ndarray) -> Scale:
    target = float(np.median(sample.sum(1)))

    def scale(x: np.ndarray) -> np.ndarray:
        total = x.sum(1, keepdims=True)
        return np.log1p(x * (target / np.where(total > 0, total, 1)))

    return scale


def _standardised(sample: np.ndarray) -> Scale:
    centre, spread = sample.mean(0), sample.std(0)
    return lambda x: (x - centre) / np.where(spread > 0, spread, 1)


_SCALES: dict[bool, Callable[[np.ndarray], Scale]] = {True: _log_normalised, False: _standardised}
"""How counts, and how real values are made comparable."""


def _even(scale: Scale, sample: np.ndarray) -> Scale:
    """Divide by the root of the total variance."""
    total = float(scale(sample).var(0).sum()) or 1.0
    return lambda x: scale(x) / np.sqrt(total)


def _side_by_side(tables: list[np.ndarray]) -> np.ndarray:
    return tables[0] if len(tables) == 1 else np.concatenate(tables, axis=1)
