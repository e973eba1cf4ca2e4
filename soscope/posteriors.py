"""Marginal distributions of one subspot's value: what `enhance` reports means, deviations and quantiles of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from scipy import stats
from scipy.special import betaln
from torch import Tensor

from soscope.matrices import rank_within
from soscope.nn.parent import Parent


class Posterior(ABC):
    """Distribution of every subspot's value, all tensors ``(n_subspots, n_features)`` in float64."""

    discrete: ClassVar[bool]
    """Whether values are integers."""

    @abstractmethod
    def mean(self) -> Tensor:
        """Return the expectation."""

    @abstractmethod
    def sd(self) -> Tensor:
        """Return the standard deviation."""

    @abstractmethod
    def quantile(self, level: float) -> Tensor:
        """Return the smallest value whose distribution function reaches ``level``, entry by entry."""

    @abstractmethod
    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability of at most ``value``, entry by entry."""

    def cdf_below(self, value: Tensor) -> Tensor:
        """Return the probability of less than ``value``."""
        return self.cdf(torch.ceil(value) - 1) if self.discrete else self.cdf(value)

    def below_and_at(self, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ``cdf_below`` and ``cdf`` as arrays: what `Split.cdf` takes."""
        values = torch.as_tensor(value, dtype=torch.float64)
        return self.cdf_below(values).cpu().numpy(), self.cdf(values).cpu().numpy()

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Tensor:
        """Draw all subspots once, jointly: subspots of a spot add up to its observed value where it is given."""


class NormalPosterior(Posterior):
    """Independent normal marginals; with ``parent`` and ``weight``, draws keep the weighted sum of a spot.

    Parameters
    ----------
    location, variance
        Mean and variance of the marginals.
    free_variance
        Variance of a subspot before its spot was seen; needed to draw jointly, with ``parent``.
    parent
        Spot of each subspot when the marginals are conditional on the spot.
    """

    discrete = False

    def __init__(
        self, location: Tensor, variance: Tensor, free_variance: Tensor | None = None, parent: Parent | None = None
    ) -> None:
        self.location, self.variance = location.double(), variance.double().clamp(min=0)
        self.free_variance = None if free_variance is None else free_variance.double()
        self.parent = parent

    def mean(self) -> Tensor:
        """Return the expectation."""
        return self.location

    def sd(self) -> Tensor:
        """Return the standard deviation."""
        return self.variance.sqrt()

    def quantile(self, level: float) -> Tensor:
        """Return the normal quantile."""
        return self.location + self.sd() * float(stats.norm.ppf(level))

    def cdf(self, value: Tensor) -> Tensor:
        """Return the normal distribution function; a step where the deviation is zero."""
        distance, sd = value.double() - self.location, self.sd()
        step = (distance >= 0).double()
        return torch.where(sd > 0, torch.special.ndtr(distance / sd.clamp(min=1e-300)), step)

    def sample(self, rng: np.random.Generator) -> Tensor:
        """Draw freely, then spread the spot's surplus in proportion to the variances."""
        noise = torch.as_tensor(rng.standard_normal(self.location.shape), device=self.location.device)
        if self.parent is None or self.free_variance is None:
            return self.location + self.sd() * noise
        noise = noise * self.free_variance.sqrt()
        share = self.free_variance / self.parent.gather(self.parent.sum(self.free_variance)).clamp(min=1e-300)
        surplus = self.parent.gather(self.parent.sum(noise))
        conditional = self.location + noise - share * surplus
        assigned = self.parent.assigned.reshape(-1, 1)
        return torch.where(assigned, conditional, self.location + noise)


