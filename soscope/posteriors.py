"""Marginal distributions of one subspot's value: what `enhance` reports means, deviations and quantiles of."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from soscope.matrices import rank_within
from soscope.nn.parent import Parent


class Posterior(ABC):
    """Distribution of every subspot's value, all tensors ``(n_subspots, n_features)`` in float64."""

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

    def __init__(
        self, total: Tensor, concentration: Tensor, parent: Parent, overdispersed: bool, unassigned: Posterior
    ) -> None:
        self.total = total.double()
        self.own = concentration.double()
        self.all = parent.gather(parent.sum(self.own)).clamp(min=1e-300)
        self.parent, self.overdispersed, self.unassigned = parent, overdispersed, unassigned
        self.share = self.own / self.all

    def _with_unassigned(self, value: Tensor, other: Tensor) -> Tensor:
        return torch.where(self.parent.assigned.reshape(-1, 1), value, other)

    def mean(self) -> Tensor:
        """Return the expectation: the count times the subspot's share, so that a spot's subspots add up to it."""
        return self._with_unassigned(self.total * self.share, self.unassigned.mean())

    def sd(self) -> Tensor:
        """Return the standard deviation."""
        variance = self.total * self.share * (1 - self.share)
        if self.overdispersed:
            variance = variance * (self.total + self.all) / (1 + self.all)
        return self._with_unassigned(variance.clamp(min=0).sqrt(), self.unassigned.sd())

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
        return self._with_unassigned(torch.as_tensor(out, device=self.total.device), self.unassigned.quantile(level))

    def sample(self, rng: np.random.Generator) -> Tensor:
        """Draw shares, then deal the count out to one subspot after the other by binomials."""
        index = self.parent.index.cpu().numpy()
        own = self.own.cpu().numpy()
        weight = rng.gamma(np.maximum(own, 1e-300)) + 1e-300 if self.overdispersed else own
        left_weight = self.parent.sum(torch.as_tensor(weight)).numpy()
        left = np.zeros((self.parent.n_spots, own.shape[1]))
        left[index[index >= 0]] = self.total.cpu().numpy()[index >= 0]
        out = self.unassigned.sample(rng).cpu().numpy()
        for rows in _rounds(index):
            spots = index[rows]
            share = np.clip(weight[rows] / np.maximum(left_weight[spots], 1e-300), 0, 1)
            last = (self._rank_from_end(index)[rows] == 0)[:, None]
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
    """Return beta-binomial quantiles, all arguments one-dimensional and positive (``b`` may be zero).

    Notes
    -----
    Walks up the probabilities by the ratio of neighbours, dropping entries that have reached ``level``: the work is the
    sum of the results, a few passes over the counts. `scipy.stats.betabinom` gives the same, minutes later.
    """
    a, b = np.maximum(a, 1e-12), np.maximum(b, 1e-12)
    from scipy.special import betaln

    result = n.astype(np.float64).copy()
    active = np.arange(len(n))
    log_p = betaln(a, b + n) - betaln(a, b)
    cumulative = np.exp(log_p)
    k = 0
    while active.size:
        done = (cumulative >= level) | (k >= n[active])
        result[active[done]] = k
        active, log_p, cumulative = active[~done], log_p[~done], cumulative[~done]
        rest = n[active] - k
        log_p = log_p + np.log(rest * (a[active] + k) / ((k + 1) * (b[active] + rest - 1)))
        cumulative = cumulative + np.exp(log_p)
        k += 1
    return result
