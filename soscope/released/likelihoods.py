"""How the published program reads its decoder: likelihoods with other parameters, of which the mean alone is fitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from soscope.errors import ConfigError
from soscope.likelihoods import Gaussian, Likelihood, NegativeBinomial, Params, Poisson
from soscope.nn.parent import Parent
from soscope.posteriors import Posterior

LOGIT_LIMIT = 15.0
"""Logits beyond are cut (not in the program), so that ``exp`` and its squared gradients stay finite in single precision."""


class ReleasedLikelihood(Likelihood):
    """A likelihood read from two unconstrained numbers per feature, the first and the second half of the output."""

    n_parameters: ClassVar[int] = 2

    def drawn(self, p: Params, normal: Callable[[int], Tensor]) -> Params:
        """Return parameters whose ``mu`` is what enters the squared error; ``normal(width)`` draws standard normals."""
        return p

    def bound(self, low: float, high: float) -> None:
        """Keep the standard deviation within bounds, where there is one."""

    def given_total(self, x: Tensor, p: Params, parent: Parent) -> Posterior:
        """Return the decoder alone: the published program does not look at the spot again."""
        return self.prior(p)


class ReleasedNegativeBinomial(ReleasedLikelihood, NegativeBinomial):
    """First half: logits. Second half, through softplus: total count. The mean is ``count * exp(logits)``."""

    def __init__(self, n_features: int) -> None:
        super(NegativeBinomial, self).__init__(n_features)  # phi comes from the decoder, not from a parameter

    def parameters_of(self, raw: Tensor) -> Params:
        """Return ``mu`` and ``phi = exp(logits)``, one number per subspot and feature."""
        phi = raw[..., 0].clamp(-LOGIT_LIMIT, LOGIT_LIMIT).exp()
        return {"mu": (softplus(raw[..., 1]) + 1e-7) * phi, "phi": phi}

    def aggregate(self, p: Params, parent: Parent) -> Params:
        """Return the NB with the sum's mean and variance; with unequal ``phi`` the sum itself is not NB."""
        mu = parent.sum(p["mu"])
        return {"mu": mu, "phi": parent.sum(p["mu"] * p["phi"]) / mu.clamp(min=1e-30)}


class ReleasedPoisson(ReleasedLikelihood, Poisson):
    """Second half, through softplus: the rate. The first half is unused."""

    def parameters_of(self, raw: Tensor) -> Params:
        """Return ``mu``, the rate."""
        return {"mu": softplus(raw[..., 1]) + 1e-7}


class ReleasedGaussian(ReleasedLikelihood, Gaussian):
    """First half: mean. Second half, through softplus and within bounds: standard deviation."""

    bounds: Tensor

    def __init__(self, n_features: int, average: bool = True) -> None:
        super().__init__(n_features, average)
        self.register_buffer("bounds", torch.tensor([1e-7, float("inf")]))

    def bound(self, low: float, high: float) -> None:
        """Keep the standard deviation between ``low`` and ``high``."""
        self.bounds.copy_(torch.tensor([low, high]))

    def parameters_of(self, raw: Tensor) -> Params:
        """Return ``mu`` and ``s``."""
        s = (softplus(raw[..., 1]) + 1e-7).clamp(self.bounds[0], self.bounds[1])
        return {"mu": raw[..., 0], "s": s}

    def drawn(self, p: Params, normal: Callable[[int], Tensor]) -> Params:
        """Return a sample in place of the mean."""
        return p | {"mu": p["mu"] + p["s"] * normal(p["mu"].shape[1])}


RELEASED: dict[str, type[ReleasedLikelihood]] = {
    "nb": ReleasedNegativeBinomial,
    "poisson": ReleasedPoisson,
    "gaussian": ReleasedGaussian,
}


def make_released(name: str, n_features: int, **options: object) -> ReleasedLikelihood:
    """Build the published form of a likelihood; raises `ConfigError` where there is none."""
    if name not in RELEASED:
        raise ConfigError(f"objective=released has no likelihood '{name}'. Choose from: {', '.join(sorted(RELEASED))}.")
    return RELEASED[name](n_features, **options)
