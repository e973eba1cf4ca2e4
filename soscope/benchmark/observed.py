"""A section as the baselines look at it: profiles per subspot, averages over spots, totals to restore."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from soscope.data.section import Section
from soscope.likelihoods import Likelihood
from soscope.matrices import numbered
from soscope.split import Split

SHARE_FLOOR = 1e-6
"""Least share of its spot a subspot has where logarithms of shares are taken."""


class Observed:
    """One modality of a section.

    Attributes
    ----------
    x
        Observed profiles of spots, ``(n_spots, n_features)`` in float64.
    level
        The same per subspot: ``x / K`` for counts and sums, ``x`` itself for averages.
    used
        Spots that have subspots.
    average
        Averages subspots over their spot, ``(n_used, n_subspots)``, sparse.
    spot
        Row of ``used`` each subspot lies in, -1 under no spot.
    shares
        Whether spots divide by shares (counts), instead of by adding what is left over (real values).
    """

    def __init__(self, section: Section, modality: str, likelihood: Likelihood) -> None:
        self.section, self.profiles = section, section.modalities[modality]
        self.x = self.profiles.dense(np.arange(section.n_spots)).astype(np.float64)
        inside = np.flatnonzero(section.parent >= 0)
        n_per_spot = np.bincount(section.parent[inside], minlength=section.n_spots)
        self.used = np.flatnonzero(n_per_spot)
        self.n_per_spot = n_per_spot[self.used]
        self.spot = numbered(self.used, section.n_spots)[section.parent]
        weight = 1 / self.n_per_spot[self.spot[inside]]
        self.average = sparse.csr_matrix((weight, (self.spot[inside], inside)), (len(self.used), section.n_subspots))
        self.shares = likelihood.sparse_result
        self.level = self.x / np.maximum(n_per_spot, 1)[:, None] if likelihood.adds_up else self.x

    def to_subspots(self, values: np.ndarray, outside: float = 0.0) -> np.ndarray:
        """Copy rows of used spots down to their subspots; ``outside`` under no spot."""
        return np.where(self.spot[:, None] >= 0, values[self.spot], outside)

    def shares_of(self, values: np.ndarray) -> np.ndarray:
        """Return each subspot's share of its spot, ``(n_subspots, n_features)``, from values that may be negative.

        Negative values count as zero; a spot without any positive value is divided equally; no share under no spot.
        """
        values = np.clip(values, 0, None)
        mean = self.average @ values
        parts = np.where(self.to_subspots(mean) > 0, values, 1.0)
        share = parts / self.to_subspots((self.average @ parts) * self.n_per_spot[:, None], outside=1.0)
        return np.where(self.spot[:, None] >= 0, share, 0.0)

    def with_totals(self, values: np.ndarray) -> Split:
        """Make subspots add up to their spot: by shares for counts, by spreading the surplus equally for real values."""
        if self.shares:
            return Split(mean=self.shares_of(values) * self.to_subspots(self.x[self.used]))
        surplus = self.level[self.used] - self.average @ values
        return Split(mean=np.where(self.spot[:, None] >= 0, values, 0.0) + self.to_subspots(surplus))

    def stabilised(self) -> np.ndarray:
        """Return the level of used spots with noise of even size: square roots of counts, real values as they are."""
        return np.sqrt(self.level[self.used]) if self.shares else self.level[self.used]

    def unstabilised(self, values: np.ndarray) -> np.ndarray:
        """Undo `stabilised`; negative roots become zero."""
        return np.clip(values, 0, None) ** 2 if self.shares else values
