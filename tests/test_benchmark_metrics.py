"""Metrics against numpy and scipy, coverage against known distributions, ceilings against a simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from soscope.benchmark.ceilings import ceilings, spearman_brown
from soscope.benchmark.metrics import (
    LEVELS,
    coverage_name,
    coverages,
    coverages_of,
    pearson,
    score,
    within_spot_pearson,
)
from soscope.errors import DataError
from soscope.likelihoods import make_likelihood
from soscope.nn.parent import Parent
from soscope.posteriors import NegativeBinomialPosterior, NormalPosterior, beta_binomial_cdf
from soscope.split import Split

PARENT = np.repeat(np.arange(30), 4)


def test_scores_equal_their_definitions(rng: np.random.Generator) -> None:
    truth, predicted = rng.poisson(5, (120, 3)).astype(float), rng.gamma(5, size=(120, 3))
    truth[7] = 0
    got = score(predicted, truth, PARENT)

    def centred(v: np.ndarray) -> np.ndarray:
        return (v.reshape(30, 4, -1) - v.reshape(30, 4, -1).mean(1, keepdims=True)).reshape(120, -1)

    share = [np.nan_to_num(v / np.where(v.sum(1) > 0, v.sum(1), 1)[:, None]) for v in (predicted, truth)]
    for g in range(3):
        p, t = predicted[:, g], truth[:, g]
        assert got["pearson"][g] == pytest.approx(stats.pearsonr(p, t)[0])
        assert got["within_spot_r"][g] == pytest.approx(stats.pearsonr(centred(p)[:, 0], centred(t)[:, 0])[0])
        parts = [centred(v[:, [g]])[:, 0] for v in share]
        assert got["within_spot_r_composition"][g] == pytest.approx(stats.pearsonr(*parts)[0])
        assert got["nmse"][g] == pytest.approx(((p - t) ** 2).mean() / t.var())


def test_a_split_by_library_size_alone_has_no_composition(rng: np.random.Generator) -> None:
    library = rng.gamma(3, size=(120, 1))
    truth = rng.poisson(40 * library * rng.dirichlet(np.ones(3), 120)).astype(float)
    got = score(library * np.array([[0.2, 0.3, 0.5]]), truth, PARENT)
    assert got["within_spot_r"].min() > 0.2
    np.testing.assert_allclose(got["within_spot_r_composition"], 0, atol=1e-9)


@pytest.mark.parametrize("phi", [0.0, 0.7])
def test_coverage_of_draws_from_the_stated_counts_is_nine_in_ten(rng: np.random.Generator, phi: float) -> None:
    parent = np.repeat(np.arange(1000), 4)
    posterior = NegativeBinomialPosterior(torch.full((4000, 2), 1.3), phi)
    truth = posterior.sample(rng).numpy()
    below, at = posterior.below_and_at(truth)
    np.testing.assert_allclose(coverages(below, at, np.ones((1000, 2)), parent, rng)["coverage90"], 0.9, atol=0.02)
    draws = [posterior.sample(rng).numpy() for _ in range(200)]
    from_draws = coverages_of(Split(mean=truth, draws=draws), truth, np.ones((1000, 2)), parent, rng)
    np.testing.assert_allclose(from_draws["coverage90"], 0.9, atol=0.02)


@pytest.mark.parametrize("name", ["nb", "poisson", "gaussian"])
def test_coverage_of_the_true_split_is_nine_in_ten(rng: np.random.Generator, name: str) -> None:
    index = torch.arange(1000).repeat_interleave(4)
    parent, likelihood = Parent(index, 1000), make_likelihood(name, 2)
    mean = torch.as_tensor(rng.gamma(1.0, 3.0, (4000, 2))) + 0.1
    p = {"mu": mean, "s": mean.sqrt()} | ({"phi": torch.tensor([0.4, 2.0]).double()} if name == "nb" else {})
    truth = likelihood.prior(p).sample(rng)
    x = parent.sum(truth) if likelihood.adds_up else parent.mean(truth)
    given = likelihood.given_total(x, p, parent)
    split = Split(mean=given.mean().numpy(), cdf=given.below_and_at)
    found = coverages_of(
        split, truth.numpy(), np.ones((1000, 2)) if name == "gaussian" else x.numpy(), index.numpy(), rng
    )
    for level in LEVELS:
        np.testing.assert_allclose(found[coverage_name(level)], level / 100, atol=0.03)


def test_coverage_counts_entries_of_spots_with_counts_alone(rng: np.random.Generator) -> None:
    parent = np.array([0, 0, 1, 1, -1])
    at = np.array([[0.5, 0.5], [0.99, 0.5], [0.99, 0.5], [0.99, 0.5], [0.99, 0.5]])
    share = coverages(at, at, np.array([[3.0, 0], [0, 0]]), parent, rng)["coverage90"]
    assert share[0] == 0.5
    assert np.isnan(share[1])


def test_a_split_without_distribution_has_no_coverage(rng: np.random.Generator) -> None:
    found = coverages_of(Split(mean=np.ones((4, 2))), np.ones((4, 2)), np.ones((1, 2)), np.zeros(4, int), rng)
    assert np.isnan(list(found.values())).all()


def test_stacked_splits_keep_their_distributions() -> None:
    parts = [NormalPosterior(torch.zeros(3, n), torch.ones(3, n)) for n in (2, 1)]
    whole = Split.stack_features([Split(mean=p.mean().numpy(), cdf=p.below_and_at) for p in parts])
    value = np.arange(9.0).reshape(3, 3)
    assert whole.cdf is not None
    np.testing.assert_allclose(whole.cdf(value)[1], stats.norm.cdf(value))


def test_distribution_functions_equal_scipy(rng: np.random.Generator) -> None:
    mu, k = rng.gamma(2.0, size=(6, 2)) + 0.1, rng.integers(-1, 6, (6, 2)).astype(float)
    for phi in (0.0, 0.6):
        exact = stats.nbinom(mu / phi, 1 / (1 + phi)) if phi else stats.poisson(mu)
        below, at = NegativeBinomialPosterior(torch.as_tensor(mu), phi).below_and_at(k)
        np.testing.assert_allclose(at, exact.cdf(k), atol=1e-12)
        np.testing.assert_allclose(below, exact.cdf(k - 1), atol=1e-12)
    normal = NormalPosterior(torch.as_tensor(mu), torch.as_tensor(mu) ** 2)
    below, at = normal.below_and_at(k)
    np.testing.assert_allclose(at, stats.norm.cdf(k, mu, mu))
    np.testing.assert_array_equal(below, at)
    n = rng.integers(1, 60, 50).astype(float)
    a, b = rng.gamma(1.0, size=50) + 0.01, rng.gamma(3.0, size=50) + 0.01
    value = np.floor(rng.random(50) * (n + 1))
    np.testing.assert_allclose(beta_binomial_cdf(value, n, a, b), stats.betabinom.cdf(value, n, a, b), atol=1e-9)


@pytest.mark.parametrize("name", ["nb", "poisson"])
def test_conditional_distribution_functions_equal_scipy(name: str) -> None:
    parent = Parent(torch.tensor([0, 0, 1, -1, 0]), 2)
    mu = np.array([0.7, 2.0, 1.1, 0.4, 1.0])
    p = {"mu": torch.as_tensor(mu)[:, None]} | ({"phi": torch.tensor([0.6]).double()} if name == "nb" else {})
    given = make_likelihood(name, 1).given_total(torch.tensor([[9.0], [4.0]]), p, parent)
    rest = np.array([3.0, 1.7, 2.7])
    for k in range(-1, 11):
        at = given.below_and_at(np.full((5, 1), float(k)))[1][:, 0]
        own = mu[[0, 1, 4]]
        conditional = (
            stats.betabinom.cdf(k, 9, own / 0.6, rest / 0.6)
            if name == "nb"
            else stats.binom.cdf(k, 9, own / (own + rest))
        )
        np.testing.assert_allclose(at[[0, 1, 4]], conditional, atol=1e-9)
        assert at[2] == pytest.approx(float(k >= 4), abs=1e-9)  # the only subspot of its spot
        prior = stats.nbinom.cdf(k, 0.4 / 0.6, 1 / 1.6) if name == "nb" else stats.poisson.cdf(k, 0.4)
        assert at[3] == pytest.approx(prior)


def test_ceilings_are_what_the_true_rates_score(rng: np.random.Generator) -> None:
    parent = np.repeat(np.arange(1500), 4)
    spot = rng.normal(size=(1500, 2))[parent]
    rate = np.exp(np.array([1.0, 2.5]) + 0.4 * spot + 0.5 * rng.normal(size=(6000, 2)))
    truth = rng.poisson(rate).astype(float)
    found = ceilings(truth, parent, seed=0)
    np.testing.assert_allclose(found["blind"]["pearson"], pearson(rate, truth), atol=0.03)
    np.testing.assert_allclose(found["blind"]["within_spot_r"], within_spot_pearson(rate, truth, parent), atol=0.03)
    rho = found["blind"]["within_spot_r"] ** 2
    np.testing.assert_allclose(found["with totals"]["within_spot_r"], np.sqrt(rho + (1 - rho) / 4))
    again = ceilings(truth, parent, seed=0)
    np.testing.assert_array_equal(again["blind"]["pearson"], found["blind"]["pearson"])


def test_ceilings_of_pure_noise_are_near_zero_and_values_are_refused(rng: np.random.Generator) -> None:
    found = ceilings(rng.poisson(3.0, (4000, 2)).astype(float), np.repeat(np.arange(1000), 4), seed=1)
    assert found["blind"]["within_spot_r"].max() < 0.25
    assert spearman_brown(np.array([-0.2, 0.5])).tolist() == [0, pytest.approx(2 / 3)]
    with pytest.raises(DataError, match="fractional"):
        ceilings(np.full((4, 1), 0.5), np.zeros(4, int), seed=0)
