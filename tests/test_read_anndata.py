"""AnnData and SpatialData files the user already has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from anndata import AnnData, concat, read_h5ad
from PIL import Image
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity

from soscope import contract
from soscope.errors import ConfigError, DataError
from soscope.prepare.pipeline import prepare_sections
from soscope.read import AnnDataReader, DemoReader, SpatialDataReader

HIRES = 0.25


@pytest.fixture(scope="module")
def raw() -> SpatialData:
    return DemoReader(rows=8, columns=6, n_features=10).read(None).sdata


def plain(raw: SpatialData) -> AnnData:
    """A table as scanpy keeps it: full-resolution positions, a hires image of floats and its scale factor."""
    source = raw.tables["rna"]
    table = AnnData(X=source.X.copy(), obs=source.obs[["array_row", "array_col"]].copy(), var=source.var.copy())
    table.obsm["spatial"] = source.obsm["spatial"] / HIRES
    image = np.moveaxis(contract.image_of(raw), 0, -1).astype(np.float32) / 255
    table.uns["spatial"] = {"lib": {"images": {"hires": image}, "scalefactors": {"tissue_hires_scalef": HIRES}}}
    return table


@pytest.fixture
def file(raw: SpatialData, tmp_path: Path) -> Path:
    plain(raw).write_h5ad(tmp_path / "liver.h5ad")
    return tmp_path / "liver.h5ad"


def change(file: Path, how: Callable[[AnnData], AnnData | None]) -> Path:
    table = read_h5ad(file)
    table = how(table) or table
    table.write_h5ad(file)
    return file


def test_h5ad_gives_the_section_that_was_written(file: Path, raw: SpatialData, compose: Callable, cache: Path) -> None:
    read = AnnDataReader().read(file)
    assert read.name == "liver"
    table, source = read.sdata.tables["rna"], raw.tables["rna"]
    np.testing.assert_array_equal(table.X.toarray(), source.X.toarray())
    np.testing.assert_allclose(table.obsm["spatial"], source.obsm["spatial"])
    np.testing.assert_array_equal(contract.image_of(read.sdata), contract.image_of(raw))
    cfg = compose("data=anndata", f"data.path='{file}'", "platform=visium", "image=color", f"image.cache={cache}")
    prepared = prepare_sections(cfg, [read.sdata])[0]
    assert len(prepared.shapes["subspots"]) == 7 * source.n_obs


def test_layer_modality_lattice_and_spots_under_tissue(file: Path, raw: SpatialData) -> None:
    def spoil(table: AnnData) -> None:
        table.layers["raw"], table.X = table.X.copy(), table.X.log1p()
        table.obs = table.obs.rename(columns={"array_row": "a", "array_col": "b"}).assign(in_tissue=1)
        table.obs.iloc[0, 2] = 0
        table.uns.pop("spatial")

    change(file, spoil)
    read = AnnDataReader(layer="raw", modality="protein", lattice="hex").read(file).sdata
    table, source = read.tables["protein"], raw.tables["rna"][1:]
    np.testing.assert_array_equal(table.X.toarray(), source.X.toarray())
    for key in ("array_row", "array_col"):
        np.testing.assert_array_equal(
            table.obs[key] - table.obs[key].iloc[0], source.obs[key] - source.obs[key].iloc[0]
        )
    assert contract.image_of(read) is None


def test_features_are_parted_by_type(file: Path) -> None:
    kinds = ["Gene Expression"] * 8 + ["Antibody Capture"] * 2
    change(file, lambda t: t.var.insert(0, "feature_types", kinds))
    tables = AnnDataReader().read(file).sdata.tables
    assert {name: table.n_vars for name, table in tables.items()} == {"rna": 8, "protein": 2}


def test_cellxgene_keeps_a_flag_beside_libraries_and_the_full_image(file: Path, raw: SpatialData) -> None:
    """Its schema: ``is_single`` beside the library, and alone for Slide-seq; ``fullres`` is what positions are pixels of."""

    def published(table: AnnData) -> None:
        table.uns["spatial"]["is_single"] = True
        pixels = np.moveaxis(contract.image_of(raw), 0, -1)
        table.uns["spatial"]["lib"]["images"]["fullres"] = np.kron(pixels, np.ones((4, 4, 1), dtype=np.uint8))

    read = AnnDataReader().read(change(file, published)).sdata
    pixels = contract.image_of(raw)
    assert contract.facts(read)["image_source"] == "uns['spatial'], fullres"
    assert contract.image_of(read).shape == (3, 4 * pixels.shape[1], 4 * pixels.shape[2])
    np.testing.assert_allclose(read.tables["rna"].obsm["spatial"], raw.tables["rna"].obsm["spatial"] / HIRES)
    alone = AnnDataReader().read(change(file, lambda t: t.uns.__setitem__("spatial", {"is_single": True}))).sdata
    assert contract.image_of(alone) is None
    listed = AnnDataReader().read(change(file, lambda t: t.uns.__setitem__("spatial", np.zeros((2, 2))))).sdata
    assert contract.image_of(listed) is None
    with pytest.raises(ConfigError, match="no data.options.library=is_single.*Choose from: none"):
        AnnDataReader(library="is_single").read(file)


def test_a_named_slide_needs_no_library(file: Path, raw: SpatialData, tmp_path: Path) -> None:
    pixels = np.kron(np.moveaxis(contract.image_of(raw), 0, -1), np.ones((4, 4, 1), dtype=np.uint8))
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    change(file, lambda t: t.uns["spatial"].update(b={}))
    read = AnnDataReader(image_file=str(tmp_path / "slide.png")).read(file).sdata
    np.testing.assert_array_equal(contract.image_of(read), np.moveaxis(pixels, -1, 0))


def test_spots_whose_tissue_is_unknown_are_left_out(file: Path, raw: SpatialData) -> None:
    n = raw.tables["rna"].n_obs
    change(file, lambda t: t.obs.insert(0, "in_tissue", [np.nan, *[1.0] * (n - 1)]))
    assert AnnDataReader().read(file).sdata.tables["rna"].n_obs == n - 1


@pytest.mark.parametrize(
    ("how", "options", "says"),
    [
        (lambda t: setattr(t, "X", None), {}, "X is empty. Name the layer that holds the counts, of none"),
        (lambda t: t.obs.insert(0, "in_tissue", np.nan), {}, "none of the .* has in_tissue = 1"),
        (lambda t: t.obsm.pop("spatial") is None, {}, r"no positions obsm\['spatial'\].*data.options.positions"),
        (lambda t: None, {"layer": "raw"}, "no data.options.layer=raw; layers are: none"),
        (lambda t: None, {"library": "x"}, "no data.options.library=x.*Choose from: lib"),
        (lambda t: t.uns["spatial"].update(b={}), {}, "has .*lib.*Name one with data.options.library"),
        (lambda t: t.uns["spatial"]["lib"].pop("scalefactors") is None, {}, "no scalefactors.*tissue_hires_scalef"),
        (lambda t: t.obs.insert(0, "in_tissue", 0), {}, "none of the .* has in_tissue = 1"),
        (lambda t: None, {"image_file": "no.tif"}, "image_file='no.tif' is not a file"),
        (lambda t: t.obs.__setitem__("array_row", 0.5), {}, "no whole numbers as array_row"),
        (lambda t: concat([t, t]), {}, "spot names occur more than once"),
    ],
)
def test_what_bad_h5ad_files_say(how: Callable, options: dict, says: str, file: Path) -> None:
    with pytest.raises((DataError, ConfigError), match=says):
        AnnDataReader(**options).read(change(file, lambda t: out if isinstance(out := how(t), AnnData) else None))


def test_damaged_h5ad_and_none(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(DataError, match="cannot be read as .h5ad"):
        AnnDataReader().read(file)
    with pytest.raises(DataError, match="data.path='.*none.h5ad' is not a file"):
        AnnDataReader().read(file.with_name("none.h5ad"))


TURNED = np.array([[0.0, 2.0, 5.0], [-2.0, 0.0, 400.0], [0, 0, 1]])
"""From pixels of the image to ``global``: a quarter turn, twice the size, and a shift."""


def write_zarr(path: Path, raw: SpatialData, images: tuple[str, ...] = ("he",)) -> Path:
    """Write spots in ``global``, and an image with three scales that is turned against it."""
    source = raw.tables["rna"]
    xy = source.obsm["spatial"] @ TURNED[:2, :2].T + TURNED[:2, 2]
    index = [f"i{i}" for i in range(source.n_obs)]
    circles = gpd.GeoDataFrame({"radius": 5.0}, geometry=shapely.points(xy), index=index).iloc[::-1]
    shapes = {"circles": ShapesModel.parse(circles, transformations={"global": Identity()})}
    table = AnnData(X=source.X.copy(), obs=source.obs[["array_row", "array_col"]].copy(), var=source.var.copy())
    table.obs["region"], table.obs["instance"] = "circles", index
    table.obs["region"] = table.obs["region"].astype("category")
    table = TableModel.parse(table, region="circles", region_key="region", instance_key="instance")
    turned = Affine(TURNED, input_axes=("x", "y"), output_axes=("x", "y"))
    pixels = contract.image_of(raw)
    parse = {"dims": ("c", "y", "x"), "scale_factors": [2], "transformations": {"global": turned}}
    SpatialData(
        images={name: Image2DModel.parse(pixels, **parse) for name in images}, shapes=shapes, tables={"counts": table}
    ).write(path)
    return path


def test_zarr_is_brought_into_the_images_pixels(tmp_path: Path, raw: SpatialData, compose: Callable) -> None:
    path = write_zarr(tmp_path / "liver.zarr", raw)
    read = SpatialDataReader().read(path)
    assert read.name == "liver"
    table, source = read.sdata.tables["rna"], raw.tables["rna"]
    np.testing.assert_array_equal(table.X.toarray(), source.X.toarray())
    np.testing.assert_allclose(table.obsm["spatial"], source.obsm["spatial"], atol=1e-6)
    np.testing.assert_array_equal(contract.image_of(read.sdata), contract.image_of(raw))
    assert len(SpatialDataReader().inputs(path)) > 1
    cfg = compose("data=spatialdata", f"data.path='{path}'", "platform=visium", "image=none")
    assert len(prepare_sections(cfg, [read.sdata])[0].shapes["subspots"]) == 7 * source.n_obs


def test_rows_without_an_instance_are_named(tmp_path: Path, raw: SpatialData) -> None:
    sdata = read_zarr(write_zarr(tmp_path / "s.zarr", raw))
    sdata["circles"] = sdata["circles"].drop(index="i3")
    with pytest.raises(DataError, match=r"section 's': 1 of .* rows annotate no instance of 'circles' \(first: 'i3'"):
        SpatialDataReader().section(sdata, "s", "section 's'")


def test_what_bad_zarr_folders_say(tmp_path: Path, raw: SpatialData) -> None:
    path = write_zarr(tmp_path / "s.zarr", raw, images=("he", "dapi"))
    with pytest.raises(ConfigError, match="has .*he.*Name one with data.options.image"):
        SpatialDataReader().read(path)
    assert contract.facts(SpatialDataReader(image="he").read(path).sdata)["image_source"] == "he"
    for option in ("table", "region", "image"):
        with pytest.raises(ConfigError, match=f"no data.options.{option}=x. Choose from: "):
            SpatialDataReader(**({"image": "he"} | {option: "x"})).read(path)
    with pytest.raises(DataError, match="not a folder.*SpatialData"):
        SpatialDataReader().read(tmp_path / "nowhere")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(DataError, match="empty.zarr'"):
        SpatialDataReader().read(tmp_path / "empty.zarr")
