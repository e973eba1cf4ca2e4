"""One table of a section with its truth: what every method is scored on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch

from soscope.benchmark.ceilings import ceilings
from soscope.benchmark.metrics import coverages_of, score
from soscope.data.section import Section
from soscope.likelihoods import Likelihood
from soscope.nn.parent import Parent
from soscope.split import Split, conservation_errors

SAME_UNITS = 0.01
"""Largest mean difference between observed spots and what the truth adds up to, over the spots' mean size."""


@dataclass
class Case:
    """One modality of a section and the true profiles of its subspots.

    Attributes
    ----------
    section, modality, likelihood
        What methods divide, and what kind of values it holds.
    truth
        ``(n_subspots, n_features)``, rows and columns as in the section.
    seed
        Of the randomised PIT and the halvings.
    """

    section: Section
    modality: str
    likelihood: Likelihood
    truth: np.ndarray
    seed: int = 0

    @property
    def features(self) -> list[str]:
        """Names of the columns."""
        return self.section.modalities[self.modality].features

    @cached_property
    def observed(self) -> np.ndarray:
        """Profiles of spots, ``(n_spots, n_features)``."""
        return self.section.modalities[self.modality].dense(np.arange(self.section.n_spots)).astype(np.float64)

    @cached_property
    def truth_adds_up(self) -> bool:
        """Whether the truth is in the units of the section, so that errors and totals mean something."""
        parent = self._parent
        true = torch.as_tensor(self.truth)
        sums = parent.sum(true) if self.likelihood.adds_up else parent.mean(true)
        has = parent.n_per_spot.numpy() > 0
        difference = np.abs(sums.numpy() - self.observed)[has].mean()
        return bool(difference <= SAME_UNITS * np.abs(self.observed)[has].mean())

    def score(self, split: Split) -> pd.DataFrame:
        """Score a split, one row per feature; what makes no sense for these values is NaN.

        Composition needs counts; the error, and the coverage of a stated distribution, a truth in the section's units.
        """
        table = self._frame(score(split.mean, self.truth, self.section.parent))
        average = not self.likelihood.adds_up
        table["conservation_error"] = conservation_errors(split, self.observed, self._parent, average)
        table = table.assign(**self._coverages(split))
        if not self.likelihood.sparse_result:
            table["within_spot_r_composition"] = np.nan
        if not self.truth_adds_up:
            table["nmse"] = np.nan
        return table

    def ceilings(self) -> dict[str, pd.DataFrame]:
        """Return the noise ceilings of a truth of counts by name, one row per feature; none for other truths."""
        if not self.counted or (self.truth % 1 != 0).any() or (self.truth < 0).any():
            return {}
        found = ceilings(self.truth, self.section.parent, self.seed)
        return {f"ceiling_{name.replace(' ', '_')}": self._frame(values) for name, values in found.items()}

    @property
    def counted(self) -> bool:
        """Whether values and truth are counts in the same units, so that a coverage means something."""
        return self.likelihood.sparse_result and self.truth_adds_up

    @cached_property
    def _parent(self) -> Parent:
        return Parent(torch.as_tensor(self.section.parent), self.section.n_spots)

    def _coverages(self, split: Split) -> dict[str, np.ndarray]:
        stated = split if self.counted else Split(mean=split.mean)
        rng = np.random.default_rng(self.seed)
        return coverages_of(stated, self.truth, self.observed, self.section.parent, rng)

    def _frame(self, columns: dict[str, np.ndarray]) -> pd.DataFrame:
        return pd.DataFrame({"modality": self.modality, "feature": self.features, **columns})
