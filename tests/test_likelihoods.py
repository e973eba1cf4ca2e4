"""Every registered likelihood keeps the promises of the extension point; reference values come from scipy and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from soscope.errors import ConfigError, DataError
from soscope.likelihoods import LIKELIHOODS, Likelihood, make_likelihood
from soscope.nn.parent import Parent
from soscope.posteriors import beta_binomial_quantile

UNEVEN = torch.tensor([0, 0, 0, 1, -1, 2, 2, 1])
VARIANTS = [(name, {}) for name in sorted(LIKELIHOODS)] + [("gaussian", {"average": False})]


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}{v[1] or ''}")
def likelihood(request: pytest.FixtureRequest) -> Likelihood:
    torch.manual_seed(0)
    name, options = request.param
    made = make_likelihood(name, 4, **options)
    made.fit(torch.tensor([[3.0, 0, 9, 40], [5, 1, 2, 60], [4, 0, 4, 20]]), 8 / 3)
    return made.double()


def raw_for(likelihood: Likelihood, n: int) -> torch.Tensor:
    return torch.randn(n, 4, likelihood.n_parameters, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def observe(
    likelihood: Likelihood, parent: Parent, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Draw subspots from the prior, and the spots they make."""
    p = likelihood.parameters_of(raw_for(likelihood, len(parent.index)))
    p = {k: v.detach() for k, v in p.items()}
    subspots = likelihood.prior(p).sample(rng)
    spots = parent.sum(subspots)
    if not likelihood.adds_up:
        spots = spots / parent.n_per_spot[:, None]
    return subspots, spots, p


def test_widened_parameters_keep_means_and_multiply_variances(likelihood: Likelihood) -> None:
    p = likelihood.parameters_of(raw_for(likelihood, 8))
    narrow, wide = (likelihood.prior(q) for q in (p, likelihood.widened(p, 2.5)))
    torch.testing.assert_close(wide.mean(), narrow.mean())
    torch.testing.assert_close(wide.sd() ** 2, 2.5 * narrow.sd() ** 2)


def test_a_widened_split_keeps_its_mean_and_spreads_more(likelihood: Likelihood, rng: np.random.Generator) -> None:
    parent = Parent(UNEVEN, 3)
    _, spots, p = observe(likelihood, parent, rng)
    narrow, wide = (likelihood.given_total(spots, q, parent) for q in (p, likelihood.widened(p, 2.5)))
    torch.testing.assert_close(wide.mean(), narrow.mean())
    assert (wide.sd() >= narrow.sd()).all()
    assert (wide.sd() > narrow.sd()).any()


def test_gradients_are_finite_at_extreme_outputs(likelihood: Likelihood) -> None:
    parent = Parent(UNEVEN, 3)
    for size in (0.0, 1.0, 50.0):
        raw = (raw_for(likelihood, 8) * size).requires_grad_()
        p = likelihood.aggregate(likelihood.parameters_of(raw), parent)
        x = torch.tensor([[0.0, 3, 2000, 1]] * 3, dtype=torch.float64)
        likelihood.log_prob(x, p).sum().backward()
        assert torch.isfinite(raw.grad).all()


def test_log_prob_equals_scipy() -> None:
    x = torch.tensor([[0.0, 1, 7, 250]])
    mu = torch.tensor([[0.3, 2.0, 7.0, 300.0]])
    phi = torch.tensor([0.5, 0.01, 2.0, 0.2])
    nb = make_likelihood("nb", 4).log_prob(x, {"mu": mu, "phi": phi})
    r = (mu / phi).numpy()
    np.testing.assert_allclose(nb.numpy(), stats.nbinom.logpmf(x, r, 1 / (1 + phi.numpy())), rtol=2e-4, atol=2e-4)
    poisson = make_likelihood("poisson", 4).log_prob(x, {"mu": mu})
    np.testing.assert_allclose(poisson.numpy(), stats.poisson.logpmf(x, mu), rtol=1e-5, atol=1e-4)
    s = torch.tensor([[0.3, 2.0, 7.0, 30.0]])
    normal = make_likelihood("gaussian", 4).log_prob(x, {"mu": mu, "s": s})
    np.testing.assert_allclose(normal.numpy(), stats.norm.logpdf(x, mu, s), rtol=1e-5)


