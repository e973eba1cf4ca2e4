"""Counts: Poisson and negative binomial."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from soscope.checks import check_counts
from soscope.likelihoods.base import Likelihood, Params
from soscope.matrices import Matrix
from soscope.nn.parent import Parent
from soscope.nn.views import CountView, ProfileView
from soscope.posteriors import NegativeBinomialPosterior, Posterior, SharedCountPosterior

SHIFT = 4
SPARSE = 0.25
"""Share of counts above zero up to which only these are looked at."""
LEAST_PHI = 1e-3
"""Where a Dirichlet-multinomial is a multinomial in all but name."""


class CountLikelihood(Likelihood):
    """Counts with mean ``exp(base + raw)``: adding subspots adds their means."""

    n_parameters = 1
    sparse_result = True

    def make_view(self) -> ProfileView:
        """Return normalised log counts and the log library size."""
        return CountView(self.n_features)

    def fit(self, x: Tensor, n_per_spot: float) -> None:
        """Start from the mean count of every feature, divided by the number of subspots."""
        self.base.copy_((x.mean(0).clamp(min=1e-3) / n_per_spot).log())
        self._fit_feature_sd(x)

    def check(self, x: Matrix, where: str, spots: list[str], features: list[str]) -> None:
        """Refuse values that are not finite non-negative integers."""
        check_counts(x, where, spots, features)

    def stabilise(self, x: Tensor, n_per_spot: Tensor) -> Tensor:
        """Return the square root of the equal part."""
        return (x / n_per_spot).sqrt()

    def location_of(self, level: Tensor) -> Tensor:
        """Return the log of the squared level, against the mean count; a level below 3 % of the mean's counts as that."""
        return 2 * level.clamp(min=0.03 * (0.5 * self.base).exp()).log() - self.base

    def _mu(self, raw: Tensor) -> Tensor:
        return (self.base + raw[..., 0].clamp(-8, 8)).exp()

    def mean(self, p: Params) -> Tensor:
        """Return the expected count."""
        return p["mu"]

    def widened(self, p: Params, factor: float) -> Params:
        """Return ``phi`` such that ``1 + phi`` is ``factor`` times as large, but never less than `LEAST_PHI`."""
        phi = p.get("phi", torch.zeros(self.n_features))
        return {"mu": p["mu"], "phi": (factor * (1 + phi) - 1).clamp(min=LEAST_PHI)}

    def prior(self, p: Params) -> Posterior:
        """Return NB marginals; Poisson ones without ``phi``."""
        return NegativeBinomialPosterior(p["mu"], p.get("phi", 0.0))

    def given_total(self, x: Tensor, p: Params, parent: Parent) -> Posterior:
        """Return the Dirichlet-multinomial split of the observed counts; multinomial without ``phi``."""
        overdispersed = "phi" in p
        concentration = p["mu"] / p["phi"] if overdispersed else p["mu"]
        return SharedCountPosterior(parent.gather(x), concentration, parent, overdispersed, self.prior(p))


class Poisson(CountLikelihood, name="poisson"):
    """Poisson counts; sums are Poisson, and a given total divides by a multinomial."""

    def parameters_of(self, raw: Tensor) -> Params:
        """Return ``mu``, the expected count."""
        return {"mu": self._mu(raw)}

    def aggregate(self, p: Params, parent: Parent) -> Params:
        """Add the means up."""
        return {"mu": parent.sum(p["mu"])}

    def log_prob(self, x: Tensor, p: Params) -> Tensor:
        """Return ``x log mu - mu - log x!``."""
        return torch.xlogy(x, p["mu"]) - p["mu"] - torch.lgamma(x + 1)


