"""The released program's folder, the truth beside it, and subspots that come with a section."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import AnnData
from conftest import QUICK
from omegaconf import DictConfig
from scipy import sparse
from spatialdata import SpatialData

from soscope import contract
from soscope.data.section import Section
from soscope.errors import DataError
from soscope.prepare.graphs import nearest_edges, neighbour_edges
from soscope.prepare.pipeline import prepare_sections
from soscope.read import DemoReader, ReleasedReader, read_truth

SIDE, S, PITCH = 5, 2, 40
N, K = SIDE * SIDE, S * S
VALUES = ("model=gaussian", "model.modalities.rna.representation=values", "platform=slide_dna", "data.features=all")
GRAPH = contract.GRAPH


def write_released(folder: Path, *, features: int = 0, counts: bool = False) -> Path:
    """Write 5 x 5 spots of 2 x 2 subspots and 3 features in the program's format; array rows run against pixels."""
    rng = np.random.default_rng(0)
    spot_row, spot_col = (a.T.ravel() for a in np.mgrid[:SIDE, :SIDE])
    row = (spot_row[:, None] * S + [1, 1, 0, 0]).ravel()
    col = (spot_col[:, None] * S + [1, 0, 1, 0]).ravel()
    step = PITCH / S
    pixels = {"imagerow": (500 - row * step).round(), "imagecol": (60 + col * step).round()}
    positions = pd.DataFrame({"index": np.arange(N * K), "row": row, "col": col, **pixels, "is_center": 0})
    label = rng.poisson(8.0, (N, 3)) / K if counts else rng.normal(size=(N, 3))
    folder.mkdir(parents=True)
    positions.to_csv(folder / "reordered_position_with_center.csv", index=False)
    np.save(folder / "label.npy", label)
    for name, xy in (("adj", np.stack([spot_col, spot_row], 1)), ("sub_adj", np.stack([col, row], 1))):
        edges = neighbour_edges(xy.astype(float), 1.2)
        loops = np.tile(np.arange(len(xy)), (2, 1))
        both = np.concatenate([edges, loops], 1)
        np.save(folder / f"{name}.npy", np.column_stack([both.T, rng.uniform(0.1, 1, both.shape[1])]))
    if features:
        np.save(folder / "support_feature.npy", rng.normal(size=(N * K, features)).astype(np.float32))
    return folder


def dense(file: Path, n: int) -> np.ndarray:
    """Lay rows i, j, weight out as a matrix without its diagonal, by a loop of its own."""
    matrix = np.zeros((n, n))
    for i, j, weight in np.load(file):
        if i != j:
            matrix[int(i), int(j)] = weight
    return matrix


def settings(compose: Callable, *overrides: str) -> DictConfig:
    return compose("data=soscope", "data.path=x", *VALUES, "image=none", *overrides)


def prepared(compose: Callable, folder: Path, *overrides: str) -> SpatialData:
    return prepare_sections(settings(compose, *overrides), [ReleasedReader().read(folder).sdata])[0]


# The reader -------------------------------------------------------------------------------------------------------------


def test_folder_gives_what_was_written(tmp_path: Path) -> None:
    folder = write_released(tmp_path / "liver", features=3)
    raw = ReleasedReader().read(folder)
    table = raw.sdata.tables["rna"]
    assert raw.name == "liver"
    np.testing.assert_array_equal(table.X, np.load(folder / "label.npy"))
    assert table.var_names.tolist() == ["feature_1", "feature_2", "feature_3"]
    assert table.obs["array_row"].tolist()[:6] == [0, 1, 2, 3, 4, 0]
    assert table.obs["array_col"].tolist()[:6] == [0, 0, 0, 0, 0, 1]
    np.testing.assert_allclose(table.obsm["spatial"][:2], [[70, 490], [70, 450]])
    shapes = raw.sdata.shapes["subspots"]
    assert shapes["name"][:5].tolist() == ["spot_1:0", "spot_1:1", "spot_1:2", "spot_1:3", "spot_2:0"]
    np.testing.assert_allclose([shapes.centroid.x.iloc[0], shapes.centroid.y.iloc[0]], [80, 480])
    assert shapes.area.to_numpy() == pytest.approx(np.full(N * K, (PITCH / S) ** 2))
    names = [f.name for f in ReleasedReader().inputs(folder)]
    assert names[:3] == ["label.npy", "adj.npy", "sub_adj.npy"]
    assert names[3:] == ["reordered_position_with_center.csv", "support_feature.npy"]


