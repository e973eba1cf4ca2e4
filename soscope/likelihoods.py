"""How a profile arises from decoder output: the one extension point for a new kind of omics.

A new kind is one subclass here (or in a module of yours that is imported), one YAML in ``conf/model`` and one row in
``docs/likelihoods.md``. Nothing else asks which likelihood it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from soscope.checks import check_counts, check_finite
from soscope.errors import ConfigError
from soscope.matrices import Matrix, to_dense
from soscope.nn.parent import Parent
from soscope.nn.views import CountView, ProfileView, RealView
from soscope.posteriors import NegativeBinomialPosterior, NormalPosterior, Posterior, SharedCountPosterior

Params = dict[str, Tensor]

LEAST_PHI = 1e-3
"""Where a Dirichlet-multinomial is a multinomial in all but name."""

LIKELIHOODS: dict[str, type[Likelihood]] = {}


def make_likelihood(name: str, n_features: int, **options: object) -> Likelihood:
    """Build a registered likelihood; an unknown name or option raises `ConfigError` with the choices."""
    if name not in LIKELIHOODS:
        raise ConfigError(f"likelihood '{name}' is unknown. Choose from: {', '.join(sorted(LIKELIHOODS))}.")
    try:
        return LIKELIHOODS[name](n_features, **options)
    except TypeError as error:
        raise ConfigError(f"likelihood '{name}' does not take these options: {error}.") from error


class Likelihood(nn.Module, ABC):
    """How a profile arises from decoder output. A new omics type overrides these, nothing else changes.

    Subclasses register by ``class Mine(Likelihood, name="mine")``.
    """

    n_parameters: ClassVar[int]
    """Decoder outputs per feature."""
    sparse_result: ClassVar[bool]
    """Whether the conditional posterior is zero where the observation is, so that results are stored sparse."""

    base: Tensor
    feature_sd: Tensor

    def __init_subclass__(cls, name: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            LIKELIHOODS[name] = cls

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.adds_up = True  # a spot is the sum of its subspots, not their average
        self.register_buffer("base", torch.zeros(n_features))
        self.register_buffer("feature_sd", torch.ones(n_features))

    @abstractmethod
    def make_view(self) -> ProfileView:
        """Return what the encoder sees of an observation."""

    @abstractmethod
    def fit(self, x: Tensor, n_per_spot: float) -> None:
        """Set data-dependent starting values from observed spots ``(n_spots, n_features)``.

        ``n_per_spot`` is the mean number of subspots of a spot (1 when spots are modelled themselves).
        """

    @abstractmethod
    def check(self, x: Matrix, where: str, spots: list[str], features: list[str]) -> None:
        """Raise `DataError` that names spot and feature for values outside the support."""

    @abstractmethod
    def parameters_of(self, raw: Tensor) -> Params:
        """Turn unconstrained ``(..., n_features, n_parameters)`` into valid parameters of subspots."""

    @abstractmethod
    def aggregate(self, p: Params, parent: Parent) -> Params:
        """Return the parameters of the spots' profiles from those of their subspots, exactly."""

    @abstractmethod
    def log_prob(self, x: Tensor, p: Params) -> Tensor:
        """Return the log probability of each entry, the shape of ``x``."""

    @abstractmethod
    def mean(self, p: Params) -> Tensor:
        """Return the expected profile."""

    @abstractmethod
    def prior(self, p: Params) -> Posterior:
        """Return the distribution of subspots when their spot is not looked at."""

    @abstractmethod
    def given_total(self, x: Tensor, p: Params, parent: Parent) -> Posterior:
        """Return the distribution of subspots given the observed profiles ``x`` of spots; the prior under no spot."""

    @abstractmethod
    def widened(self, p: Params, factor: float) -> Params:
        """Return the parameters of subspots with the same means and variances ``factor`` times as large."""

    @abstractmethod
    def stabilise(self, x: Tensor, n_per_spot: Tensor) -> Tensor:
        """Return the level of a subspot, its equal part of ``x`` ``(n_spots, n_features)``, with noise of even size."""

    @abstractmethod
    def location_of(self, level: Tensor) -> Tensor:
        """Return the first unconstrained parameter of subspots whose stabilised level is ``level``, the same shape."""

    def copy_down(self, x: Tensor, parent: Parent) -> Tensor:
        """Give every subspot its equal part of the spot, ``x / K``; zero under no spot."""
        return parent.gather(x / parent.n_per_spot.clamp(min=1).to(x.dtype)[:, None])

    def profile_for_similarity(self, x: Matrix, library_size: np.ndarray) -> np.ndarray:
        """Return the standardised profiles, as the encoder sees them, that weigh the spot graph, ``(n_spots, width)``."""
        view = self.make_view()
        dense = torch.as_tensor(to_dense(x, np.float32))
        size = torch.as_tensor(library_size, dtype=torch.float32)
        view.fit(dense, size)
        return view(dense, size).numpy()

    def _fit_feature_sd(self, x: Tensor) -> None:
        sd = x.std(0) if x.shape[0] > 1 else torch.ones_like(self.feature_sd)
        self.feature_sd.copy_(torch.where(sd > 0, sd, torch.ones_like(sd)))


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


def _log_rising(r: Tensor, x: Tensor) -> Tensor:
    """Return ``log Gamma(r + x) - log Gamma(r)``, by Stirling's series for large ``r`` where single precision cancels."""
    small = r.clamp(max=32.0)
    direct = torch.lgamma(small + x) - torch.lgamma(small)
    large = r.clamp(min=32.0)
    series = (1 / (large + x) - 1 / large) / 12
    stirling = (large + x - 0.5) * torch.log1p(x / large) + x * large.log() - x + series
    return torch.where(r > 32.0, stirling, direct)
