"""The covariate of sections that are trained together: what it is, and that it takes up what differs between them alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from soscope import contract
from soscope.build import build_finetune, build_pretrain, describe, n_covariates
from soscope.data.module import SectionsDataModule
from soscope.matrices import to_dense
from soscope.prepare.pipeline import prepare_sections
from soscope.read import DemoReader


def loaded(cfg: DictConfig, folder: Path, seeds: tuple[int, ...]) -> SectionsDataModule:
    raw = [DemoReader(rows=8, columns=6, seed=seed).read(None).sdata for seed in seeds]
    for sdata, seed in zip(raw, seeds, strict=True):
        sdata.attrs[contract.ATTRS]["section"] = f"s{seed}"
    paths = [folder / f"s{seed}.zarr" for seed in seeds]
    for sdata, path in zip(prepare_sections(cfg, raw), paths, strict=True):
        contract.write_section(sdata, path)
    data = SectionsDataModule(paths, ["rna"])
    data.setup()
    return data


def settings(compose: Callable, cache: Path, *overrides: str) -> DictConfig:
    return compose("data.path=[s1,s2]", "data.features=6", f"image.cache={cache}", *overrides)


@pytest.fixture
def pair(compose: Callable, cache: Path, tmp_path: Path) -> tuple[DictConfig, SectionsDataModule]:
    cfg = settings(compose, cache)
    return cfg, loaded(cfg, tmp_path, (1, 2))


def test_covariates_add_up_to_zero_and_an_unseen_section_is_the_average(pair: tuple) -> None:
    cfg, data = pair
    model = build_finetune(cfg, data)
    rows = torch.stack([model.covariates(tile) for tile in data.result_tiles])
    assert rows.tolist() == [[0.5, -0.5], [-0.5, 0.5]]
    model.settings.known_sections = False
    assert model.covariates(data.result_tiles[0]).tolist() == [0, 0]
    assert describe(cfg, data, "model").sizes["n_covariates"] == 2


def test_both_stages_and_both_networks_see_it(pair: tuple) -> None:
    cfg, data = pair
    for build in (build_pretrain, build_finetune):
        model, tile = build(cfg, data).eval(), data.tiles[0]
        visible = torch.ones_like(tile.core)
        z = torch.zeros(len(tile.keys), cfg.model.n_latent)
        with torch.no_grad():
            seen = model.encode(tile, visible).mean, model.hidden(tile, z)
            model.settings.known_sections = False
            other = model.encode(tile, visible).mean, model.hidden(tile, z)
        for one, two in zip(seen, other, strict=True):
            assert (one - two).abs().max() > 1e-3


def test_one_section_or_the_setting_leave_it_out(compose: Callable, cache: Path, pair: tuple) -> None:
    assert n_covariates(compose()) == 0
    cfg = settings(compose, cache, "model.section_covariate=false")
    assert n_covariates(cfg) == 0
    assert "n_covariates" not in describe(cfg, pair[1], "model").sizes
    assert build_finetune(cfg, pair[1]).covariates(pair[1].tiles[0]).shape == (0,)


def test_a_shift_between_equal_sections_is_taken_up_by_the_covariate(
    compose: Callable, cache: Path, tmp_path: Path
) -> None:
    """Two copies of one section, one with thrice the counts of one feature: with the covariate alone to train, the gap closes."""
    cfg = settings(compose, cache, "model.n_components=0")
    data = loaded(cfg, tmp_path, (1, 2))
    first, second = data.sections
    second.modalities["rna"].x = to_dense(first.modalities["rna"].x) * np.array([3, 1, 1, 1, 1, 1])
    second.modalities["rna"].library_size[:] = first.modalities["rna"].library_size
    model = build_finetune(cfg, data)
    chosen = [*model.decoder.from_covariates.parameters(), *model.decoder.heads.parameters()]
    optimizer = torch.optim.Adam(chosen, lr=0.02)
    z = [torch.zeros(len(t.keys), cfg.model.n_latent) for t in data.tiles]
    for _ in range(60):
        optimizer.zero_grad()
        loss = -sum(model.evaluate(t, h, None, False)[0].mean() for t, h in zip(data.tiles, z, strict=True))
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        mean = [model.decode(t, h)["rna"]["mu"].mean(0) for t, h in zip(data.tiles, z, strict=True)]
    ratio = (mean[1] / mean[0]).numpy()
    assert 2 < ratio[0] < 4.5
    assert np.abs(np.log(ratio[1:])).max() < 0.6