def test_counts_are_multiplied_back(tmp_path: Path) -> None:
    folder = write_released(tmp_path / "s", counts=True)
    table = ReleasedReader(counts=True, modality="protein").read(folder).sdata.tables["protein"]
    np.testing.assert_allclose(table.X.toarray(), np.load(folder / "label.npy") * K)
    values = write_released(tmp_path / "values")
    with pytest.raises(DataError, match="counts=true, but times K = 4 .*spot 'spot_1', feature 'feature_1'"):
        ReleasedReader(counts=True).read(values)


def test_names_of_features(tmp_path: Path) -> None:
    folder = write_released(tmp_path / "s")
    (folder / "names.csv").write_text("name\nCD3\nCD4\nCD8\n")
    for given in ("names.csv", ["CD3", "CD4", "CD8"]):
        table = ReleasedReader(feature_names=given).read(folder).sdata.tables["rna"]
        assert table.var_names.tolist() == ["CD3", "CD4", "CD8"]
    with pytest.raises(DataError, match="gives 2 names, label.npy has 3 columns"):
        ReleasedReader(feature_names=["a", "b"]).read(folder)
    with pytest.raises(DataError, match="feature names occur more than once"):
        ReleasedReader(feature_names=["a", "b", "a"]).read(folder)
    with pytest.raises(DataError, match=r"none.txt' is missing.*data\.options\.feature_names"):
        ReleasedReader(feature_names="none.txt").read(folder)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder.*label.npy"):
        ReleasedReader().read(tmp_path / "nowhere")
    for name in ("label.npy", "adj.npy", "sub_adj.npy"):
        folder = write_released(tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(DataError, match=f"'{name}' is missing"):
            ReleasedReader().read(folder)
    folder = write_released(tmp_path / "s")
    (folder / "reordered_position_with_center.csv").rename(folder / "places.csv")
    with pytest.raises(DataError, match="no positions of subspots.*places.csv.*positions_file"):
        ReleasedReader().read(folder)
    assert ReleasedReader(positions_file="places.csv").read(folder).name == "s"
    with pytest.raises(DataError, match="else.csv' is missing.*places.csv"):
        ReleasedReader(positions_file="else.csv").read(folder)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("reordered_position.csv", {"imagerow": "image_row", "imagecol": "image_col"}),
        ("enhanced_position_with_center.csv", {}),
        ("position_enhance_with_center.csv", {}),
    ],
)
def test_tables_of_positions_of_all_its_demos(name: str, columns: dict, tmp_path: Path) -> None:
    """Under the program's names and columns, without a centre too; ``index`` numbers another order, the file's counts."""
    folder = write_released(tmp_path / "s")
    expected = ReleasedReader().read(folder).sdata.shapes["subspots"]
    table = pd.read_csv(folder / "reordered_position_with_center.csv").drop(columns="is_center").rename(columns=columns)
    (folder / "reordered_position_with_center.csv").unlink()
    table.assign(index=table["index"][::-1].to_numpy()).to_csv(folder / name, index=False)
    reader = ReleasedReader()
    found = reader.read(folder).sdata.shapes["subspots"]
    assert found.equals(expected)
    assert reader.inputs(folder)[3].name == name


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("label", lambda a: a[0], r"rows and columns of numbers, found shape \(3,\)"),
        ("label", lambda a: np.where(a == a[1, 2], np.nan, a), "1 values are NaN or infinite .*row 1, column 2"),
        ("label", lambda a: a.astype(object), "cannot be read as numbers"),
        ("label", lambda a: a[:-1], "24 spots, the positions are 100.*contiguous"),
        ("adj", lambda a: a[:, :2], "rows i, j, weight, found 2 columns"),
        ("adj", lambda a: a + [1, 0, 0], "numbers 0 to 24"),
        ("sub_adj", lambda a: a * [1, 1, 2], r"weight in \[0, 1\]"),
        ("sub_adj", lambda a: np.concatenate([a, a[:1]]), "listed more than once"),
        ("support_feature", lambda a: a[:-1], "99 rows, the positions are 100"),
    ],
)
def test_arrays_that_do_not_fit(name: str, change: Callable, says: str, tmp_path: Path) -> None:
    folder = write_released(tmp_path / "s", features=2)
    np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")), allow_pickle=True)
    with pytest.raises(DataError, match=says):
        ReleasedReader().read(folder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="imagerow"), "no column imagerow"),
        (lambda t: t.assign(imagecol="left"), "100 of 100 rows hold no number in imagecol, imagerow .first: row 1"),
        (lambda t: t[:N], "25 spots, the positions are 25: expected two or more"),
    ],
)
def test_positions_that_do_not_fit(change: Callable, says: str, tmp_path: Path) -> None:
    file = write_released(tmp_path / "s") / "reordered_position_with_center.csv"
    change(pd.read_csv(file)).to_csv(file, index=False)
    with pytest.raises(DataError, match=says):
        ReleasedReader().read(file.parent)


