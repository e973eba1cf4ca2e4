"""Real values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from soscope.checks import check_finite
from soscope.likelihoods.base import Likelihood, Params
from soscope.matrices import Matrix
from soscope.nn.parent import Parent
from soscope.nn.views import ProfileView, RealView
from soscope.posteriors import NormalPosterior, Posterior


class Gaussian(Likelihood, name="gaussian"):
    """Real values; a spot is the sum of its subspots, or with ``average=True`` (components, normalised values) their mean."""

    n_parameters = 2
    sparse_result = False
    spread: Tensor

    def __init__(self, n_features: int, average: bool = True) -> None:
        super().__init__(n_features)
        self.average, self.adds_up = average, not average
        self.register_buffer("spread", torch.ones(n_features))

    def make_view(self) -> ProfileView:
        """Return the values themselves."""
        return RealView(self.n_features)

    def fit(self, x: Tensor, n_per_spot: float) -> None:
        """Start from the mean of every feature and scale by its deviation over spots."""
        self._fit_feature_sd(x)
        part = 1.0 if self.average else n_per_spot
        self.base.copy_(x.mean(0) / part)
        self.spread.copy_(self.feature_sd / part)

    def check(self, x: Matrix, where: str, spots: list[str], features: list[str]) -> None:
        """Refuse values that are not finite."""
        check_finite(x, where, spots, features)

    def parameters_of(self, raw: Tensor) -> Params:
        """Return ``mu`` and ``s``, the standard deviation of a subspot."""
        return {"mu": self.base + self.spread * raw[..., 0], "s": self.spread * (softplus(raw[..., 1]) + 0.01)}

    def stabilise(self, x: Tensor, n_per_spot: Tensor) -> Tensor:
        """Return the values, or a sum's equal part."""
        return x if self.average else x / n_per_spot

    def location_of(self, level: Tensor) -> Tensor:
        """Return the level in units of the features' spread."""
        return (level - self.base) / self.spread

    def _n(self, parent: Parent, like: Tensor) -> Tensor:
        """Return what a spot's sum is divided by, ``(n_spots, 1)``."""
        count = parent.n_per_spot.clamp(min=1).to(like.dtype)[:, None]
        return count if self.average else torch.ones_like(count)

    def aggregate(self, p: Params, parent: Parent) -> Params:
        """Add means and variances up; divide by K and its square for averages."""
        n = self._n(parent, p["mu"])
        return {"mu": parent.sum(p["mu"]) / n, "s": (parent.sum(p["s"].square()).clamp(min=1e-20)).sqrt() / n}

    def log_prob(self, x: Tensor, p: Params) -> Tensor:
        """Return the normal log density."""
        z = (x - p["mu"]) / p["s"]
        return -0.5 * z.square() - p["s"].log() - 0.5 * float(np.log(2 * np.pi))

    def mean(self, p: Params) -> Tensor:
        """Return the expected value."""
        return p["mu"]

    def widened(self, p: Params, factor: float) -> Params:
        """Return ``s`` times the root of ``factor``."""
        return {"mu": p["mu"], "s": p["s"] * factor**0.5}

    def prior(self, p: Params) -> Posterior:
        """Return normal marginals."""
        return NormalPosterior(p["mu"], p["s"].square())

    def given_total(self, x: Tensor, p: Params, parent: Parent) -> Posterior:
        """Spread each spot's surplus over its subspots in proportion to their variances."""
        mu, variance, x = p["mu"].double(), p["s"].double().square(), x.double()
        share = variance / parent.gather(parent.sum(variance)).clamp(min=1e-300)
        share = torch.where(parent.assigned[:, None], share, torch.zeros_like(share))
        surplus = parent.gather(x * self._n(parent, x) - parent.sum(mu))
        return NormalPosterior(mu + share * surplus, variance * (1 - share), variance, parent)

    def copy_down(self, x: Tensor, parent: Parent) -> Tensor:
        """Copy averages as they are, divide sums by K."""
        return parent.gather(x) if self.average else super().copy_down(x, parent)