def test_nb_log_prob_is_precise_in_single_precision_near_poisson() -> None:
    mu, phi, x = torch.tensor([[5000.0]]), torch.tensor([1e-3]), torch.tensor([[5040.0]])
    ours = make_likelihood("nb", 1).log_prob(x, {"mu": mu, "phi": phi}).item()
    assert ours == pytest.approx(stats.nbinom.logpmf(5040, 5000 / 1e-3, 1 / (1 + 1e-3)), abs=2e-2)


@pytest.mark.parametrize("mean", [0.1, 3.0])
def test_sparse_and_dense_counts_have_the_log_prob_and_gradient_of_the_formula(mean: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((40, 30), mean), generator)
    likelihood = make_likelihood("nb", 30)
    likelihood.fit(x, 1.0)
    raw = torch.randn(40, 30, 1, generator=generator)
    found = []
    for dtype in (torch.float32, torch.float64):  # in double precision log gamma itself is taken
        at = raw.to(dtype).requires_grad_()
        log_prob = likelihood.to(dtype).log_prob(x.to(dtype), likelihood.parameters_of(at))
        weight = torch.linspace(0.5, 2, 30, dtype=dtype)
        found.append((log_prob.detach(), torch.autograd.grad((log_prob * weight).sum(), at)[0]))
    for single, double in zip(*found, strict=True):
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


def test_prior_moments_match_samples(likelihood: Likelihood, rng: np.random.Generator) -> None:
    p = {k: v.detach() for k, v in likelihood.parameters_of(raw_for(likelihood, 3)).items()}
    prior = likelihood.prior(p)
    draws = torch.stack([prior.sample(rng) for _ in range(6000)])
    tolerance = 6 * prior.sd() / 6000**0.5 + 1e-9
    assert (abs(draws.mean(0) - prior.mean()) < tolerance).all()
    np.testing.assert_allclose(draws.std(0), prior.sd(), rtol=0.15, atol=0.02)
    np.testing.assert_allclose(likelihood.mean(p), prior.mean())


def test_aggregate_is_the_distribution_of_simulated_sums(likelihood: Likelihood, rng: np.random.Generator) -> None:
    parent = Parent(UNEVEN, 3)
    p = {k: v.detach() for k, v in likelihood.parameters_of(raw_for(likelihood, 8)).items()}
    draws = torch.stack([parent.sum(likelihood.prior(p).sample(rng)) for _ in range(6000)])
    if not likelihood.adds_up:
        draws = draws / parent.n_per_spot[:, None]
    spots = likelihood.prior(likelihood.aggregate(p, parent))
    assert (abs(draws.mean(0) - spots.mean()) < 6 * spots.sd() / 6000**0.5 + 1e-9).all()
    np.testing.assert_allclose(draws.std(0), spots.sd(), rtol=0.15, atol=0.02)


def test_given_total_adds_up_exactly_and_in_every_draw(likelihood: Likelihood, rng: np.random.Generator) -> None:
    parent = Parent(UNEVEN, 3)
    _, spots, p = observe(likelihood, parent, rng)
    posterior = likelihood.given_total(spots, p, parent)
    divisor = 1 if likelihood.adds_up else parent.n_per_spot[:, None]
    for subspots in (posterior.mean(), posterior.sample(rng), posterior.sample(rng)):
        np.testing.assert_allclose(parent.sum(subspots) / divisor, spots, rtol=1e-9, atol=1e-9)


def test_given_total_moments_and_quantiles_match_its_draws(likelihood: Likelihood, rng: np.random.Generator) -> None:
    parent = Parent(UNEVEN, 3)
    _, spots, p = observe(likelihood, parent, rng)
    posterior = likelihood.given_total(spots, p, parent)
    draws = torch.stack([posterior.sample(rng) for _ in range(6000)])
    assert (abs(draws.mean(0) - posterior.mean()) < 6 * posterior.sd() / 6000**0.5 + 1e-9).all()
    np.testing.assert_allclose(draws.std(0), posterior.sd(), rtol=0.15, atol=0.03)
    below = (draws <= posterior.quantile(0.95) + 1e-9).double().mean(0)
    assert (below > 0.935).all()


def test_under_no_spot_comes_the_prior(likelihood: Likelihood, rng: np.random.Generator) -> None:
    parent = Parent(UNEVEN, 3)
    _, spots, p = observe(likelihood, parent, rng)
    posterior, prior = likelihood.given_total(spots, p, parent), likelihood.prior(p)
    np.testing.assert_allclose(posterior.mean()[4], prior.mean()[4])
    np.testing.assert_allclose(posterior.sd()[4], prior.sd()[4])
    np.testing.assert_allclose(posterior.quantile(0.9)[4], prior.quantile(0.9)[4])