@pytest.mark.parametrize("change", [lambda t: t.drop(columns=["row", "col"]), lambda t: t.assign(row=t["row"] * 1.37)])
def test_without_an_array_geometry_comes_from_pixels(change: Callable, tmp_path: Path, compose: Callable) -> None:
    file = write_released(tmp_path / "s") / "reordered_position_with_center.csv"
    change(pd.read_csv(file)).to_csv(file, index=False)
    raw = ReleasedReader().read(file.parent).sdata
    assert "array_row" not in raw.tables["rna"].obs
    out = prepared(compose, file.parent)
    assert contract.facts(out)["um_per_px"] == pytest.approx(121.3 / PITCH)
    assert set(out.shapes["subspots"].geom_type) == {"Polygon"}


# Through prepare --------------------------------------------------------------------------------------------------------


def test_graphs_features_and_subspots_come_through_as_they_are(
    compose: Callable, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    folder = write_released(tmp_path / "s", features=5)
    out = prepared(compose, folder, "image=efficientnet_lite0")
    np.testing.assert_array_equal(out["rna"].obsp[GRAPH].toarray(), dense(folder / "adj.npy", N))
    np.testing.assert_array_equal(out["image_features"].obsp[GRAPH].toarray(), dense(folder / "sub_adj.npy", N * K))
    given = np.load(folder / "support_feature.npy")
    np.testing.assert_array_equal(out["image_features"].X, given.astype(np.float16))
    np.testing.assert_allclose(out["rna"].X, np.load(folder / "label.npy"))
    facts = contract.facts(out)
    assert (facts["subspots_per_spot"], facts["extent"], facts["image_encoder"]) == (4, "given", "given")
    assert facts["um_per_px"] == pytest.approx(121.3 / PITCH)
    assert "100 subspots as given, 4 per spot (split.* is left out)" in log.text
    assert "5 columns (image=efficientnet_lite0 is left out)" in log.text


def test_without_features_the_image_has_no_columns_or_is_missed(compose: Callable, tmp_path: Path) -> None:
    folder = write_released(tmp_path / "s")
    assert prepared(compose, folder)["image_features"].shape == (N * K, 0)
    with pytest.raises(Exception, match="has no image; use image=none"):
        prepared(compose, folder, "image=color")


def test_wide_features_are_reduced_as_encoded_ones(compose: Callable, tmp_path: Path) -> None:
    folder = write_released(tmp_path / "s", features=12)
    assert prepared(compose, folder, "image.n_components=4")["image_features"].shape == (N * K, 4)


def test_sections_bring_features_alike(compose: Callable, tmp_path: Path) -> None:
    widths = [write_released(tmp_path / f"s{i}", features=i) for i in (0, 2, 3)]
    none, two, three = (ReleasedReader().read(folder).sdata for folder in widths)
    with pytest.raises(DataError, match="'s2' brings image features, 's0' does not"):
        prepare_sections(settings(compose), [none, two])
    with pytest.raises(DataError, match="2 and 3 image features"):
        prepare_sections(settings(compose), [two, three])


def test_platform_is_still_checked(compose: Callable, tmp_path: Path) -> None:
    raw = ReleasedReader().read(write_released(tmp_path / "s")).sdata
    with pytest.raises(DataError, match="contradicts platform=visium"):
        prepare_sections(settings(compose, "platform=visium"), [raw])


def test_a_run_from_end_to_end(soscope: Callable, tmp_path: Path) -> None:
    folder = write_released(tmp_path / "s", features=3)
    words = (
        "data=soscope",
        f"data.path={folder}",
        *VALUES,
        "image.encoder=none",
        "debug=fast",
        "trainer.progress=false",
        *QUICK,
    )
    assert soscope("train", *words, f"hydra.run.dir={tmp_path / 'run'}") == 0
    result = contract.open_section(tmp_path / "run" / "s.zarr")
    assert result["rna_enhanced"].shape == (N * K, 3)
    means = result["rna_enhanced"].X.reshape(N, K, 3).mean(1)
    np.testing.assert_allclose(means, np.load(folder / "label.npy"), atol=1e-4)


# Subspots of any other origin: cells -------------------------------------------------------------------------------------


def with_cells(rng: np.random.Generator, **changes: object) -> SpatialData:
    """A simulated section whose subspots are cells, as many as there happen to be and some under no spot."""
    sdata = DemoReader(rows=8, columns=6, n_features=20).read(None).sdata
    spots = np.asarray(sdata.tables["rna"].obsm["spatial"])
    xy = rng.uniform(spots.min(0), spots.max(0), (150, 2))
    away = np.linalg.norm(xy[:, None] - spots[None], axis=2)
    parent = np.where(away.min(1) < 9, away.argmin(1), -1)
    columns = {"parent": parent, "radius": 2.0} | changes
    index = pd.Index([f"cell_{i}" for i in range(150)])
    return contract.add_subspots(sdata, gpd.GeoDataFrame(columns, geometry=shapely.points(xy), index=index))


def test_cells_as_subspots(compose: Callable, rng: np.random.Generator, cache: Path) -> None:
    sdata = with_cells(rng)
    out = prepare_sections(compose(f"image.cache={cache}"), [sdata])[0]
    shapes, parent = out.shapes["subspots"], sdata.shapes["subspots"]["parent"].to_numpy()
    assert shapes["name"].tolist() == out["image_features"].obs_names.tolist() == [f"cell_{i}" for i in range(150)]
    np.testing.assert_array_equal(shapes["parent"], parent)
    names = out["rna"].obs_names
    assert shapes["parent_name"].tolist() == ["" if p < 0 else names[p] for p in parent]
    count = np.bincount(parent[parent >= 0], minlength=len(names))
    assert contract.facts(out)["subspots_per_spot"] == f"{count.min()} to {count.max()}"
    assert out["image_features"].n_vars > 0, "the image is encoded around the cells"
    graph = out["image_features"].obsp[GRAPH]
    assert abs(graph - graph.T).max() < 1e-12
    assert (np.diff(graph.indptr) > 0).mean() > 0.95
    section = Section.from_sdata(out, ["rna"])
    assert section.n_subspots == 150
    assert (section.parent < 0).any()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"parent": 999}, "150 of 150 are something else .*'cell_0'"),
        ({"parent": 0.5}, "row of a spot, 0 to"),
        ({"parent": "spot"}, "150 of 150"),
        ({"parent": -1}, "not -1 throughout; 0 of 150"),
    ],
)
def test_parents_that_cannot_be(changes: dict, says: str, compose: Callable, rng: np.random.Generator) -> None:
    with pytest.raises(DataError, match=says):
        prepare_sections(compose(), [with_cells(rng, **changes)])


