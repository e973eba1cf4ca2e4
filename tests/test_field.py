"""The kriged field: components, smoothing, what hidden spots may tell, and its path to the network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist

from soscope.data.field import Components, krige_components, smooth_over_neighbours, stabilised_levels
from soscope.data.section import Profiles, Section
from soscope.kernels import IMAGE_WIDTH, LOCAL_RANGE, LOCAL_WIDTH, RANGES, Kernels, Places, Point
from soscope.kriging import AreaKriging
from soscope.likelihoods import make_likelihood
from soscope.prepare.graphs import Graph, neighbour_edges


@pytest.fixture
def section() -> Section:
    """A square section of 8 x 8 spots, 2 x 2 subspots each, whose profiles follow the first image feature."""
    rng = np.random.default_rng(0)
    row, col = (v.ravel() for v in np.mgrid[:8, :8])
    xy = np.stack([col, row], 1) * 100.0
    offsets = np.array([[-25, -25], [25, -25], [-25, 25], [25, 25]])
    sub_xy = (xy[:, None] + offsets).reshape(-1, 2)
    parent = np.repeat(np.arange(64), 4)
    image = np.stack([np.sin(sub_xy[:, 0] / 90) + np.cos(sub_xy[:, 1] / 70), rng.normal(size=256)], 1)
    rate = np.exp(image[:, :1] * np.array([0.8, -0.6, 0.5, 0.0]) + 2)
    counts = np.zeros((64, 4))
    np.add.at(counts, parent, rng.poisson(rate))
    spots, subspots = neighbour_edges(xy, 120), neighbour_edges(sub_xy, 60)
    return Section(
        name="s",
        spots=[f"s{i}" for i in range(64)],
        modalities={"rna": Profiles(counts.astype(np.float32), list("abcd"), counts.sum(1).astype(np.float32))},
        image_features=image.astype(np.float32),
        image_blocks=[np.arange(2)],
        parent=parent,
        xy_um=xy,
        subspot_xy_um=sub_xy,
        spot_graph=Graph(spots, np.ones(spots.shape[1], dtype=np.float32)),
        subspot_graph=Graph(subspots, np.ones(subspots.shape[1], dtype=np.float32)),
        pitch_um=100.0,
    )


def field_of(section: Section, hidden: np.ndarray) -> np.ndarray:
    levels = stabilised_levels(section, {"rna": make_likelihood("nb", 4)})
    components = Components.fit(levels[~hidden], 2)
    return krige_components([section], [section.image_features], [levels], components, [hidden])[0][0]


def test_components_are_those_of_scikit_learn(section: Section) -> None:
    from sklearn.decomposition import PCA

    levels = stabilised_levels(section, {"rna": make_likelihood("nb", 4)})[:]
    ours = Components.fit(levels, 3)
    z = (levels - levels.mean(0)) / levels.std(0)
    theirs = PCA(3).fit(z)
    np.testing.assert_allclose(np.abs(ours.loadings), np.abs(theirs.components_), atol=1e-6)
    np.testing.assert_allclose(np.abs(ours.scores(levels)), np.abs(theirs.transform(z)), atol=1e-6)


def test_components_of_more_columns_than_spots_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    levels = np.random.default_rng(0).gamma(2.0, size=(20, 70)).astype(np.float32)
    ours = Components.fit(levels, 3)
    theirs = PCA(3).fit((levels - levels.mean(0)) / levels.std(0))
    np.testing.assert_allclose(np.abs(ours.loadings), np.abs(theirs.components_), atol=1e-5)


def test_field_follows_the_image_inside_spots(section: Section) -> None:
    field = field_of(section, np.zeros(64, dtype=bool))
    within = [v - v.reshape(64, 4).mean(1).repeat(4) for v in (field[:, 0], section.image_features[:, 0])]
    assert abs(np.corrcoef(*within)[0, 1]) > 0.8


def test_a_telling_block_is_not_drowned_in_others(section: Section) -> None:
    noise = np.random.default_rng(1).normal(size=(256, 40)).astype(np.float32)
    section.image_features = np.concatenate([section.image_features[:, :1], noise], 1)
    truth = section.image_features[:, 0]
    found = {}
    for name, blocks in (("apart", [np.array([0]), np.arange(1, 41)]), ("together", [np.arange(41)])):
        section.image_blocks = blocks
        field = field_of(section, np.zeros(64, dtype=bool))[:, 0]
        within = [v - v.reshape(64, 4).mean(1).repeat(4) for v in (field, truth)]
        found[name] = abs(np.corrcoef(*within)[0, 1])
    assert found["apart"] > 0.8 > found["together"]


def test_kernels_of_two_blocks_follow_their_definition(section: Section) -> None:
    blocks = [np.array([0]), np.array([1])]
    places = Places(section.subspot_xy_um / 100, section.image_features, section.parent, section.xy_um / 100, blocks)
    kernels = Kernels(places, local=True)
    assert kernels.views == [(0,), (1,), (0, 1)]
    each = places.rows(slice(None))
    each.spot, each.spot_xy = np.arange(256), each.xy  # every subspot an observation: no averages in between
    (_, found), *_ = kernels.to_spots(places.rows(slice(0, 5)), each)
    apart = []
    for block in blocks:
        y = section.image_features[:, block]
        square = pdist(y, "sqeuclidean")
        apart.append(cdist(y[:5], y, "sqeuclidean") / (2 * np.sort(square)[(len(square) - 1) // 2]))
    apart.append((apart[0] + apart[1]) / 2)
    distance = cdist(places.xy[:5], places.xy) * 3**0.5 / LOCAL_RANGE
    near = (1 + distance) * np.exp(-distance)
    expected = [*(np.exp(-a / IMAGE_WIDTH) for a in apart), *(np.exp(-a / LOCAL_WIDTH) * near for a in apart)]
    np.testing.assert_allclose(found[len(RANGES) :], np.swapaxes(expected, 1, 2), atol=1e-4)
    weights = kernels.weights(Point(1, 0.6, 0.7, 2))
    np.testing.assert_allclose(weights, [0, 0.4, 0, 0, 0, 0.18, 0, 0, 0.42])


def test_hidden_spots_tell_the_field_nothing(section: Section) -> None:
    hidden = np.arange(64) % 9 == 0
    before = field_of(section, hidden)
    section.modalities["rna"].x = section.modalities["rna"].x + 50 * hidden[:, None].astype(np.float32)
    np.testing.assert_array_equal(field_of(section, hidden), before)


def test_the_field_of_all_spots_is_that_of_nothing_hidden(section: Section) -> None:
    levels = stabilised_levels(section, {"rna": make_likelihood("nb", 4)})
    components = Components.fit(levels, 2)
    for hidden in (np.arange(64) % 9 == 0, np.zeros(64, dtype=bool)):
        _, whole = krige_components([section], [section.image_features], [levels], components, [hidden])[0]
        np.testing.assert_allclose(
            whole, AreaKriging(places_of(section), local=True)(components.scores(levels)), atol=1e-5
        )


def places_of(section: Section) -> Places:
    xy, sub_xy = section.xy_um / 100, section.subspot_xy_um / 100
    return Places(sub_xy, section.image_features, section.parent, xy, section.image_blocks)


def test_smoothing_averages_a_subspot_with_its_neighbours(section: Section) -> None:
    smooth = smooth_over_neighbours(section, 0.5)
    middle = 4 * 27  # inside, with four neighbours
    near = section.subspot_graph.edges[1][section.subspot_graph.edges[0] == middle]
    w = np.exp(-2.0)
    y = section.image_features
    np.testing.assert_allclose(smooth[middle], (y[middle] + w * y[near].sum(0)) / (1 + w * len(near)), rtol=1e-5)
    np.testing.assert_array_equal(smooth_over_neighbours(section, 0.0), y)


@pytest.mark.parametrize(
    ("name", "options"), [("nb", {}), ("poisson", {}), ("gaussian", {}), ("gaussian", {"average": False})]
)
def test_location_leads_back_to_the_level(name: str, options: dict[str, bool]) -> None:
    likelihood = make_likelihood(name, 3, **options)
    x = torch.tensor([[4.0, 9.0, 1.0], [16.0, 25.0, 2.0]])
    likelihood.fit(x, 4.0)
    level = likelihood.stabilise(x, torch.full((2, 1), 4.0))
    raw = torch.zeros(2, 3, likelihood.n_parameters)
    raw[..., 0] = likelihood.location_of(level)
    expected = x if options.get("average", name == "gaussian") else x / 4
    torch.testing.assert_close(likelihood.mean(likelihood.parameters_of(raw)), expected, rtol=1e-5, atol=1e-5)


def test_groups_with_a_halo_agree_with_one_group(section: Section, monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(
        section.subspot_xy_um / 100,
        section.image_features.astype(float)[:, :0],
        section.parent,
        section.xy_um / 100,
        [],
    )
    values = np.sqrt(section.modalities["rna"].x).astype(float)
    whole = AreaKriging(places)(values)
    monkeypatch.setattr("soscope.kriging.GROUP", 32)
    monkeypatch.setattr("soscope.kriging.WHOLE_UP_TO", 32)
    parts = AreaKriging(places)(values)
    assert np.corrcoef(whole[:, 0], parts[:, 0])[0, 1] > 0.97


def test_a_result_stands_between_field_and_network(section: Section) -> None:
    from soscope.data.cutter import TileCutter
    from soscope.finetune import SpatialVAE
    from soscope.nn.decoder import FieldDecoder, SubspotDecoder
    from soscope.nn.encoder import GraphEncoder
    from soscope.stage_module import TrainingSettings

    likelihood = make_likelihood("nb", 4)
    x = torch.from_numpy(section.modalities["rna"].x)
    likelihood.fit(x, 4.0)
    view = likelihood.make_view()
    view.fit(x, x.sum(1))
    levels = stabilised_levels(section, {"rna": likelihood})
    parts = Components.fit(levels, 2)
    field = krige_components([section], [section.image_features], [levels], parts, [np.zeros(64, dtype=bool)])[0][1]
    decoder = FieldDecoder(
        *(torch.from_numpy(p).float() for p in (parts.centre, parts.spread, parts.loadings)), {"rna": 4}
    )
    network = SubspotDecoder(8, 2, 16, {"rna": (4, 1)})
    model = SpatialVAE(GraphEncoder({"rna": view}, 16, 8), network, decoder, {"rna": likelihood}, TrainingSettings())
    tile = TileCutter(section, field=field)()
    z = model.encode(tile, torch.ones(64, dtype=torch.bool)).mean
    at = {}
    for share in (0.0, 0.5, 1.0):
        model.settings = replace(model.settings, network_share=share)
        at[share] = model.decode(tile, z)["rna"]["mu"].log()
    torch.testing.assert_close(at[0.5], (at[0.0] + at[1.0]) / 2, rtol=1e-4, atol=1e-4)
    drawn = model.decode(tile, z, step=3)["rna"]["mu"]
    assert torch.isfinite(drawn).all()
    model.settings = replace(model.settings, network_share=0.5)
    model.calibrate([tile])
    assert (
        model.strength > 1.2
    )  # an untrained network varies little, so the mean of both varies half as much as the field