@pytest.mark.parametrize("name", ["nb", "poisson"])
def test_count_split_equals_brute_force(name: str) -> None:
    """All ways to deal 5 counts to three subspots, weighed by the product of their own probabilities."""
    likelihood = make_likelihood(name, 1).double()
    mu, phi, total = np.array([0.7, 2.0, 1.1]), 0.6, 5
    p = {"mu": torch.tensor(mu)[:, None]} | ({"phi": torch.tensor([phi]).double()} if name == "nb" else {})
    ways = np.array([w for w in itertools.product(range(total + 1), repeat=3) if sum(w) == total])
    log_p = stats.nbinom.logpmf(ways, mu / phi, 1 / (1 + phi)) if name == "nb" else stats.poisson.logpmf(ways, mu)
    weight = np.exp(log_p.sum(1))
    weight /= weight.sum()
    mean = weight @ ways
    posterior = likelihood.given_total(torch.tensor([[float(total)]]), p, Parent(torch.zeros(3, dtype=torch.long), 1))
    np.testing.assert_allclose(posterior.mean()[:, 0], mean)
    np.testing.assert_allclose(posterior.sd()[:, 0], np.sqrt(weight @ ways**2 - mean**2))
    cumulative = np.array([[weight[ways[:, m] <= k].sum() for k in range(total + 1)] for m in range(3)])
    for level in (0.05, 0.5, 0.95):
        np.testing.assert_array_equal(posterior.quantile(level)[:, 0], (cumulative < level).sum(1))


@pytest.mark.parametrize("average", [True, False])
def test_gaussian_split_equals_conditioning_the_joint_normal(average: bool) -> None:
    mu, s, x = np.array([1.0, -2.0, 0.5]), np.array([0.5, 1.0, 2.0]), 3.0
    a = np.full(3, 1 / 3 if average else 1.0)
    gain = s**2 * a / (a @ (s**2 * a))
    p = {"mu": torch.tensor(mu)[:, None], "s": torch.tensor(s)[:, None]}
    likelihood = make_likelihood("gaussian", 1, average=average).double()
    posterior = likelihood.given_total(torch.tensor([[x]]), p, Parent(torch.zeros(3, dtype=torch.long), 1))
    np.testing.assert_allclose(posterior.mean()[:, 0], mu + gain * (x - a @ mu))
    np.testing.assert_allclose(posterior.sd()[:, 0] ** 2, s**2 - gain * a * s**2)


def test_beta_binomial_quantile_equals_scipy(rng: np.random.Generator) -> None:
    n = rng.integers(1, 60, 50).astype(float)
    a, b = rng.gamma(1.0, size=50) + 0.01, rng.gamma(3.0, size=50) + 0.01
    for level in (0.05, 0.5, 0.95):
        np.testing.assert_array_equal(beta_binomial_quantile(level, n, a, b), stats.betabinom.ppf(level, n, a, b))


@pytest.mark.parametrize("as_sparse", [True, False])
def test_check_names_spot_and_feature(as_sparse: bool) -> None:
    x = np.array([[1.0, 2, 3], [4, 0, 3.7]])
    held = sparse.csr_matrix(x) if as_sparse else x
    with pytest.raises(DataError, match=r"spot 's1', feature 'c', 3.7.*model=gaussian"):
        make_likelihood("nb", 3).check(held, "section 'liver', table 'rna'", ["s0", "s1"], ["a", "b", "c"])
    x[1, 2] = np.nan
    with pytest.raises(DataError, match="NaN.*spot 's1', feature 'c'"):
        make_likelihood("gaussian", 3).check(x, "here", ["s0", "s1"], ["a", "b", "c"])
    with pytest.raises(DataError, match="1 of 6 values are negative"):
        make_likelihood("poisson", 3).check(np.array([[1.0, 2, 3], [4, -2, 3]]), "here", ["s0", "s1"], list("abc"))


def test_unknown_names_and_options_are_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="gaussian, nb, poisson"):
        make_likelihood("zinb", 3)
    with pytest.raises(ConfigError, match="averag"):
        make_likelihood("gaussian", 3, averag=True)