def test_given_parts_that_do_not_fit(compose: Callable, rng: np.random.Generator) -> None:
    def given(features: np.ndarray, index: pd.Index | None = None, graph: object = None) -> SpatialData:
        sdata = with_cells(rng)
        shapes = sdata.shapes["subspots"]
        sdata = contract.add_subspots(sdata, shapes, features, graph)
        if index is not None:
            sdata.tables["image_features"].obs_names = index
        return sdata

    one = np.ones((150, 1), dtype=np.float32)
    with pytest.raises(DataError, match="finite and below 65504"):
        prepare_sections(compose(), [given(one * np.nan)])
    with pytest.raises(DataError, match="150 rows are not the 150 shapes.*'a0'.*'cell_0'"):
        prepare_sections(compose(), [given(one, pd.Index([f"a{i}" for i in range(150)]))])
    graph = sparse.csr_matrix(([2.0], ([0], [1])), shape=(150, 150))
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], found 2"):
        prepare_sections(compose(), [given(one, graph=graph)])
    sdata = with_cells(rng)
    del sdata.shapes["subspots"]["parent"]
    with pytest.raises(DataError, match="no column 'parent'"):
        prepare_sections(compose(), [sdata])
    sdata = with_cells(rng)
    sdata.shapes["subspots"]["name"] = "cell"
    with pytest.raises(DataError, match="'cell' occurs more than once"):
        prepare_sections(compose(), [sdata])


