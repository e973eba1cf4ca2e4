"""Posterior draws on request: exact sums, moments, the same again, what is refused and what is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
import xarray
from conftest import QUICK

from soscope.config_checks import check
from soscope.draws import Drawing, Drawn, write_draws
from soscope.enhance import Block
from soscope.errors import ConfigError
from soscope.likelihoods import make_likelihood
from soscope.nn.parent import Parent

UNEVEN = Parent(torch.tensor([0, 0, 0, 1, -1, 2, 2, 1]), 3)
SPOTS = torch.tensor([[3.0, 0, 9, 70_000], [5, 1, 2, 60], [0, 0, 4, 20]], dtype=torch.float64)
SUBSPOTS, FEATURES = [f"s:{i}" for i in range(8)], list("abcd")
VARIANTS = [("nb", {}), ("poisson", {}), ("gaussian", {}), ("gaussian", {"average": False})]


def blocks_of(name: str, options: dict) -> Iterator[Block]:
    """Two blocks of two features, conditional on ``SPOTS``."""
    likelihood = make_likelihood(name, 4, **options)
    likelihood.fit(SPOTS.float(), 7 / 3)
    raw = torch.randn(8, 4, likelihood.n_parameters, generator=torch.Generator().manual_seed(1))
    params = {k: v.detach() for k, v in likelihood.double().parameters_of(raw.double()).items()}
    for columns in (slice(0, 2), slice(2, 4)):
        p = {k: v[..., columns] for k, v in params.items()}
        yield Block("rna", columns, likelihood.given_total(SPOTS[:, columns], p, UNEVEN))


def written(path: Path, name: str, options: dict, number: int, **other: object) -> xarray.Dataset:
    drawing = Drawing(**({"section": "t", "modality": "rna", "number": number, "seed": 0} | other))  # type: ignore[arg-type]
    blocks = (Drawn(np.arange(8), np.arange(8), block) for block in blocks_of(name, options))
    write_draws(path, blocks, SUBSPOTS, FEATURES, drawing)
    return xarray.open_zarr(path).load()


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_every_draw_adds_up_and_their_moments_are_the_posterior_s(name: str, options: dict, tmp_path: Path) -> None:
    number = 300
    kept = written(tmp_path / "draws.zarr", name, options, number)
    assert kept["draws"].dims == ("draw", "subspot", "feature")
    assert kept["subspot"].values.tolist() == SUBSPOTS
    assert kept["feature"].values.tolist() == FEATURES
    draws = torch.from_numpy(kept["draws"].values.astype(np.float64))
    counts = name != "gaussian"
    assert kept["draws"].dtype == (np.uint32 if counts else np.float32)
    spots = torch.stack([UNEVEN.mean(d) if options.get("average", not counts) else UNEVEN.sum(d) for d in draws])
    if counts:
        assert (spots == SPOTS).all()
    torch.testing.assert_close(spots, SPOTS.expand_as(spots), rtol=1e-5, atol=0.02)  # single precision of 70,000
    posteriors = [b.posterior for b in blocks_of(name, options)]
    mean, sd = (torch.cat([getattr(p, m)() for p in posteriors], 1) for m in ("mean", "sd"))
    assert (abs(draws.mean(0) - mean) <= 5 * sd / number**0.5 + 1e-6 * mean.abs()).all()


def test_draws_depend_on_seed_number_section_and_modality_alone(tmp_path: Path) -> None:
    first = written(tmp_path / "a.zarr", "nb", {}, 5)["draws"].values
    assert np.array_equal(first, written(tmp_path / "a.zarr", "nb", {}, 5)["draws"].values)
    assert np.array_equal(first[:2], written(tmp_path / "a.zarr", "nb", {}, 2)["draws"].values)
    assert not np.array_equal(first[0], first[1])
    for other in ({"seed": 1}, {"section": "u"}, {"modality": "atac"}):
        assert not np.array_equal(first, written(tmp_path / "a.zarr", "nb", {}, 5, **other)["draws"].values)
    assert [f.name for f in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("draws", [-1, 100_001])
def test_numbers_out_of_range(draws: int, compose: Callable) -> None:
    with pytest.raises(ConfigError, match=f"enhance.draws={draws} must lie between 0 and 100000"):
        check(compose(f"enhance.draws={draws}"))


def test_a_benchmark_keeps_none(compose: Callable) -> None:
    with pytest.raises(ConfigError, match="keeps no draws"):
        check(compose("enhance.draws=3", name="benchmark"))


def test_draws_of_a_finished_run(
    trained: Path, soscope: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    assert soscope("enhance", f"run={run}", *QUICK, "enhance.draws=200") == 0
    path = run / "demo_rna_draws.zarr"
    assert f"{path}  (200 posterior draws, zarr)" in capsys.readouterr().out
    assert "200 posterior draws: " in (run / "report.html").read_text()
    assert path.name in (run / "report.html").read_text()
    table, kept = anndata.read_h5ad(run / "demo_rna.h5ad"), xarray.open_zarr(path)
    assert kept.attrs["posterior"] == "conditional"
    assert kept["subspot"].values.tolist() == table.obs_names.tolist()
    assert kept["feature"].values.tolist() == table.var_names.tolist()
    draws, mean, sd = kept["draws"].values, table.X.toarray(), table.layers["sd"].toarray()
    observed = np.add.reduceat(mean, np.arange(0, len(mean), 7)).round()
    assert (draws.reshape(200, -1, 7, 12).sum(2) == observed).all()
    off = (draws.mean(0) - mean)[sd > 0] / sd[sd > 0] * 200**0.5
    assert np.mean(off**2) == pytest.approx(1, abs=0.1)
    assert (draws.mean(0) == mean)[sd == 0].all()
    table.layers["draw_7"] = kept["draws"][7].values  # as docs/data-contract.md has it
    assert soscope("enhance", f"run={run}", *QUICK, "enhance.draws=2") == 0
    assert np.array_equal(xarray.open_zarr(path)["draws"].values, draws[:2])
    assert soscope("enhance", f"run={run}", *QUICK, "enhance.draws=0") == 0
    assert not path.exists()
    assert "posterior draws" not in (run / "report.html").read_text()


def test_draws_of_the_prior_are_free_of_the_spots(trained: Path, soscope: Callable, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    assert soscope("enhance", f"run={run}", *QUICK, "enhance.draws=2", "enhance.posterior=prior") == 0
    kept = xarray.open_zarr(run / "demo_rna_draws.zarr")
    assert kept.attrs["posterior"] == "prior"
    assert kept["draws"].values.std() > 0
