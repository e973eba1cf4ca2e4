"""Baselines keep spots' totals, work on odd sections, and kriging equals the textbook's formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from soscope.benchmark.baselines import BASELINES, applicable, places_of
from soscope.benchmark.observed import Observed
from soscope.data.section import Profiles, Section
from soscope.groups import compact_groups
from soscope.kernels import IMAGE_WIDTH, RANGES, Point, matern32
from soscope.kriging import NOISES, AreaKriging
from soscope.likelihoods import Likelihood, make_likelihood
from soscope.nn.parent import Parent
from soscope.prepare.graphs import Graph

NO_GRAPH = Graph(np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32))
FREE = {"copy_down", "linear", "kriging"}
VARIANTS = [("nb", {}), ("gaussian", {}), ("gaussian", {"average": False})]


def make_section(rng: np.random.Generator, side: int = 6, n_features: int = 5, n_image: int = 3) -> Section:
    """A square array of spots with two to four subspots each, some subspots under no spot; the last spot has none."""
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) * 100.0
    n = len(xy)
    parent = np.r_[np.repeat(np.arange(n - 1), rng.integers(2, 5, n - 1)), [-1, -1]]
    rng.shuffle(parent)
    subspot_xy = np.where(parent[:, None] >= 0, xy[parent], 50.0) + rng.uniform(-40, 40, (len(parent), 2))
    image = rng.normal(size=(len(parent), n_image)).astype(np.float32)
    signal = image[:, :1] if n_image else 0
    rate = np.exp(1 + 0.5 * np.sin(subspot_xy[:, :1] / 150) + 0.5 * signal) * np.ones(n_features)
    counts = np.zeros((n, n_features), dtype=np.float32)
    np.add.at(counts, parent[parent >= 0], rng.poisson(rate)[parent >= 0])
    counts[:, 0] = 4  # a constant feature
    counts[3] = 0  # a spot without counts
    profiles = Profiles(counts, [f"g{i}" for i in range(n_features)], counts.sum(1))
    names, blocks = [f"s{i}" for i in range(n)], [np.arange(n_image)] if n_image else []
    return Section("test", names, {"rna": profiles}, image, blocks, parent, xy, subspot_xy, NO_GRAPH, NO_GRAPH, 100.0)


@pytest.fixture
def section(rng: np.random.Generator) -> Section:
    return make_section(rng)


@pytest.fixture(params=VARIANTS, ids=lambda v: f"{v[0]}{v[1] or ''}")
def likelihood(request: pytest.FixtureRequest) -> Likelihood:
    name, options = request.param
    return make_likelihood(name, 5, **options)


def spot_sums(section: Section, mean: np.ndarray) -> np.ndarray:
    sums = np.zeros((section.n_spots, mean.shape[1]))
    np.add.at(sums, section.parent[section.parent >= 0], mean[section.parent >= 0])
    return sums


def test_every_baseline_is_finite_and_zero_under_no_spot(section: Section, likelihood: Likelihood) -> None:
    for name, divide in applicable(section, likelihood)[0].items():
        mean = divide(section, "rna", likelihood).mean
        assert mean.shape == (section.n_subspots, 5), name
        assert np.isfinite(mean).all(), name
        assert (mean[section.parent < 0] == 0).all(), name


def test_totals_are_restored_exactly(section: Section, likelihood: Likelihood) -> None:
    x = section.modalities["rna"].x.astype(float)
    n_per_spot = np.bincount(section.parent[section.parent >= 0], minlength=section.n_spots)
    has = n_per_spot > 0
    divisor = 1 if likelihood.adds_up else n_per_spot[has, None]
    for name, divide in applicable(section, likelihood)[0].items():
        if name != "linear":
            mean = divide(section, "rna", likelihood).mean
            np.testing.assert_allclose(spot_sums(section, mean)[has] / divisor, x[has], rtol=1e-12, atol=1e-9)
            assert not likelihood.sparse_result or (mean >= 0).all(), name


def test_copy_down_equals_the_likelihoods(section: Section, likelihood: Likelihood) -> None:
    parent = Parent(torch.from_numpy(section.parent), section.n_spots)
    x = torch.from_numpy(section.modalities["rna"].x).double()
    mean = BASELINES["copy_down"](section, "rna", likelihood).mean
    np.testing.assert_allclose(mean, likelihood.copy_down(x, parent))


def test_a_baseline_without_its_inputs_is_left_out_by_name(rng: np.random.Generator) -> None:
    counts, values = make_likelihood("nb", 5), make_likelihood("gaussian", 5)
    with_image, without = make_section(rng), make_section(rng, n_image=0)
    assert applicable(with_image, counts)[1] == {}
    assert set(applicable(without, values)[0]) == set(applicable(with_image, values)[0]) == FREE
    left_out = applicable(without, counts)[1]
    assert left_out == dict.fromkeys(["ridge_to_totals", "total_counts", "log_split_average"], "image features")
    assert applicable(with_image, values)[1]["linear_to_totals"] == "counts"


def test_kriging_without_image_features_looks_at_positions(rng: np.random.Generator) -> None:
    section, likelihood = make_section(rng, n_image=0), make_likelihood("nb", 5)
    for name in ("kriging",):
        mean = BASELINES[name](section, "rna", likelihood).mean
        assert mean[section.parent >= 0].std(0).min() > 0
        np.testing.assert_allclose(spot_sums(section, mean)[:-1], section.modalities["rna"].x[:-1], rtol=1e-9)


@pytest.mark.parametrize("n_spots", [2, 3])
def test_a_handful_of_spots_is_enough(rng: np.random.Generator, n_spots: int) -> None:
    section, likelihood = make_section(rng, side=3), make_likelihood("nb", 5)
    few = np.arange(n_spots)
    inside = np.isin(section.parent, few)
    x = section.modalities["rna"].x[few]
    small = Section(
        *("few", [f"s{i}" for i in few], {"rna": Profiles(x, list("abcde"), x.sum(1))}),
        *(section.image_features[inside], section.image_blocks, section.parent[inside]),
        *(section.xy_um[few], section.subspot_xy_um[inside], NO_GRAPH, NO_GRAPH, 100.0),
    )
    for name, divide in applicable(small, likelihood)[0].items():
        assert np.isfinite(divide(small, "rna", likelihood).mean).all(), name


def test_linear_interpolation_is_exact_for_a_plane(section: Section) -> None:
    def plane(xy: np.ndarray) -> np.ndarray:
        return (3 + 0.02 * xy @ [[1.0], [2.0]]) * np.ones(5)

    section.modalities["rna"].x = plane(section.xy_um).astype(np.float32)
    mean = BASELINES["linear"](section, "rna", make_likelihood("gaussian", 5)).mean
    inside = (section.parent >= 0) & ((section.subspot_xy_um >= 0) & (section.subspot_xy_um <= 500)).all(1)
    np.testing.assert_allclose(mean[inside], plane(section.subspot_xy_um)[inside], rtol=1e-5)


def test_log_split_average_is_the_geometric_mean_of_shares(section: Section) -> None:
    likelihood = make_likelihood("nb", 5)
    a, b, average = (
        BASELINES[name](section, "rna", likelihood).mean
        for name in ("linear_to_totals", "ridge_to_totals", "log_split_average")
    )
    rows = section.parent == 7
    total = section.modalities["rna"].x[7].astype(float)
    root = np.sqrt(np.maximum(a[rows] / total, 1e-6) * np.maximum(b[rows] / total, 1e-6))
    np.testing.assert_allclose(average[rows], root / root.sum(0) * total, rtol=1e-9)


def test_total_counts_divides_every_feature_alike(section: Section) -> None:
    mean = BASELINES["total_counts"](section, "rna", make_likelihood("nb", 5)).mean
    rows = section.parent == 7
    shares = mean[rows] / mean[rows].sum(0)
    np.testing.assert_allclose(shares, shares[:, :1] * np.ones(5))
    assert shares[:, 0].std() > 0


def dense_kernels(section: Section, observed: Observed) -> list[np.ndarray]:
    """Covariances between all subspots under spots, each scaled so that spots vary by 1, by the definition."""
    inside = section.parent >= 0
    distance = cdist(section.subspot_xy_um[inside], section.subspot_xy_um[inside]) / section.pitch_um
    kernels = [(1 + 3**0.5 * distance / r) * np.exp(-(3**0.5) * distance / r) for r in RANGES]
    image = section.image_features[inside].astype(float)
    square = pdist(image, "sqeuclidean")
    middle = np.sort(square)[(len(square) - 1) // 2]
    kernels.append(np.exp(-cdist(image, image, "sqeuclidean") / (2 * IMAGE_WIDTH * middle)))
    average = observed.average.toarray()[:, inside]
    spots = [average @ k @ average.T for k in kernels]
    return [k / (np.trace(s) / len(s) - s.mean()) for k, s in zip(kernels, spots, strict=True)]


def test_kriging_equals_the_textbook_formula(section: Section, rng: np.random.Generator) -> None:
    observed = Observed(section, "rna", make_likelihood("nb", 5))
    model = AreaKriging(places_of(observed))
    values = rng.normal(size=(len(observed.used), 4))
    centred = values - values.mean(0)
    (weights,) = model.weigh(centred, [np.ones(len(centred), dtype=bool)])
    inside = section.parent >= 0
    kernels, average = dense_kernels(section, observed), observed.average.toarray()[:, inside]
    uneven = np.diag(observed.n_per_spot.mean() / observed.n_per_spot)
    expected = np.zeros((inside.sum(), 4))
    for setting, weight in zip(model.settings, weights, strict=True):
        k = sum(w * kernel for w, kernel in zip(setting.kernels, kernels, strict=True))
        spots = average @ k @ average.T + setting.noise * uneven
        expected += weight * (values.mean(0) + k @ average.T @ np.linalg.solve(spots, centred))
    np.testing.assert_allclose(model(values)[inside], expected, atol=2e-3)


def test_hyper_parameters_weigh_as_their_marginal_likelihood(section: Section, rng: np.random.Generator) -> None:
    model = AreaKriging(places_of(Observed(section, "rna", make_likelihood("nb", 5))))
    y = rng.normal(size=(len(model.places.spot_xy), 2))
    y -= y.mean(0)
    everything = [np.ones(len(y), dtype=bool)]
    (weights,) = model.weigh(y, everything)
    np.testing.assert_allclose(weights.sum(0), 1)
    found = {(tuple(s.kernels), s.noise): w for s, w in zip(model.settings, weights, strict=True)}
    first, second = sorted(found, key=lambda key: -found[key][0])[:2]
    points = {tuple(model.kernels.weights(point)): point for point in model.grid}
    logs = [
        model.log_likelihood(y, points[kernels], everything)[0, NOISES.index(noise), 0]
        for kernels, noise in (first, second)
    ]
    assert np.log(found[first][0] / found[second][0]) == pytest.approx(logs[0] - logs[1], abs=1e-9)


def test_marginal_likelihood_equals_the_multivariate_normal(section: Section, rng: np.random.Generator) -> None:
    observed = Observed(section, "rna", make_likelihood("nb", 5))
    model = AreaKriging(places_of(observed))
    y = rng.normal(size=(len(observed.used), 1))
    y -= y.mean(0)
    kernels, average = dense_kernels(section, observed), observed.average.toarray()[:, section.parent >= 0]
    spots = average @ (0.65 * kernels[1] + 0.35 * kernels[-1]) @ average.T
    uneven = np.diag(observed.n_per_spot.mean() / observed.n_per_spot)
    expected = []
    for noise in NOISES:
        covariance = spots + noise * uneven
        variance = float((y.T @ np.linalg.solve(covariance, y)).item()) / len(y)
        expected.append(-0.5 * len(y) * np.log(variance) - 0.5 * np.linalg.slogdet(covariance)[1])
    ours = model.log_likelihood(y, Point(1, 0.35), [np.ones(len(y), dtype=bool)])[0, :, 0]
    np.testing.assert_allclose(ours - ours[-1], np.array(expected) - expected[-1], atol=2e-2)


def test_kriging_finds_a_field_that_follows_the_image(rng: np.random.Generator) -> None:
    section = make_section(rng, side=12)
    truth = section.image_features[:, :1].astype(float) * np.ones(5)
    inside = section.parent >= 0
    n = np.maximum(np.bincount(section.parent[inside], minlength=section.n_spots), 1)[:, None]
    section.modalities["rna"].x = (spot_sums(section, truth) / n).astype(np.float32)
    mean = BASELINES["kriging"](section, "rna", make_likelihood("gaussian", 5)).mean
    assert np.corrcoef(mean[inside, 0], truth[inside, 0])[0, 1] > 0.95


def test_groups_are_a_partition_of_bounded_size(rng: np.random.Generator) -> None:
    groups = compact_groups(rng.random((130, 2)), 40)
    assert len(groups) == 4
    assert max(len(g) for g in groups) <= 40
    np.testing.assert_array_equal(np.sort(np.concatenate(groups)), np.arange(130))


def test_matern_is_one_at_zero_and_falls() -> None:
    values = matern32(torch.tensor([0.0, 1.0, 2.0]), 1.0).numpy()
    np.testing.assert_allclose(values[:2], [1, (1 + 3**0.5) * np.exp(-(3**0.5))], rtol=1e-6)
    assert values[2] < values[1]