def test_spots_need_a_lattice_or_subspots(compose: Callable, rng: np.random.Generator) -> None:
    sdata = DemoReader(rows=8, columns=6).read(None).sdata
    del sdata.tables["rna"].obs["array_row"]
    with pytest.raises(DataError, match="no array_row and array_col.*bring subspots"):
        prepare_sections(compose(), [sdata])


def test_outlines_of_several_parts_keep_the_largest(compose: Callable, rng: np.random.Generator, cache: Path) -> None:
    sdata = with_cells(rng)
    shapes = sdata.shapes["subspots"].drop(columns="radius")
    parts = [shapely.MultiPolygon([p.buffer(3), shapely.affinity.translate(p, 9).buffer(1)]) for p in shapes.geometry]
    contract.add_subspots(sdata, shapes.set_geometry(parts))
    out = prepare_sections(compose(f"image.cache={cache}"), [sdata])[0].shapes["subspots"]
    assert set(out.geom_type) == {"Polygon"}
    assert out.area.to_numpy() == pytest.approx(np.full(150, math.pi * 9), rel=0.02)


@pytest.mark.parametrize(("n", "radius"), [(4, 1.2), (6, 1.2)])
def test_nearest_neighbours_of_a_lattice_are_the_lattices(n: int, radius: float) -> None:
    col, row = (a.ravel() for a in np.mgrid[:9, :9].astype(float))
    xy = np.stack([col, row], 1) if n == 4 else np.stack([col + row % 2 / 2, row * math.sqrt(3) / 2], 1)
    np.testing.assert_array_equal(nearest_edges(xy, n), neighbour_edges(xy, radius))


# The truth --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def truth() -> pd.DataFrame:
    return pd.DataFrame(np.arange(12.0).reshape(4, 3) / 10, columns=["a", "b", "c"])


def test_truth_by_name_from_every_kind_of_file(truth: pd.DataFrame, tmp_path: Path) -> None:
    truth.to_csv(tmp_path / "plain.csv", index=False)
    truth.to_csv(tmp_path / "numbered.csv")
    truth.set_axis(list("wxyz")).to_csv(tmp_path / "named.csv")
    AnnData(truth.set_axis(list("wxyz"))).write_h5ad(tmp_path / "table.h5ad")
    for name in ("plain.csv", "numbered.csv", "named.csv", "table.h5ad"):
        found = read_truth(tmp_path / name, ["c", "a"], 4)
        np.testing.assert_allclose(found.X, truth[["c", "a"]])
        assert found.var_names.tolist() == ["c", "a"]
    assert read_truth(tmp_path / "named.csv", ["a"], 4).obs_names.tolist() == list("wxyz")


