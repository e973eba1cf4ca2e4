"""Tiles: what they add up to, what they hold, which comes when, and what the whole run makes of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY
from tiling import as_double
from torch.nn.functional import softplus

from soscope.build import build_finetune, build_pretrain
from soscope.data.cutter import TileCutter
from soscope.data.module import SectionsDataModule, Tiling
from soscope.data.plan import TileOrder, bytes_per_spot, choose_tile_spots, cores_of
from soscope.data.section import Section
from soscope.data.store import TileStore
from soscope.data.tiles import LARGEST_BLOCK, held_out_spots
from soscope.enhance import Divider, latent_means
from soscope.errors import ConfigError
from soscope.nn.graph_terms import SampledPairs, with_diagonal
from soscope.nn.sparse import SparseMatrix
from soscope.rows import StoredRows
from soscope.simulate import simulated_section
from soscope.stage_module import StageModule

BUILD = {"pretrain": build_pretrain, "finetune": build_finetune}


@pytest.fixture(scope="module")
def section() -> Section:
    """A section much wider than a halo."""
    whole = simulated_section(30 * 30, 7, 6, 5)
    keep = np.flatnonzero(whole.xy_um[:, 1] < 7 * 87)
    return whole.only(keep)


def module_of(section: Section, tiling: Tiling | None = None) -> SectionsDataModule:
    data = SectionsDataModule([], ["rna"], 1.0, tiling=tiling)
    data.sections = [section]
    data.cut()
    return data


def built(stage: str, section: Section, compose: Callable) -> tuple[StageModule, SectionsDataModule]:
    data = module_of(section)
    model = BUILD[stage](compose("model.n_hidden=16", "model.n_latent=8"), data).double()
    if stage == "pretrain":
        return model, data
    for layer in model.decoder.blocks:  # type: ignore[union-attr,attr-defined]
        torch.nn.init.normal_(layer.second.weight, std=0.1)  # starts at zero, which would hide mistakes
    return model, data


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_terms_and_gradients_of_tiles_add_up_to_the_sections(
    stage: str, section: Section, compose: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "soscope.nn.graph_terms._unlinked", lambda products: products[0] * 0
    )  # leaves the sum over edges
    model, data = built(stage, section, compose)
    cutter = data.tiles.cutters[0]  # type: ignore[union-attr]
    cores = cores_of(section, 60)
    tiles = [as_double(cutter(core, len(cores))) for core in cores]
    assert all(len(t.keys) < section.n_spots for t in tiles), "a halo that is the whole section tests nothing"
    assert {len(t.keys) > t.n_core for t in tiles} == {True}

    def terms_of(tiles: list) -> list[torch.Tensor]:
        found = []
        losses = [model.losses(t, 3) for t in tiles]
        for name in ("reconstruction", "kl", "graph"):
            total = sum(part[name] for part in losses)
            gradients = torch.autograd.grad(total, list(model.parameters()), retain_graph=True, allow_unused=True)
            found += [total.detach(), *[g for g in gradients if g is not None]]
        return found

    for whole, parts in zip(terms_of([as_double(cutter())]), terms_of(tiles), strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-8, atol=1e-10)


def test_the_pairs_of_a_tile_are_sampled_without_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    row, col = torch.arange(39), torch.arange(1, 40)
    graph = SparseMatrix(row, col, torch.full((39,), 0.3, dtype=torch.float64), (40, 40))
    core = torch.arange(40) < 25
    edges = with_diagonal(graph, core)
    everyone = torch.ones(40, dtype=torch.bool)
    products = v @ v.T
    first = (
        softplus(products)[core].sum() * 500 / 40
    )  # as docs/scale.md defines it: core rows against the tile's, scaled up
    second = (v[:25] * v[1:26]).sum() * 0.3 + v[core].square().sum()
    expected = (first - second) / 500**2
    values = []
    for _ in range(400):
        draw = lambda n: torch.rand(n, 2, generator=generator)  # noqa: E731
        term = SampledPairs(edges, core.nonzero()[:, 0], everyone, 500, 100, draw)
        values.append(term([term.products(v)]))
    found = torch.stack(values)
    assert abs(found.mean() - expected) < 4 * found.std() / 20


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
@pytest.mark.parametrize("n_pairs", [0, 4096])
def test_features_in_blocks_give_the_same_losses_and_gradients(
    stage: str, n_pairs: int, section: Section, compose: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = built(stage, section, compose)
    model.settings = replace(model.settings, n_pairs=n_pairs)
    tile = as_double(data.tiles.cutters[0]())  # type: ignore[union-attr]
    found = []
    for largest in (LARGEST_BLOCK, 2 * len(tile.subspot_keys)):
        monkeypatch.setattr("soscope.stage_module.LARGEST_BLOCK", largest)
        tile.kept.clear()
        loss = model.losses(tile, 3)["loss"]
        found.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    for whole, blocks in zip(*found, strict=True):
        torch.testing.assert_close(blocks, whole, rtol=1e-9, atol=1e-12)


def test_results_do_not_depend_on_tiles_and_blocks(
    section: Section, compose: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = built("finetune", section, compose)
    model.float()
    results = []
    for cores in ([np.arange(section.n_spots)], cores_of(section, 50)):
        (latent,) = latent_means(model, map(data.result_cutters[0], cores), [section.n_spots])
        divider = Divider(model, data.result_cutters[0], latent, "conditional")
        blocks = divider.row_blocks()
        results.append(np.concatenate([divider.split(rows)["rna"].mean.toarray() for rows in blocks]))
        monkeypatch.setattr("soscope.enhance.LARGEST_RESULT", 6 * 100)
    assert len(blocks) > 5
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_rows_of_spots_that_are_scattered_still_add_up(compose: Callable, section: Section) -> None:
    order = np.random.default_rng(0).permutation(section.n_subspots)
    back = np.argsort(order)
    graph = replace(section.subspot_graph, edges=back[section.subspot_graph.edges])
    parent = section.parent[order].copy()
    parent[::9] = -1
    mixed = replace(
        section,
        parent=parent,
        image_features=section.image_features[order],
        subspot_xy_um=section.subspot_xy_um[order],
        subspot_graph=graph,
    )
    model, data = built("finetune", mixed, compose)
    model.float()
    (latent,) = latent_means(model, data.result_tiles, [mixed.n_spots])
    divider = Divider(model, data.result_cutters[0], latent, "conditional")
    whole = divider.split(np.arange(mixed.n_subspots))["rna"].mean.toarray()
    parts = [divider.split(rows)["rna"].mean.toarray() for rows in np.array_split(np.arange(mixed.n_subspots), 4)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-5, atol=1e-6)
    totals = np.zeros((mixed.n_spots, 6))
    np.add.at(totals, parent[parent >= 0], whole[parent >= 0])
    has = np.isin(np.arange(mixed.n_spots), parent)
    np.testing.assert_allclose(totals[has], mixed.modalities["rna"].x[has], rtol=1e-9)


def test_every_tile_comes_once_a_pass_on_whichever_device_and_resuming_goes_on() -> None:
    n_tiles, n_steps, world = 7, 5, 3
    orders = [TileOrder(n_tiles, n_steps, 0, rank, world) for rank in range(world)]
    taken = []
    for epoch in range(7):
        for order in orders:
            order.set_epoch(epoch)
        taken += [tile for step in zip(*orders, strict=True) for tile in step]
    for start in range(0, len(taken), n_tiles):
        assert sorted(taken[start : start + n_tiles]) == list(range(n_tiles))
    assert taken[:n_tiles] != taken[n_tiles : 2 * n_tiles]
    resumed = TileOrder(n_tiles, n_steps, 0, 1, world)
    resumed.set_epoch(4)
    orders[1].set_epoch(4)
    assert list(resumed) == list(orders[1])


def test_tiles_are_kept_while_they_fit_and_counted_in_bytes(section: Section) -> None:
    cutter = TileCutter(section, held_out=held_out_spots(section, 0, 0.1))
    cores = cores_of(section, 60)
    size = cutter(cores[0], len(cores)).n_bytes()
    assert size > cutter(cores[0]).image_features.numel() * 4
    store = TileStore([cutter], [cores], 2.5 * size / 1e9)
    first = store[0]
    assert store[0] is first
    for i in range(len(store)):
        store[i]
    assert store[len(store) - 1] is store[len(store) - 1]
    assert store[0] is not first
    assert Counter(np.concatenate([t.rows[: t.n_core].numpy() for t in store]).tolist()) == Counter(
        range(section.n_spots)
    )


def test_the_size_of_tiles_follows_the_memory() -> None:
    section = simulated_section(400, 7, 20, 8)
    need = 400 * bytes_per_spot(section, 128, LARGEST_BLOCK) / 1e9
    assert choose_tile_spots(section, "auto", need, 128, LARGEST_BLOCK, 1) == 400
    assert choose_tile_spots(section, "auto", need / 3.5, 128, LARGEST_BLOCK, 1) == 100
    assert choose_tile_spots(section, "auto", need, 128, LARGEST_BLOCK, 2) == 200
    assert choose_tile_spots(section, 50, need, 128, LARGEST_BLOCK, 1) == 50


def test_more_devices_than_tiles_is_an_error_with_advice() -> None:
    section = simulated_section(60, 7, 5, 3)
    with pytest.raises(ConfigError, match="3 devices, but only 2 tile.*trainer.devices=2.*data.tile_spots=auto"):
        module_of(section, Tiling(spots=30, n_devices=3))
    assert len(module_of(section, Tiling(n_devices=3)).tiles) == 3


@pytest.mark.parametrize("spots", [0, "many", 2.5])
def test_a_tile_of_no_size_is_refused(spots: object, refused: Callable) -> None:
    refused(["train", f"data.tile_spots={spots}"], ["data.tile_spots", "at least 1, or auto"])


@pytest.mark.slow
def test_a_run_in_small_tiles_is_the_same_with_workers_and_features_left_on_disk(
    soscope: Callable, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = []
    for workers, in_memory in ((0, 2**25), (0, 0), (1, 0)):
        monkeypatch.setattr("soscope.rows.IN_MEMORY", in_memory)
        monkeypatch.setattr("soscope.data.module.FEATURES_SHARE", 0)
        folder = tmp_path / f"{workers}-{in_memory}"
        words = [f"image.cache={cache}", "data.tile_spots=20", f"data.workers={workers}", f"hydra.run.dir={folder}"]
        assert soscope("train", *TINY, *words, "stages=[prepare,pretrain,finetune,enhance]") == 0
        features = Section.open(folder / "prepared" / "demo.zarr", ["rna"], 0).image_features
        assert isinstance(features, StoredRows) == (not in_memory)
        tables.append(anndata.read_h5ad(folder / "demo_rna.h5ad"))
    np.testing.assert_allclose(tables[1].X.toarray(), tables[0].X.toarray(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(tables[2].X.toarray(), tables[1].X.toarray())
    assert np.isfinite(tables[0].layers["sd"].toarray()).all()


def test_how_pairs_are_taken_follows_the_size_and_is_told(
    section: Section, compose: Callable, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soscope.nn.graph_terms.EXACT_UP_TO", section.n_spots)
    for stage in BUILD:
        model, data = built(stage, section, compose)
        model.float().training_step(data.tiles[0], 0)
    told = [r.getMessage() for r in log.records if "pairs of" in r.getMessage()]
    assert told == [
        f"pretrain: pairs of {section.n_spots:,} spots of a tile: all taken",
        f"finetune: pairs of {section.n_subspots:,} subspots of a tile: 262,144 sampled at a step (graph.n_pairs=0 takes all)",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("word", ["trainer.precision=bf16-mixed", "trainer.compile=true"])
def test_half_precision_and_compiled_layers_train_to_about_the_same_loss(
    word: str, trained: Path, soscope: Callable, cache: Path, tmp_path: Path
) -> None:
    only = ["stages=[prepare,pretrain,finetune]", f"image.cache={cache}", f"hydra.run.dir={tmp_path}"]
    assert soscope("train", *TINY, *only, word) == 0
    found, plain = (pd.read_csv(f / "metrics.csv")["held_out_loss"].to_numpy() for f in (tmp_path, trained))
    np.testing.assert_allclose(found, plain, rtol=0.02 if "bf16" in word else 1e-3)
    assert "bf16" not in word or not np.array_equal(found, plain)


def test_dry_run_tells_what_training_takes_and_trains_nothing(
    soscope: Callable, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["train", *TINY, f"image.cache={cache}", "data.tile_spots=20", f"hydra.run.dir={tmp_path / 'run'}"]
    assert soscope(*words, "dry_run=true") == 0
    out = capsys.readouterr().out
    for part in ("tiles", "parameters", "memory of a step", "pretrain", "finetune", "nothing was trained"):
        assert part in out
    assert not (tmp_path / "run" / "pretrain").exists()
    assert soscope(*words, "stages=[prepare,pretrain]") == 0
    assert (tmp_path / "run" / "pretrain" / "encoder.pt").is_file()
    assert "prepare: done before" in capsys.readouterr().out
