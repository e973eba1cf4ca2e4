"""What a method has to beat. Every baseline returns a `Split`, like the model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from soscope.data.section import Section
from soscope.likelihoods import Likelihood
from soscope.nn.parent import Parent
from soscope.split import Split

Baseline = Callable[[Section, str, Likelihood], Split]


def copy_down(section: Section, modality: str, likelihood: Likelihood) -> Split:
    """Divide every spot equally over its subspots (averages are copied)."""
    parent = Parent(torch.from_numpy(section.parent), section.n_spots)
    x = torch.from_numpy(section.modalities[modality].dense(np.arange(section.n_spots))).double()
    return Split(mean=likelihood.copy_down(x, parent).numpy())


BASELINES: dict[str, Baseline] = {"copy-down": copy_down}