def test_truth_by_order_where_names_are_unknown(truth: pd.DataFrame, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", truth.to_numpy())
    truth.to_csv(tmp_path / "bare.csv", index=False, header=False)
    truth.to_csv(tmp_path / "t.csv", index=False)
    for name in ("t.npy", "bare.csv"):
        np.testing.assert_allclose(read_truth(tmp_path / name, ["x", "y", "z"], 4).X, truth)
    for name in ("t.npy", "bare.csv", "t.csv"):
        found = read_truth(tmp_path / name, ["feature_3", "feature_1"], 4)
        np.testing.assert_allclose(found.X, truth[["c", "a"]])


def test_truth_that_does_not_fit(truth: pd.DataFrame, tmp_path: Path) -> None:
    file, array = tmp_path / "t.csv", tmp_path / "t.npy"
    truth.to_csv(file, index=False)
    np.save(array, truth.to_numpy())
    np.save(tmp_path / "flat.npy", np.ones(4))
    truth.assign(b="x").to_csv(tmp_path / "words.csv", index=False)
    truth.where(truth < 1.1).to_csv(tmp_path / "holes.csv", index=False)
    (tmp_path / "broken.h5ad").write_text("no")
    for found, features, n, says in (
        (tmp_path / "none.csv", ["a"], 4, "is not a file"),
        (tmp_path, ["a"], 4, "is not a file"),
        (tmp_path / "broken.h5ad", ["a"], 4, "cannot be read"),
        (file, ["a"], 5, "has 4 rows, the section 5 subspots"),
        (file, ["a", "gene"], 4, "lacks 1 of 2 features .first: 'gene'; the file has a, b, c"),
        (file, ["feature_4"], 4, "3 columns, the section 1 features, and there are no names"),
        (array, ["a", "b"], 4, "3 columns, the section 2 features"),
        (tmp_path / "flat.npy", ["a"], 4, r"found shape \(4,\)"),
        (tmp_path / "words.csv", ["a"], 4, "column 'b' holds words"),
        (tmp_path / "holes.csv", ["c"], 4, "1 values are NaN"),
    ):
        with pytest.raises(DataError, match=says):
            read_truth(found, features, n)
    (tmp_path / "t.txt").write_text("a")
    with pytest.raises(DataError, match="'.txt' is not understood. Give one of: .csv, .npy, .h5ad"):
        read_truth(tmp_path / "t.txt", ["a"], 1)


def test_truth_is_a_typed_key_that_the_record_keeps_in_full(compose: Callable, tmp_path: Path) -> None:
    from soscope.config import resolved

    assert compose().data.truth is None
    assert Path(resolved(compose("data.truth=t.csv"))["data"]["truth"]).is_absolute()


# The real folder --------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_folder(data: Path, compose: Callable) -> None:
    folder = data / "slide_dna_liver_x5"
    out = prepared(compose, folder)
    assert len(out.shapes["subspots"]) == 3600
    np.testing.assert_array_equal(out["rna"].obsp[GRAPH].toarray(), dense(folder / "adj.npy", 144))
    np.testing.assert_array_equal(out["image_features"].obsp[GRAPH].toarray(), dense(folder / "sub_adj.npy", 3600))
    assert out["rna"].obs["array_row"].max() == out["rna"].obs["array_col"].max() == 11


@pytest.mark.real
def test_real_order_is_the_truths(data: Path) -> None:
    """Means of contiguous blocks of the truth follow label.npy, and edges of the given graphs join given positions that touch."""
    folder = data / "slide_dna_liver_x5"
    sdata = ReleasedReader().read(folder).sdata
    table = sdata.tables["rna"]
    truth = read_truth(folder / "reordered_count.csv", table.var_names.tolist(), 3600).X
    means = truth.reshape(144, 25, 2).mean(1)
    for column in range(2):
        assert np.corrcoef(means[:, column], table.X[:, column])[0, 1] > 0.99
    shapes = sdata.shapes["subspots"]
    centres = np.column_stack([shapes.centroid.x, shapes.centroid.y])
    for xy, graph in ((centres, sdata["image_features"].obsp[GRAPH]), (table.obsm["spatial"], table.obsp[GRAPH])):
        i, j = graph.nonzero()
        length = np.linalg.norm(xy[i] - xy[j], axis=1)
        assert length.max() < 1.1 * length.min()
    assert shapes["parent"].is_monotonic_increasing
    last = centres.reshape(144, 25, 2)[:, -1]
    np.testing.assert_allclose(last, table.obsm["spatial"], atol=1.0)