class NegativeBinomial(CountLikelihood, name="nb"):
    """NB counts with variance ``mu (1 + phi)``, ``phi`` one number per feature.

    Subspots share the success probability ``1 / (1 + phi)``, so their sum is NB with the total counts ``mu / phi`` added
    up, and a given total divides by a Dirichlet-multinomial with parameters ``mu / phi``.
    """

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features)
        self.log_phi = nn.Parameter(torch.zeros(n_features))

    def fit(self, x: Tensor, n_per_spot: float) -> None:
        """Start from a tenth of the excess variance between spots, most of which the latent state will explain."""
        super().fit(x, n_per_spot)
        mean = x.mean(0).clamp(min=1e-3)
        excess = (x.var(0) / mean - 1) if x.shape[0] > 1 else torch.ones_like(mean)
        with torch.no_grad():
            self.log_phi.copy_((0.1 * excess).clamp(0.05, 10).log())

    def parameters_of(self, raw: Tensor) -> Params:
        """Return ``mu`` and ``phi``."""
        return {"mu": self._mu(raw), "phi": self.log_phi.clamp(-7, 7).exp()}

    def aggregate(self, p: Params, parent: Parent) -> Params:
        """Add the means up; ``phi`` stays."""
        return {"mu": parent.sum(p["mu"]), "phi": p["phi"]}

    def log_prob(self, x: Tensor, p: Params) -> Tensor:
        """Return the NB log probability with total count ``mu / phi``."""
        phi = p["phi"]
        total_count = (p["mu"] / phi).clamp(min=1e-10)
        return _log_choose(total_count, x) + x * (phi.log() - phi.log1p()) - total_count * phi.log1p()


def _log_choose(r: Tensor, x: Tensor) -> Tensor:
    """Return ``log Gamma(r + x) - log Gamma(r) - log x!``: zero where ``x`` is, so of sparse counts the others suffice."""
    if r.dtype == torch.float64:
        return torch.lgamma(r + x) - torch.lgamma(r) - torch.lgamma(x + 1)
    some = x.reshape(-1).nonzero()[:, 0]
    if len(some) > SPARSE * x.numel():
        return _LogRising.apply(r, x) - torch.lgamma(x + 1)
    return _Some.apply(r, some, x.reshape(-1)[some])


class _Some(torch.autograd.Function):
    """The same at ``some`` entries, zero at the others."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, some: Tensor, x: Tensor) -> Tensor:
        chosen = r.reshape(-1)[some]
        ctx.save_for_backward(chosen, some, x)
        found = log_rising(chosen, x) - torch.lgamma(x + 1)
        return torch.zeros_like(r).reshape(-1).index_copy_(0, some, found).reshape(r.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        r, some, x = ctx.saved_tensors
        gradient = gradients[0].reshape(-1)
        slope = log_rising_slope(r, x) * gradient[some]
        return torch.zeros_like(gradient).index_copy_(0, some, slope).reshape(gradients[0].shape), None, None


class _LogRising(torch.autograd.Function):
    """``log Gamma(r + x) - log Gamma(r)`` everywhere."""

    @staticmethod
    def forward(ctx: Any, r: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(r, x)
        return log_rising(r, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return log_rising_slope(*ctx.saved_tensors) * gradients[0], None


def log_rising(r: Tensor, x: Tensor) -> Tensor:
    """Return ``log Gamma(r + x) - log Gamma(r)`` in single precision.

    The difference of two large values would cancel, and take three times as long. This is Stirling's series at ``r + 4``, from
    which the recurrence ``Gamma(r + 1) = r Gamma(r)`` leads back; absolute errors are those of single precision (the first term
    left out is below 4e-8).
    """
    a, b = r + SHIFT, r + x + SHIFT
    steps = (r / (r + x)) * ((r + 1) / (r + x + 1)) * ((r + 2) / (r + x + 2)) * ((r + 3) / (r + x + 3))
    return (b - 0.5) * torch.log1p(x / a) + x * (a.log() - 1) + _tail(b) - _tail(a) + steps.log()


def log_rising_slope(r: Tensor, x: Tensor) -> Tensor:
    """Return the derivative of `log_rising` by ``r``: the difference of digammas, likewise."""
    a, b = r + SHIFT, r + x + SHIFT
    slope = torch.log1p(x / a) + _tail_slope(b) - _tail_slope(a)
    for k in range(SHIFT):
        slope += x / ((r + k) * (r + x + k))
    return slope


def _tail(a: Tensor) -> Tensor:
    """Return what Stirling's series adds to ``(a - 1/2) log a - a + log(2 pi) / 2``."""
    square = 1 / (a * a)
    return (1 / 12 - square * (1 / 360 - square / 1260)) / a


def _tail_slope(a: Tensor) -> Tensor:
    """Return what it adds to ``log a`` for the digamma function."""
    square = 1 / (a * a)
    return -0.5 / a - square * (1 / 12 - square * (1 / 120 - square / 252))