class NegativeBinomialPosterior(Posterior):
    """Independent NB marginals with mean ``mu`` and variance ``mu (1 + phi)``; Poisson where ``phi`` is zero."""

    discrete = True

    def __init__(self, mu: Tensor, phi: Tensor | float) -> None:
        self.mu = mu.double()
        self.phi = torch.as_tensor(phi, dtype=torch.float64, device=mu.device).expand_as(self.mu)

    def mean(self) -> Tensor:
        """Return the expectation."""
        return self.mu

    def sd(self) -> Tensor:
        """Return the standard deviation."""
        return (self.mu * (1 + self.phi)).sqrt()

    def quantile(self, level: float) -> Tensor:
        """Return the NB quantile."""
        mu, phi = self.mu.cpu().numpy(), self.phi.cpu().numpy()
        poisson = stats.poisson.ppf(level, mu)
        spread = np.maximum(phi, 1e-12)
        values = np.where(phi > 0, stats.nbinom.ppf(level, np.maximum(mu, 1e-300) / spread, 1 / (1 + spread)), poisson)
        return torch.as_tensor(np.where(mu > 0, values, 0.0), device=self.mu.device)

    def cdf(self, value: Tensor) -> Tensor:
        """Return the NB distribution function."""
        mu, phi, k = self.mu.cpu().numpy(), self.phi.cpu().numpy(), value.cpu().numpy()
        spread, mean = np.maximum(phi, 1e-12), np.maximum(mu, 1e-300)
        values = np.where(phi > 0, stats.nbinom.cdf(k, mean / spread, 1 / (1 + spread)), stats.poisson.cdf(k, mean))
        return torch.as_tensor(values, device=self.mu.device)

    def sample(self, rng: np.random.Generator) -> Tensor:
        """Draw a gamma rate, then a Poisson count."""
        mu, phi = self.mu.cpu().numpy(), self.phi.cpu().numpy()
        spread = np.maximum(phi, 1e-12)
        rate = np.where(phi > 0, rng.gamma(np.maximum(mu, 1e-300) / spread) * spread, mu)
        return torch.as_tensor(rng.poisson(rate).astype(np.float64), device=self.mu.device)


class SharedCountPosterior(Posterior):
    """An observed count divided over the subspots of its spot.

    Parameters
    ----------
    total
        Observed count of the subspot's spot, ``(n_subspots, n_features)``.
    concentration
        Dirichlet parameter of each subspot; the split is Dirichlet-multinomial, each marginal beta-binomial.
    parent
        Spot of each subspot.
    overdispersed
        ``False`` takes the limit of large concentration: multinomial, binomial marginals.
    unassigned
        Prior of the subspots under no spot.
    """

    discrete = True

    def __init__(
        self, total: Tensor, concentration: Tensor, parent: Parent, overdispersed: bool, unassigned: Posterior
    ) -> None:
        self.total = total.double()
        self.own = concentration.double()
        self.all = parent.gather(parent.sum(self.own)).clamp(min=1e-300)
        self.parent, self.overdispersed, self.unassigned = parent, overdispersed, unassigned
        self.share = self.own / self.all

    def _with_unassigned(self, value: Tensor, other: Callable[[Posterior], Tensor]) -> Tensor:
        """Put what the prior says into the rows under no spot, where there are any."""
        if bool(self.parent.assigned.all()):
            return value
        return torch.where(self.parent.assigned.reshape(-1, 1), value, other(self.unassigned))

    def mean(self) -> Tensor:
        """Return the expectation: the count times the subspot's share, so that a spot's subspots add up to it."""
        return self._with_unassigned(self.total * self.share, lambda prior: prior.mean())

    def sd(self) -> Tensor:
        """Return the standard deviation."""
        variance = self.total * self.share * (1 - self.share)
        if self.overdispersed:
            variance = variance * (self.total + self.all) / (1 + self.all)
        return self._with_unassigned(variance.clamp(min=0).sqrt(), lambda prior: prior.sd())

    def quantile(self, level: float) -> Tensor:
        """Return the (beta-)binomial quantile."""
        n, share = self.total.cpu().numpy(), np.clip(self.share.cpu().numpy(), 0, 1)
        out = np.zeros_like(n)
        some = n > 0
        if self.overdispersed:
            a, whole = self.own.cpu().numpy()[some], self.all.cpu().numpy()[some]
            out[some] = beta_binomial_quantile(level, n[some], a, np.maximum(whole - a, 0))
        else:
            out[some] = stats.binom.ppf(level, n[some], share[some])
        found = torch.as_tensor(out, device=self.total.device)
        return self._with_unassigned(found, lambda prior: prior.quantile(level))

    def cdf(self, value: Tensor) -> Tensor:
        """Return the (beta-)binomial distribution function."""
        n, k = self.total.cpu().numpy(), np.floor(value.cpu().numpy())
        out = (k >= n).astype(np.float64)
        some = (k >= 0) & (k < n)
        if self.overdispersed:
            a, whole = self.own.cpu().numpy()[some], self.all.cpu().numpy()[some]
            out[some] = beta_binomial_cdf(k[some], n[some], a, np.maximum(whole - a, 0))
        else:
            out[some] = stats.binom.cdf(k[some], n[some], np.clip(self.share.cpu().numpy()[some], 0, 1))
        found = torch.as_tensor(out, device=self.total.device)
        return self._with_unassigned(found, lambda prior: prior.cdf(value))

    def sample(self, rng: np.random.Generator) -> Tensor:
        """Draw shares, then deal the count out to one subspot after the other by binomials."""
        index = self.parent.index.cpu().numpy()
        own = self.own.cpu().numpy()
        weight = rng.gamma(np.maximum(own, 1e-300)) + 1e-300 if self.overdispersed else own
        left_weight = self.parent.sum(torch.as_tensor(weight)).numpy()
        left = np.zeros((self.parent.n_spots, own.shape[1]))
        left[index[index >= 0]] = self.total.cpu().numpy()[index >= 0]
        out = self._with_unassigned(torch.zeros_like(self.own), lambda prior: prior.sample(rng)).cpu().numpy().copy()
        from_end = self._rank_from_end(index)
        for rows in _rounds(index):
            spots = index[rows]
            share = np.clip(weight[rows] / np.maximum(left_weight[spots], 1e-300), 0, 1)
            last = (from_end[rows] == 0)[:, None]
            drawn = np.where(last, left[spots], rng.binomial(left[spots].astype(np.int64), share))
            out[rows] = drawn
            left[spots] -= drawn
            left_weight[spots] -= weight[rows]
        return torch.as_tensor(out, device=self.total.device)

    @staticmethod
    def _rank_from_end(index: np.ndarray) -> np.ndarray:
        return rank_within(index[::-1])[::-1]


