"""DBiT-seq folders: both layouts, what bad ones say, and a real matrix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import read_h5ad
from dbit_folder import CHANNEL_PX, CHANNELS, write_barcodes, write_matrix

from soscope import contract
from soscope.errors import ConfigError, DataError
from soscope.prepare.pipeline import prepare_sections
from soscope.read import DbitReader


def test_matrix_of_spots_lies_where_the_channels_are(tmp_path: Path, compose: Callable, cache: Path) -> None:
    folder = write_matrix(tmp_path / "brain")
    reader = DbitReader(image_file="tissue.png", n_channels=CHANNELS)
    raw = reader.read(folder)
    table, written = raw.sdata.tables["rna"], pd.read_csv(folder / "Filtered_matrix.tsv", sep="\t", index_col=0)
    assert raw.name == "brain"
    assert table.n_obs == CHANNELS * (CHANNELS - 1)
    assert not any(name.startswith("1x") for name in table.obs_names)
    np.testing.assert_array_equal(table.X.toarray(), written.loc[table.obs_names])
    x, y = np.array([name.split("x") for name in table.obs_names], dtype=int).T
    np.testing.assert_array_equal(table.obs[["array_col", "array_row"]], np.column_stack([x, y]) - 1)
    np.testing.assert_allclose(table.obsm["spatial"][:, 0], 2 * CHANNEL_PX * (x - 1) + CHANNEL_PX / 2)
    assert [f.name for f in reader.inputs(folder)] == ["Filtered_matrix.tsv", "position.txt", "tissue.png"]
    cfg = compose("data=dbit", f"data.path='{folder}'", "platform=dbit", "image=color", f"image.cache={cache}")
    prepared = prepare_sections(cfg, [raw.sdata])[0]
    assert contract.facts(prepared)["um_per_px"] == pytest.approx(50 / (2 * CHANNEL_PX))
    assert len(prepared.shapes["subspots"]) == 9 * table.n_obs


def test_all_spots_are_read_without_a_list_and_without_an_image(tmp_path: Path) -> None:
    folder = write_matrix(tmp_path / "s")
    (folder / "position.txt").unlink()
    raw = DbitReader(n_channels=CHANNELS).read(folder)
    assert raw.sdata.tables["rna"].n_obs == CHANNELS**2
    assert contract.image_of(raw.sdata) is None


def test_anndata_with_barcodes_lies_where_the_barcodes_say(tmp_path: Path, compose: Callable) -> None:
    folder = write_barcodes(tmp_path / "s")
    raw = DbitReader(image_file="tissue_lowres_image.png").read(folder)
    table = raw.sdata.tables["rna"]
    order = {
        line.split("\t")[1]: line.split("\t")[0] for line in (folder / "barcode_list").read_text().split("\n") if line
    }
    b, a = (np.array([int(order[name[part]][1:]) for name in table.obs_names]) for part in (slice(8), slice(8, 16)))
    np.testing.assert_array_equal(table.obs["array_col"], a - 1)
    np.testing.assert_array_equal(table.obs["array_row"], b - 1)
    side = (2 * CHANNELS - 1) * CHANNEL_PX
    np.testing.assert_allclose(table.obsm["spatial"], (np.column_stack([a, b]) - 0.5) * side / CHANNELS)
    written = read_h5ad(folder / "section.h5ad")
    np.testing.assert_array_equal(np.asarray(table.X), written[table.obs_names].X)
    cfg = compose("data=dbit", f"data.path='{folder}'", "platform=dbit", "image=none")
    assert len(prepare_sections(cfg, [raw.sdata])[0].shapes["subspots"]) == 9 * CHANNELS**2


def test_what_bad_folders_say(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder.*XxY"):
        DbitReader().read(tmp_path / "nowhere")
    folder = write_matrix(tmp_path / "s")
    with pytest.raises(DataError, match=r"rows are not named XxY, 1 to 4 .*n_channels"):
        DbitReader(n_channels=4).read(folder)
    (folder / "position.txt").write_text("90x90")
    with pytest.raises(DataError, match="lists none of the 64 spots"):
        DbitReader(n_channels=CHANNELS).read(folder)
    (folder / "Filtered_matrix.tsv").unlink()
    with pytest.raises(DataError, match=r"Filtered_matrix.tsv' is missing.*counts_file"):
        DbitReader().read(folder)
    folder = write_barcodes(tmp_path / "b")
    (folder / "barcode_list").write_text("A1 ACGT\n")
    with pytest.raises(DataError, match="cannot be read.*8 bases"):
        DbitReader().read(folder)
    (folder / "barcode_list").unlink()
    with pytest.raises(DataError, match="0 files .*barcode_list"):
        DbitReader().read(folder)
    (folder / "other.h5ad").write_bytes((folder / "section.h5ad").read_bytes())
    with pytest.raises(ConfigError, match=r"other.h5ad, section.h5ad.*counts_file"):
        DbitReader().read(folder)


@pytest.mark.real
def test_real_matrix(data: Path) -> None:
    raw = DbitReader(counts_file="original_count.csv").read(data / "spatial_cite_human_skin")
    assert raw.sdata.tables["rna"].shape == (1618, 15)
    assert raw.sdata.tables["rna"]["45x44", "CPNE5"].X.toarray().item() == 0
