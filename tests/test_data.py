"""Sections, tiles and the model's parts on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiling import as_double

from soscope import contract
from soscope.build import build_finetune, build_pretrain
from soscope.data.cutter import TileCutter
from soscope.data.module import SectionsDataModule
from soscope.data.section import Section, interpolation_weights
from soscope.data.tiles import Tile, held_out_spots
from soscope.enhance import Divider, latent_means
from soscope.likelihoods import make_likelihood
from soscope.nn.parent import Parent
from soscope.prepare.graphs import Graph
from soscope.prepare.pipeline import prepare_sections
from soscope.read import DemoReader
from soscope.split import Split, conservation_error
from soscope.stage_module import StageModule


@pytest.fixture(scope="module")
def section(compose: Callable, cache: Path) -> Section:
    raw = DemoReader(rows=12, columns=9).read(None).sdata
    return Section.from_sdata(prepare_sections(compose(f"image.cache={cache}"), [raw])[0], ["rna"])


def module_of(section: Section, cfg: object, tiles: list[Tile] | None = None) -> SectionsDataModule:
    data = SectionsDataModule([], ["rna"])
    data.sections = [section]
    data.cut()
    data.tiles = tiles or data.tiles
    return data


def divided(model: StageModule, section: Section, core: list[np.ndarray] | None = None) -> Split:
    """Split all spots, latent means being found tile by tile."""
    cutter = TileCutter(section, z_width=1.0)
    tiles = [cutter(c) for c in core or [np.arange(section.n_spots)]]
    (latent,) = latent_means(model, tiles, [section.n_spots])
    return Divider(model, cutter, latent, "conditional").split(np.arange(section.n_subspots))["rna"]


def relabelled(section: Section, order: np.ndarray) -> Section:
    """The same section with its spots in another order, subspots as they were."""
    new = np.empty(len(order), dtype=int)
    new[order] = np.arange(len(order))
    profiles = {m: replace(p, x=p.x[order], library_size=p.library_size[order]) for m, p in section.modalities.items()}
    return replace(
        section,
        spots=[section.spots[i] for i in order],
        modalities=profiles,
        parent=new[section.parent],
        xy_um=section.xy_um[order],
        spot_graph=Graph(new[section.spot_graph.edges], section.spot_graph.weight),
    )


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_relabelling_spots_permutes_the_output(section: Section, compose: Callable, stage: str) -> None:
    cfg = compose()
    model = (build_pretrain if stage == "pretrain" else build_finetune)(cfg, module_of(section, cfg)).double()
    order = np.random.default_rng(0).permutation(section.n_spots)
    here, there = (as_double(TileCutter(s)()) for s in (section, relabelled(section, order)))
    for name, value in model.losses(here, 5).items():
        torch.testing.assert_close(value, model.losses(there, 5)[name], rtol=1e-9, atol=1e-9)
    if stage == "finetune":
        a, b = (divided(model.float(), s).mean for s in (section, relabelled(section, order)))
        np.testing.assert_allclose(a.toarray(), b.toarray(), rtol=1e-4)


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_held_out_spots_reach_no_term_and_no_gradient(section: Section, compose: Callable, stage: str) -> None:
    cfg = compose()
    data = module_of(section, cfg)
    tile = data.tiles[0]
    held = tile.held_out
    assert held.sum() == round(0.1 * section.n_spots)
    changed = replace(
        tile,
        profiles={"rna": torch.where(held[:, None], 900.0, tile.profiles["rna"])},
        library_size={"rna": torch.where(held, 9e4, tile.library_size["rna"])},
        spot_weight=torch.where(held[tile.spot_edges].any(0), 0.9, tile.spot_weight),
    )
    module = (build_pretrain if stage == "pretrain" else build_finetune)(cfg, data)
    assert module.settings.graph_weight > 0
    results = []
    for t in (tile, changed):
        losses = module.losses(t, 2)
        gradients = torch.autograd.grad(losses["loss"], list(module.parameters()), allow_unused=True)
        results.append([*losses.values(), *[g for g in gradients if g is not None]])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_held_out_spots_follow_names_and_are_never_none(section: Section) -> None:
    held = held_out_spots(section, 0, 0.1)
    order = np.random.default_rng(1).permutation(section.n_spots)
    np.testing.assert_array_equal(held_out_spots(relabelled(section, order), 0, 0.1), held[order])
    assert not np.array_equal(held, held_out_spots(section, 1, 0.1))
    assert held_out_spots(section, 0, 1e-4).sum() == 1
    assert held_out_spots(section, 0, 0.0).sum() == 0


def test_empty_and_isolated_spots_are_accepted(section: Section, compose: Callable) -> None:
    cfg = compose()
    x = section.modalities["rna"].x.tolil()
    x[:3] = 0
    size = section.modalities["rna"].library_size.copy()
    size[:3] = 0
    nowhere = Graph(np.zeros((2, 0), dtype=np.int64), np.zeros(0, dtype=np.float32))
    bare = replace(
        section,
        modalities={"rna": replace(section.modalities["rna"], x=x.tocsr(), library_size=size)},
        spot_graph=nowhere,
    )
    data = module_of(bare, cfg)
    for module in (build_pretrain(cfg, data), build_finetune(cfg, data)):
        loss = module.losses(data.tiles[0], 0)["loss"]
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


def test_subspots_under_no_spot_are_delivered_from_the_prior_and_left_out_of_sums(
    section: Section, compose: Callable
) -> None:
    cfg = compose()
    parent = section.parent.copy()
    parent[::5] = -1
    ragged = replace(section, parent=parent)
    data = module_of(ragged, cfg)
    tile = data.tiles[0]
    model = build_finetune(cfg, data)
    assert torch.isfinite(model.losses(tile, 0)["loss"])
    split = divided(model, ragged)
    has = np.isin(np.arange(section.n_spots), parent)
    observed = section.modalities["rna"].x[has]
    assert (
        conservation_error(split, section.modalities["rna"].x, Parent(torch.from_numpy(parent), section.n_spots)) < 1e-6
    )
    assert observed.shape[0] == section.n_spots
    assert (split.mean.toarray()[::5] > 0).all()


def test_interpolation_weights_follow_the_bumps() -> None:
    spots, subspots = np.array([[0.0, 0], [100, 0]]), np.array([[0.0, 0], [50, 0], [5000, 0]])
    m, n, w = interpolation_weights(spots, subspots, np.array([0, 0, -1]), 50.0)
    dense = np.zeros((3, 2))
    dense[m, n] = w
    ratio = np.exp(-0.5 * 4)
    np.testing.assert_allclose(dense, [[1 / (1 + ratio), ratio / (1 + ratio)], [0.5, 0.5], [0, 0]], rtol=1e-6)
    m, n, w = interpolation_weights(spots, subspots, np.array([0, 1, -1]), 0.0)
    assert (m.tolist(), n.tolist()) == ([0, 1], [0, 1])


def test_splits_refuse_layers_of_another_shape() -> None:
    with pytest.raises(ValueError, match="sd has shape"):
        Split(mean=np.zeros((4, 2)), sd=np.zeros((4, 3)))


def test_copy_down_of_counts_and_averages() -> None:
    parent = Parent(torch.tensor([0, 0, 1, -1]), 2)
    x = torch.tensor([[8.0], [3.0]])
    assert make_likelihood("nb", 1).copy_down(x, parent).ravel().tolist() == [4, 4, 3, 0]
    assert make_likelihood("gaussian", 1).copy_down(x, parent).ravel().tolist() == [8, 8, 3, 0]


def test_sections_with_other_features_are_refused(trained: Path, tmp_path: Path) -> None:
    sdata = contract.open_section(trained / "prepared" / "demo.zarr")
    for i, name in enumerate(("a", "b")):
        table = sdata.tables["rna"][:, i:].copy()
        sdata.tables["rna"] = table
        contract.write_section(sdata, tmp_path / f"{name}.zarr")
    data = SectionsDataModule([tmp_path / "a.zarr", tmp_path / "b.zarr"], ["rna"])
    with pytest.raises(Exception, match="different features"):
        data.setup()
