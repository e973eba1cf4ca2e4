"""How wide intervals have to be to hold, found where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from soscope.benchmark.cases import Case
from soscope.benchmark.metrics import coverage_name, coverages
from soscope.enhance import Divider

TARGET = 0.9
LIMITS = 0.25, 16.0
"""Least and largest widening that is looked for."""
MAX_FEATURES = 64
STEPS = 12


@torch.no_grad()
def coverage_by_factor(divider: Divider, case: Case) -> Callable[[float], float]:
    """Return the mean coverage of 90 % intervals as a function of how many times as large subspots' variances are.

    Parameters
    ----------
    divider
        The trained model with the section, which is decoded once.
    case
        The same section with its true counts; at most `MAX_FEATURES` of its features are looked at, evenly spaced.
    """
    likelihood = divider.model.likelihood(case.modality)
    n = likelihood.n_features
    chosen = np.unique(np.linspace(0, n - 1, min(n, MAX_FEATURES)).round().astype(int))
    tile, z, _ = divider.tile(np.arange(case.section.n_subspots))
    p = {k: v[..., chosen] for k, v in divider.model.decode(tile, z)[case.modality].items()}
    likelihood = likelihood.part(chosen)
    x, truth, observed = tile.core_profiles(case.modality)[:, chosen], case.truth[:, chosen], case.observed[:, chosen]

    def coverage(factor: float) -> float:
        given = likelihood.given_total(x, likelihood.widened(p, factor), tile.parent)
        rng = np.random.default_rng(case.seed)
        found = coverages(*given.below_and_at(truth), observed, case.section.parent, rng)
        return float(np.nanmean(found[coverage_name(90)]))

    return coverage


def find_widening(coverage: Callable[[float], float]) -> float:
    """Return the factor at which a growing ``coverage`` reaches 90 %, by bisection; one of `LIMITS` where it does not."""
    low, high = (math.log(limit) for limit in LIMITS)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if coverage(math.exp(middle)) < TARGET else (low, middle)
    return math.exp((low + high) / 2)
