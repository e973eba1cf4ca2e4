"""Plain tables: together or apart, in pixels or micrometres, spots or cells; what bad ones say; real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from soscope import contract
from soscope.errors import ConfigError, DataError
from soscope.lattice import HexLattice
from soscope.prepare.pipeline import prepare_sections
from soscope.read import TableReader

PITCH = 12.0


def write_tables(folder: Path) -> pd.DataFrame:
    """Write ``counts.tsv.gz``, ``places.csv`` and ``he.png`` of 6 x 5 hexagonal spots; return positions and counts together."""
    rng = np.random.default_rng(0)
    row, nth = (a.ravel() for a in np.mgrid[:6, :5])
    col = 2 * nth + row % 2
    names = [f"spot{i}" for i in range(30)]
    counts = pd.DataFrame(rng.poisson(5.0, (30, 12)), index=names, columns=[f"gene_{i}" for i in range(12)])
    x, y = (HexLattice().unit_xy(row, col) * PITCH + PITCH).T
    places = pd.DataFrame({"barcode": names, "px": x, "py": y, "r": row, "c": col, "cluster": "a"}, index=names)
    folder.mkdir(parents=True)
    counts.to_csv(folder / "counts.tsv.gz", sep="\t")
    places.iloc[::-1].to_csv(folder / "places.csv", index=False)
    Image.fromarray(rng.integers(0, 255, (90, 80, 3), dtype=np.uint8)).save(folder / "he.png")
    return places.join(counts)


APART = {"counts_file": "counts.tsv.gz", "positions_file": "places.csv", "x": "px", "y": "py"}
ARRAY = {"array_row": "r", "array_col": "c"}


def test_tables_apart_and_together_give_the_same_section(tmp_path: Path, compose: Callable, cache: Path) -> None:
    together = write_tables(tmp_path / "liver")
    together.to_csv(tmp_path / "liver.csv", index=False)
    apart = TableReader(**APART, **ARRAY, names="barcode", image_file="he.png").read(tmp_path / "liver")
    one = TableReader(x="px", y="py", names="barcode", ignore=["cluster"], **ARRAY).read(tmp_path / "liver.csv")
    assert apart.name == one.name == "liver"
    for raw in (apart, one):
        table = raw.sdata.tables["rna"]
        assert table.obs_names.tolist() == together["barcode"].tolist()
        np.testing.assert_array_equal(table.X.toarray(), together.filter(like="gene"))
        np.testing.assert_array_equal(table.obs[["array_row", "array_col"]], together[["r", "c"]])
        np.testing.assert_allclose(table.obsm["spatial"], together[["px", "py"]])
    assert contract.image_of(apart.sdata).shape == (3, 90, 80)
    assert contract.image_of(one.sdata) is None
    cfg = compose("data=table", "data.path=liver", "platform=visium", "image=color", f"image.cache={cache}")
    prepared = prepare_sections(cfg, [apart.sdata])[0]
    assert contract.facts(prepared)["um_per_px"] == pytest.approx(100 / PITCH)


def test_a_lattice_is_found_from_positions_and_micrometres_become_pixels(tmp_path: Path) -> None:
    together = write_tables(tmp_path / "s")
    found = TableReader(**APART, lattice="hex", array_row="none").read(tmp_path / "s").sdata.tables["rna"].obs
    np.testing.assert_array_equal(found[["array_row", "array_col"]], together[["r", "c"]])
    raw = TableReader(**APART, unit="um", um_per_px=2.0, image_file="he.png", modality="protein").read(tmp_path / "s")
    np.testing.assert_allclose(raw.sdata.tables["protein"].obsm["spatial"], together[["px", "py"]] / 2)


def test_rows_are_cells_with_a_grid(tmp_path: Path, compose: Callable) -> None:
    rng = np.random.default_rng(0)
    cells = pd.DataFrame(
        {"cell": [f"c{i}" for i in range(400)], "x": rng.uniform(0, 200, 400), "y": rng.uniform(0, 200, 400)}
    )
    cells = cells.join(pd.DataFrame(rng.poisson(2.0, (400, 6)), columns=list("ABCDEF")))
    cells.to_csv(tmp_path / "crop.csv.gz", index=False)
    raw = TableReader(grid_um=40, unit="px", um_per_px=0.5).read(tmp_path / "crop.csv.gz")
    table, subspots = raw.sdata.tables["rna"], raw.sdata.shapes["subspots"]
    assert raw.name == "crop"
    expected = cells.groupby([cells["y"] * 0.5 // 40, cells["x"] * 0.5 // 40])[list("ABCDEF")].sum()
    np.testing.assert_array_equal(table.X.toarray(), expected)
    np.testing.assert_array_equal(raw.truth.X.toarray(), cells[list("ABCDEF")])
    away = cells[["x", "y"]].to_numpy() - table.obsm["spatial"][subspots["parent"]]
    assert np.abs(away).max() <= 40  # half of 40 um, in pixels of 0.5 um
    cfg = compose("data=table", "data.path=crop", "platform=xenium", "data.options.grid_um=40", "image=none")
    prepared = prepare_sections(cfg, [raw.sdata])[0]
    assert contract.facts(prepared)["um_per_px"] == pytest.approx(0.5)
    assert prepared.shapes["subspots"]["name"].tolist() == cells["cell"].tolist()


def test_spots_in_one_table_alone_are_left_out(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    write_tables(tmp_path / "s")
    places = pd.read_csv(tmp_path / "s" / "places.csv")
    places.iloc[3:].to_csv(tmp_path / "s" / "places.csv", index=False)
    assert TableReader(**APART).read(tmp_path / "s").sdata.tables["rna"].n_obs == 27
    assert "left out 3 spots without a position, 0 without counts" in log.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"x": "px"}, "no column y; it has barcode, px, py"),
        ({"names": "cell"}, "no column 'cell'"),
        ({"x": "px", "y": "py"}, "columns hold words.*feature 'barcode', 'spot0'.*data.options.ignore"),
        ({"x": "px", "y": "py", "ignore": ["barcode", "cluster", "area"]}, "names 'area', which is no column"),
        ({"counts_file": "nothing.csv"}, "nothing.csv' is missing"),
        ({"counts_file": "he.png"}, "'.png' is not understood. Give a table as .csv, .tsv, .txt"),
    ],
)
def test_what_wrong_options_say(options: dict, says: str, tmp_path: Path) -> None:
    write_tables(tmp_path / "s").to_csv(tmp_path / "s" / "all.csv")
    with pytest.raises((DataError, ConfigError), match=says):
        TableReader(**({"counts_file": "all.csv"} | options)).read(tmp_path / "s")


def test_what_wrong_files_say(tmp_path: Path) -> None:
    together = write_tables(tmp_path / "s")
    for path, says in ((tmp_path / "x", "does not exist"), (tmp_path / "s", "is a folder. Name its table of counts")):
        with pytest.raises(DataError, match=says):
            TableReader().read(path)
    with pytest.raises(ConfigError, match="unit=px with grid_um needs um_per_px"):
        TableReader(grid_um=5)
    with pytest.raises(ConfigError, match="unit=um with image_file needs um_per_px"):
        TableReader(unit="um", image_file="he.png")
    with pytest.raises(ConfigError, match="unit=mm is unknown. Choose from: px, um"):
        TableReader(unit="mm")
    spoilt = together.drop(columns=["barcode", "cluster"])
    for i, (change, says) in enumerate(
        (
            (spoilt.rename(columns={"gene_1": "gene_0"}), "1 feature names occur more than once.*'gene_0'"),
            (spoilt.rename(index={"spot1": "spot0"}), "spot 'spot0' has more than one position"),
            (spoilt.assign(px=np.nan), "30 spots have no position"),
            (spoilt.assign(r=0.5), "30 of 30 spots have no whole numbers as array_row"),
        )
    ):
        change.to_csv(tmp_path / f"{i}.csv")
        with pytest.raises(DataError, match=says):
            TableReader(x="px", y="py", **ARRAY).read(tmp_path / f"{i}.csv")
    (tmp_path / "short.csv").write_text("a,b\n1,2,3,4\n")
    with pytest.raises(DataError, match="2 names in the first line, 4 columns"):
        TableReader().read(tmp_path / "short.csv")


@pytest.mark.real
def test_real_visium_without_array_coordinates(data: Path, compose: Callable) -> None:
    reader = TableReader(names="barcode", x="aligned_x", y="aligned_y", lattice="hex")
    raw = reader.read(data / "breast_visium_xenium" / "eevee.csv.gz")
    assert raw.sdata.tables["rna"].shape == (709, 18085)
    cfg = compose("data=table", "data.path=eevee", "platform=visium", "image=none")
    assert len(prepare_sections(cfg, [raw.sdata])[0].shapes["subspots"]) == 709 * 7


@pytest.mark.real
@pytest.mark.parametrize(("crop", "n"), [("bulbasaur", 8572), ("squirtle", 7963)])
def test_real_xenium_cells(crop: str, n: int, data: Path, compose: Callable) -> None:
    reader = TableReader(x="x_centroid", y="y_centroid", unit="um", ignore=["area"], grid_um=50)
    raw = reader.read(data / "xenium_breast_crops" / f"{crop}.csv.gz")
    assert raw.truth.shape == (n, 313)
    assert raw.sdata.tables["rna"].X.sum() == raw.truth.X.sum()
    cfg = compose("data=table", "data.path=x", "platform=xenium", "data.options.grid_um=50", "image=none")
    facts = contract.facts(prepare_sections(cfg, [raw.sdata])[0])
    assert facts["um_per_px"] == pytest.approx(1)
