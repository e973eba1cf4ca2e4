"""Xenium: a small folder in its layout as a grid over transcripts and as cells in bins, and what bad ones say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from xenium_folder import ALIGNED, CONTROLS, GENES, PIXEL_UM, SIDE_UM, STEP_UM, write_xenium

from soscope import contract
from soscope.benchmark.merge import merge
from soscope.benchmarking import true_profiles
from soscope.errors import ConfigError, DataError
from soscope.lattice import make_lattice
from soscope.prepare.pipeline import prepare_sections
from soscope.read import XeniumReader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xenium(tmp_path_factory.mktemp("xenium") / "breast" / "outs", image=True)


def test_grid_counts_good_transcripts_of_genes(folder: Path, compose: Callable) -> None:
    raw = XeniumReader(grid_um=40).read(folder)
    table = raw.sdata.tables["rna"]
    assert raw.name == "breast"
    assert raw.truth is None
    assert table.var_names.tolist() == GENES
    transcripts = pd.read_parquet(folder / "transcripts.parquet")
    good = transcripts[(transcripts["qv"] >= 20) & ~transcripts["feature_name"].isin(CONTROLS)]
    expected = pd.crosstab([good["y_location"] // 40, good["x_location"] // 40], good["feature_name"])
    found = pd.DataFrame(table.X.toarray(), index=pd.MultiIndex.from_frame(table.obs[["array_row", "array_col"]]))
    np.testing.assert_array_equal(found.sort_index(), expected[GENES])
    np.testing.assert_allclose(table.obsm["spatial"], (table.obs[["array_col", "array_row"]].to_numpy() + 0.5) * 40)
    cfg = compose("data=xenium", f"data.path='{folder}'", "platform=xenium", "image=none", "data.options.grid_um=40")
    prepared = prepare_sections(cfg, [raw.sdata])[0]
    assert contract.facts(prepared)["um_per_px"] == pytest.approx(1)
    assert len(prepared.shapes["subspots"]) == 9 * (SIDE_UM // 40) ** 2
    assert XeniumReader(grid_um=40, min_qv=0).read(folder).sdata.tables["rna"].X.sum() > table.X.sum()


def test_cells_are_the_subspots_of_bins_and_their_counts_the_truth(folder: Path, compose: Callable) -> None:
    raw = XeniumReader(spots="cells").read(folder)
    table, cells, truth = raw.sdata.tables["rna"], raw.sdata.shapes["subspots"], raw.truth
    assert len(cells) == (SIDE_UM // STEP_UM) ** 2
    assert truth.obs_names.tolist() == cells["name"].tolist()
    sums = pd.DataFrame(truth.X.toarray()).groupby(cells["parent"].to_numpy()).sum()
    np.testing.assert_array_equal(table.X.toarray(), sums)
    written = pd.read_parquet(folder / "cells.parquet").set_index("cell_id").loc[cells["name"]]
    np.testing.assert_allclose(cells.geometry.centroid.x, written["x_centroid"], atol=1e-3)
    bins = table.obs[["array_row", "array_col"]].to_numpy()[cells["parent"]]
    np.testing.assert_array_equal(bins, written[["y_centroid", "x_centroid"]] // 50)
    cfg = compose("data=xenium", f"data.path='{folder}'", "platform=xenium", "image=none", "data.options.spots=cells")
    prepared = prepare_sections(cfg, [raw.sdata])[0]
    assert contract.facts(prepared)["extent"] == "given"
    np.testing.assert_array_equal(prepared.shapes["subspots"]["parent"], cells["parent"])
    assert true_profiles(cfg, raw, prepared).shape == (len(cells), prepared.tables["rna"].n_vars)


@pytest.mark.parametrize("spots", ["grid", "cells"])
def test_positions_are_brought_onto_the_aligned_image(folder: Path, spots: str) -> None:
    raw = XeniumReader(spots=spots, image="he_image").read(folder)
    um = (raw.sdata.tables["rna"].obs[["array_col", "array_row"]].to_numpy() + 0.5) * 50
    expected = (um / PIXEL_UM - ALIGNED[:, 2]) / ALIGNED[0, 0]
    np.testing.assert_allclose(raw.sdata.tables["rna"].obsm["spatial"], expected)
    assert contract.image_of(raw.sdata).shape == (3, 800, 840)
    if spots == "cells":
        cell, bin_centre = raw.sdata.shapes["subspots"].iloc[0], raw.sdata.tables["rna"].obsm["spatial"]
        away = np.array([cell.geometry.centroid.x, cell.geometry.centroid.y]) - bin_centre[cell["parent"]]
        assert np.abs(away).max() <= 25 / PIXEL_UM / ALIGNED[0, 0]


def test_bins_at_the_border_may_have_their_centre_beyond_the_image(tmp_path: Path, compose: Callable) -> None:
    """Of 410 um the ninth bin of 50 has its centre at 425: the image ends with the tissue, not with the bin."""
    folder = write_xenium(tmp_path / "s", image=True, side_um=410)
    transform = np.diag([410 / PIXEL_UM / 840, 410 / PIXEL_UM / 800, 1])
    np.savetxt(folder / "s_he_imagealignment.csv", transform, delimiter=",")
    for spots in ("grid", "cells"):
        raw = XeniumReader(spots=spots, image="he_image").read(folder)
        beyond = raw.sdata.tables["rna"].obsm["spatial"] > [840, 800]
        assert beyond.any(0).all()
    np.savetxt(folder / "s_he_imagealignment.csv", np.diag([0.9, 0.9, 1]) @ transform, delimiter=",")
    with pytest.raises(DataError, match="spots lie outside it"):
        XeniumReader(image="he_image").read(folder)


def test_what_bad_folders_and_options_say(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="spots=bins is unknown. Choose from: grid, cells"):
        XeniumReader(spots="bins")
    with pytest.raises(ConfigError, match="grid_um=0 must be a width"):
        XeniumReader(grid_um=0)
    with pytest.raises(DataError, match="no image 'he'; there are: he_image"):
        XeniumReader(image="he").read(folder)
    with pytest.raises(DataError, match="no transcript of a gene has qv of 60"):
        XeniumReader(min_qv=60).read(folder)
    broken = write_xenium(tmp_path / "s")
    cells = pd.read_parquet(broken / "cells.parquet")
    cells.iloc[::-1].to_parquet(broken / "cells.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        XeniumReader().read(broken)
    (broken / "transcripts.parquet").unlink()
    with pytest.raises(DataError, match="'transcripts.parquet' is missing"):
        XeniumReader().read(broken)
    with pytest.raises(DataError, match="not a folder.*Xenium"):
        XeniumReader().read(tmp_path / "nowhere")


def test_bins_merge_into_wider_ones(folder: Path, compose: Callable) -> None:
    """What a benchmark merges has a pitch of its own, which the bins' width must not contradict."""
    merged = merge(XeniumReader(grid_um=40).read(folder), "2x2", make_lattice("square"))
    cfg = compose("data=xenium", f"data.path='{folder}'", "platform=xenium", "image=none", "platform.pitch_um=80")
    assert contract.facts(prepare_sections(cfg, [merged.sdata])[0])["um_per_px"] == pytest.approx(1)
