"""The data contract: what a section is called inside SpatialData, from reading to the enhanced result.

`docs/data-contract.md` is the same in words. Elements of one section share the coordinate system ``global`` (pixels of
its image) and, once prepared, ``um``.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, set_transformation
from xarray import DataArray

from soscope.channels import RGB
from soscope.errors import DataError
from soscope.numbering import names_of, numbered_by_row

T = TypeVar("T")
FORMAT_VERSION = 3
ATTRS = "soscope"
IMAGE, SPOTS, SUBSPOTS, IMAGE_FEATURES = "image", "spots", "subspots", "image_features"
REGION, INSTANCE = "region", "instance"
GRAPH = "spatial_connectivities"
ROWS_OF_CHUNK = 4096
"""Rows of image features that are read together: a tile needs some rows, and all their columns."""
LIBRARY_SIZE, PARENT, PARENT_NAME, ENCODER = "library_size", "parent", "parent_name", "encoder"


def enhanced_name(modality: str) -> str:
    """Return the name of the table that holds the enhanced profiles of a modality."""
    return f"{modality}_enhanced"


def new_section(
    name: str,
    image: np.ndarray | DataArray | None,
    spot_names: list[str],
    xy_px: np.ndarray,
    radius_px: float,
    tables: dict[str, AnnData],
    **attrs: Any,
) -> SpatialData:
    """Assemble a section as a reader delivers it.

    Parameters
    ----------
    name
        Name of the section.
    image
        ``(channels, height, width)`` of uint8, uint16 or float, or ``None``; with stains from `named_channels`.
    spot_names, xy_px, radius_px
        Unique names, centres ``(n_spots, 2)`` as x, y in pixels of ``image``, and radius.
    tables
        Observed profiles per modality, rows in the order of ``spot_names``; ``obs`` holds lattice coordinates
        ``array_row`` and ``array_col``.
    attrs
        Further facts to keep: the reader's name, files, what was done.
    """
    images = {}
    if image is not None:
        pixels = np.asarray(image)
        images[IMAGE] = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=_channels(image))
    spots = gpd.GeoDataFrame({"radius": float(radius_px)}, geometry=shapely.points(xy_px), index=pd.Index(spot_names))
    annotated = {}
    for modality, table in tables.items():
        table = table.copy()
        table.obs_names = pd.Index(spot_names)
        table.obsm["spatial"] = np.asarray(xy_px, dtype=np.float64)
        annotated[modality] = annotate(table, SPOTS)
    facts = {"format_version": FORMAT_VERSION, "section": name, "modalities": list(tables), **attrs}
    return SpatialData(images=images, shapes={SPOTS: ShapesModel.parse(spots)}, tables=annotated, attrs={ATTRS: facts})


def add_subspots(
    sdata: SpatialData, shapes: gpd.GeoDataFrame, features: np.ndarray | None = None, graph: Any = None
) -> SpatialData:
    """Add subspots of its own to a section as a reader delivers it; `prepare` then takes them as they are.

    Parameters
    ----------
    sdata
        From `new_section`. A graph of its spots goes into ``obsp[GRAPH]`` of its tables before.
    shapes
        Polygons, or points with ``radius``, in pixels; unique names as index or column ``name``, and ``parent``: row of the
        spot, -1 under no spot.
    features, graph
        Image features ``(n_subspots, n_columns)`` and sparse weights ``(n_subspots, n_subspots)``, rows as in ``shapes``;
        what is ``None`` is made by `prepare`.
    """
    sdata.shapes[SUBSPOTS] = ShapesModel.parse(numbered_by_row(shapes))
    if features is not None or graph is not None:
        values = np.zeros((len(shapes), 0), dtype=np.float32) if features is None else features
        obs = pd.DataFrame({PARENT: shapes[PARENT].to_numpy()}, index=names_of(shapes))
        table = AnnData(X=values, obs=obs, var=pd.DataFrame(index=[f"image_{i}" for i in range(values.shape[1])]))
        if graph is not None:
            table.obsp[GRAPH] = graph
        sdata.tables[IMAGE_FEATURES] = annotate(table, SUBSPOTS, np.arange(len(shapes)))
    return sdata


def annotate(table: AnnData, region: str, instances: np.ndarray | None = None) -> AnnData:
    """Make a table annotate shapes: those of index ``instances``, or whose index are its row names."""
    table.obs[REGION] = pd.Categorical([region] * table.n_obs)
    table.obs[INSTANCE] = table.obs_names.to_numpy() if instances is None else instances
    table.uns.pop(TableModel.ATTRS_KEY, None)
    regions = [region]  # in a string instead of a list, spatialdata finds 'spots' inside 'subspots'
    return TableModel.parse(table, region=regions, region_key=REGION, instance_key=INSTANCE)


def facts(sdata: SpatialData) -> dict[str, Any]:
    """Return what soscope noted about a section; raise `DataError` for objects of another kind or version."""
    return _checked(sdata.attrs.get(ATTRS))


def _checked(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise DataError(f"this SpatialData object has no attrs['{ATTRS}']: it was not written by soscope.")
    if found.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"section '{found.get('section')}' has data format {found.get('format_version')}, this soscope reads "
            f"{FORMAT_VERSION}. Prepare it again in a new run folder."
        )
    return found


def modalities(sdata: SpatialData) -> list[str]:
    """Return the names of a section's tables of observed profiles."""
    other = {IMAGE_FEATURES, *(enhanced_name(name) for name in sdata.tables)}
    return [name for name in sdata.tables if name not in other]


