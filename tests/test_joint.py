"""Several tables that share the latent state: exact totals in each, and every table named has to be there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import spatialdata
import torch
from conftest import TINY

from soscope import contract
from soscope.build import build_finetune
from soscope.config_checks import check
from soscope.data.module import SectionsDataModule
from soscope.errors import ConfigError
from soscope.prepare.pipeline import prepare_sections
from soscope.read import DemoReader
from soscope.report.figures import words_of
from soscope.schema import ModalityConfig

PEAKS = "data.features={atac: all, rna: 10}"


def run_joint(soscope: Callable, cache: Path, folder: Path, *words: str) -> spatialdata.SpatialData:
    shown = ["report.n_features=1", "report.dpi=30", f"image.cache={cache}", f"hydra.run.dir={folder}"]
    assert soscope("train", *TINY, *words, *shown) == 0
    return spatialdata.read_zarr(folder / "demo.zarr")


def subspot_sums(sdata: spatialdata.SpatialData, table: str) -> np.ndarray:
    enhanced = sdata.tables[contract.enhanced_name(table)]
    x = enhanced.X.toarray() if hasattr(enhanced.X, "toarray") else np.asarray(enhanced.X)
    totals = np.zeros((sdata.tables[table].n_obs, x.shape[1]))
    np.add.at(totals, enhanced.obs["parent"].to_numpy(), x)
    return totals


def test_proteins_and_rna_share_z_and_both_add_up(soscope: Callable, cache: Path, tmp_path: Path) -> None:
    sdata = run_joint(
        soscope, cache, tmp_path / "run", "model=joint_poisson_nb", "data.features={protein: all, rna: 10}"
    )
    for table, n in (("protein", 20), ("rna", 10)):
        observed = sdata.tables[table].X.toarray()
        assert observed.shape[1] == n
        np.testing.assert_allclose(subspot_sums(sdata, table), observed, atol=1e-9)
        assert anndata.read_h5ad(tmp_path / "run" / f"demo_{table}.h5ad").n_vars == n
    np.testing.assert_array_equal(sdata.tables["rna"].obsm["X_soscope"], sdata.tables["protein"].obsm["X_soscope"])
    protein = sdata.tables["protein"].var_names[3]
    assert soscope("report", f"run={tmp_path / 'run'}", f"report.features=[{protein}]", "report.dpi=30") == 0
    drawn = {f.name for f in (tmp_path / "run" / "pictures").glob("demo_*.png")}
    assert f"demo_protein_{protein}.png" in drawn
    assert any(name.startswith("demo_rna_") for name in drawn), "a table without the feature shows its first"


def test_components_of_peaks_average_and_rna_adds_up(soscope: Callable, cache: Path, tmp_path: Path) -> None:
    sdata = run_joint(soscope, cache, tmp_path / "run", "model=joint_gaussian_nb", PEAKS)
    np.testing.assert_allclose(subspot_sums(sdata, "rna"), sdata.tables["rna"].X.toarray(), atol=1e-9)
    np.testing.assert_allclose(subspot_sums(sdata, "atac") / 7, np.asarray(sdata.tables["atac"].X), atol=1e-4)
    assert sdata.tables["atac"].var_names[0] == "PC1"
    assert words_of(sdata, "rna").observed == "observed / K"
    assert words_of(sdata, "atac").observed == "observed", "averages are shown as they are"


def test_joint_log_probability_is_the_sum_over_tables(compose: Callable, cache: Path, tmp_path: Path) -> None:
    cfg = compose("model=joint_poisson_nb", f"image.cache={cache}", "data.features={protein: 5, rna: 8}")
    (sdata,) = prepare_sections(cfg, [DemoReader(rows=10, columns=8).read(None).sdata])
    contract.write_section(sdata, tmp_path / "demo.zarr")
    data = SectionsDataModule([tmp_path / "demo.zarr"], list(cfg.model.modalities))
    data.setup()
    model, tile = build_finetune(cfg, data).eval(), data.result_tiles[0]
    z = torch.randn(len(tile.keys), cfg.model.n_latent)
    with torch.no_grad():
        found, _ = model.evaluate(tile, z, None, with_graph=False)
        expected = torch.zeros_like(found)
        for name, p in model.decode(tile, z).items():
            mu = tile.parent.sum(p["mu"])
            x = tile.core_profiles(name)
            if "phi" in p:
                size = mu / p["phi"]
                single = torch.distributions.NegativeBinomial(size, logits=p["phi"].log().expand_as(mu)).log_prob(x)
            else:
                single = torch.distributions.Poisson(mu).log_prob(x)
            expected += single.sum(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


def test_a_joint_run_needs_every_table_it_names(compose: Callable) -> None:
    raw = DemoReader(rows=10, columns=8, n_proteins=0).read(None).sdata
    with pytest.raises(ConfigError, match="needs a table 'protein', section 'demo' has: rna, atac"):
        prepare_sections(compose("model=joint_poisson_nb", "image=none"), [raw])


@pytest.mark.parametrize("features", ["{rna: 3}", "{rna: 3, protein: 4, atac: 5}", "{rna: 3, protien: 4}"])
def test_features_of_each_table_are_named_once(features: str, compose: Callable) -> None:
    cfg = compose("model=joint_poisson_nb", f"data.features={features}")
    with pytest.raises(ConfigError, match=r"tables of model=joint_poisson_nb are protein, rna.*first that differs"):
        check(cfg)
    cfg.model.modalities = {t: ModalityConfig(likelihood="nb") for t in cfg.data.features}
    check(cfg)
