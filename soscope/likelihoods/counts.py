"""Counts: Poisson and negative binomial."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from soscope.checks import check_counts
from soscope.likelihoods.base import Likelihood, Params
from soscope.matrices import Matrix
from soscope.nn.parent import Parent
from soscope.nn.views import CountView, ProfileView
from soscope.posteriors import NegativeBinomialPosterior, Posterior, SharedCountPosterior

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
        log_choose = _log_rising(total_count, x) - torch.lgamma(x + 1)
        return log_choose + x * (phi.log() - phi.log1p()) - total_count * phi.log1p()


def _log_rising(r: Tensor, x: Tensor) -> Tensor:
    """Return ``log Gamma(r + x) - log Gamma(r)``, by Stirling's series for large ``r`` where single precision cancels."""
    small = r.clamp(max=32.0)
    direct = torch.lgamma(small + x) - torch.lgamma(small)
    large = r.clamp(min=32.0)
    series = (1 / (large + x) - 1 / large) / 12
    stirling = (large + x - 0.5) * torch.log1p(x / large) + x * large.log() - x + series
    return torch.where(r > 32.0, stirling, direct)