def set_um(sdata: SpatialData, um_per_px: float) -> None:
    """Give every image and shapes element the coordinate system ``um`` beside ``global``."""
    systems = {"global": Identity(), "um": Scale([um_per_px, um_per_px], axes=("x", "y"))}
    for element in [*sdata.images.values(), *sdata.shapes.values()]:
        set_transformation(element, systems, set_all=True)


def image_of(sdata: SpatialData) -> np.ndarray | None:
    """Return the image as ``(channels, height, width)`` in memory, or ``None``."""
    if IMAGE not in sdata.images:
        return None
    return np.asarray(sdata.images[IMAGE].data)


def channels_of(sdata: SpatialData) -> list[str]:
    """Return the names of the image's channels; none without an image."""
    return [] if IMAGE not in sdata.images else [str(name) for name in sdata.images[IMAGE].coords["c"].values]


def write_section(sdata: SpatialData, path: Path) -> None:
    """Write a section as SpatialData zarr beside ``path``, then rename; image features in chunks of whole rows."""
    with beside(path) as new, quiet():
        sdata.write(new, update_sdata_path=False)
        if IMAGE_FEATURES in sdata.tables:
            values = sdata.tables[IMAGE_FEATURES].X
            root = zarr.open_group(new, mode="r+", use_consolidated=False)
            options = {"chunks": (ROWS_OF_CHUNK, max(values.shape[1], 1))}
            write_elem(root[f"tables/{IMAGE_FEATURES}"], "X", values, dataset_kwargs=options)
            zarr.consolidate_metadata(root.store)


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """Give the name of a folder to write, which then takes the place of ``path``; an old one is moved aside first."""
    new, old = path.with_name(path.name + ".partial"), path.with_name(path.name + ".old")
    if old.exists() and not path.exists():  # stopped between the two renames below: the old one is the good one
        old.rename(path)
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    yield new
    if path.exists():
        path.rename(old)
    new.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def write_table(table: AnnData, file: Path) -> None:
    """Write AnnData as h5ad beside ``file``, then rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    with quiet():
        table.write_h5ad(partial, compression="gzip")
    partial.replace(file)


def open_section(path: Path) -> SpatialData:
    """Open a written section; raise `DataError` when it is missing, damaged or of another format version."""
    sdata = _opened(path, read_zarr)
    facts(sdata)
    return sdata


def open_result(path: Path, with_shapes: int) -> SpatialData:
    """Open an enhanced section without what grows with subspots x features: values of tables on subspots stay on disk.

    Shapes are read of up to ``with_shapes`` subspots. Errors are those of `open_section`.
    """
    _, tables = open_tables(path)
    if IMAGE_FEATURES not in tables:
        raise DataError(f"'{path}' has no table '{IMAGE_FEATURES}'. Delete it and enhance again.")
    few = tables[IMAGE_FEATURES].n_obs <= with_shapes
    sdata = _opened(path, partial(read_zarr, selection=("images", "shapes") if few else ("images",)))
    with quiet():
        for name, table in tables.items():
            sdata.tables[name] = table
    return sdata


def open_tables(path: Path) -> tuple[dict[str, Any], dict[str, AnnData]]:
    """Read what was noted about a written section, and its tables alone.

    Values of image features and of enhanced tables stay on disk, in ``X`` and layers that are read where they are taken.

    Raises
    ------
    DataError
        As `open_section`.
    """

    def read(path: Path) -> tuple[dict[str, Any], dict[str, AnnData]]:
        root = zarr.open_group(path, mode="r")
        groups = dict(zarr.open_group(path / "tables", mode="r").groups())
        stored = {IMAGE_FEATURES, *map(enhanced_name, groups)}
        return _checked(root.attrs.get(ATTRS)), {n: _table_of(g, n in stored) for n, g in groups.items()}

    return _opened(path, read)


def _table_of(group: zarr.Group, stored: bool) -> AnnData:
    parts = {name: read_elem(group[name]) for name in ("obs", "var", "obsm", "obsp", "uns")}
    attrs = parts["uns"][TableModel.ATTRS_KEY]
    attrs[TableModel.REGION_KEY] = attrs[TableModel.REGION_KEY].tolist()  # a list comes back as an array
    values = _stored if stored else read_elem
    layers = {name: values(layer) for name, layer in group["layers"].members()}  # type: ignore[union-attr]
    return AnnData(X=values(group["X"]), layers=layers, **parts)


def _stored(values: Any) -> Any:
    """Return what a table holds without reading it: a sparse matrix by rows, or an array."""
    return values if isinstance(values, zarr.Array) else sparse_dataset(values)


def _opened(path: Path, read: Callable[[Path], T]) -> T:
    """Read a written section; `DataError` where it is missing or cannot be read."""
    if not path.exists():
        raise DataError(f"no section at '{path}'. Run the stage that writes it first (soscope prepare).")
    try:
        with quiet():
            return read(path)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"'{path}' cannot be read as SpatialData zarr ({error}). Delete it and prepare again."
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence notes of the file libraries that a user can do nothing about; errors still come through."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def named_channels(image: np.ndarray, names: Sequence[str]) -> DataArray:
    """Give the channels of an image ``(channels, height, width)`` names, such as stains, for `new_section`."""
    if len(names) != image.shape[0] or len(set(names)) < len(names):
        raise DataError(f"an image of {image.shape[0]} channels needs as many different names, found {list(names)}.")
    return DataArray(image, dims=("c", "y", "x"), coords={"c": list(names)})


def _channels(image: np.ndarray | DataArray) -> list[str]:
    if isinstance(image, DataArray):
        return [str(name) for name in image.coords["c"].values]
    colour = image.shape[0] == len(RGB) and image.dtype == np.uint8
    return list(RGB) if colour else [f"channel_{i}" for i in range(image.shape[0])]