def _rounds(index: np.ndarray) -> list[np.ndarray]:
    """Group rows so that each group holds at most one subspot of every spot; rows under no spot are left out."""
    rank = np.where(index >= 0, rank_within(index), -1)
    return [np.flatnonzero(rank == k) for k in range(int(rank.max(initial=-1)) + 1)]


def beta_binomial_quantile(level: float, n: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return beta-binomial quantiles, all arguments one-dimensional and positive (``b`` may be zero)."""
    return _walk_up(n, a, b, lambda k, active, cumulative: cumulative >= level)[0]


def beta_binomial_cdf(value: np.ndarray, n: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the beta-binomial distribution function at integers from 0 to ``n``, arguments as for the quantile."""
    return np.minimum(_walk_up(n, a, b, lambda k, active, cumulative: k >= value[active])[1], 1)


def _walk_up(
    n: np.ndarray, a: np.ndarray, b: np.ndarray, reached: Callable[[int, np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Add beta-binomial probabilities up until ``reached``; return the last value of each entry, and the sum there.

    Notes
    -----
    Goes by the ratio of neighbours, dropping entries that are done: the work is the sum of the results, a few passes over
    the counts. `scipy.stats.betabinom` gives the same, minutes later.
    """
    a, b = np.maximum(a, 1e-12), np.maximum(b, 1e-12)
    last, total = n.astype(np.float64), np.ones(len(n))
    active = np.arange(len(n))
    log_p = betaln(a, b + n) - betaln(a, b)
    cumulative = np.exp(log_p)
    k = 0
    while active.size:
        done = reached(k, active, cumulative) | (k >= n[active])
        last[active[done]], total[active[done]] = k, cumulative[done]
        active, log_p, cumulative = active[~done], log_p[~done], cumulative[~done]
        rest = n[active] - k
        log_p = log_p + np.log(rest * (a[active] + k) / ((k + 1) * (b[active] + rest - 1)))
        cumulative = cumulative + np.exp(log_p)
        k += 1
    return last, total
