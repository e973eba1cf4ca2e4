"""A SpatialData ``.zarr`` the user already has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from spatialdata import SpatialData, get_centroids, read_zarr
from spatialdata.transformations import get_transformation

from soscope import contract
from soscope.distances import typical_distance
from soscope.errors import ConfigError, DataError
from soscope.names import section_name
from soscope.read.array import array_obs
from soscope.read.base import RawSection, Reader, check_inside, check_names, existing_folder
from soscope.read.frame import image_frame, largest
from soscope.read.h5ad import counts_of
from soscope.read.visium import under_tissue

WHAT = "a SpatialData .zarr"


@dataclass
class SpatialDataReader(Reader, name="spatialdata"):
    """Read one table of a SpatialData object, the elements its rows annotate, and an image.

    Attributes
    ----------
    table, region, image
        Names of the table, of the shapes (or points, or labels) it annotates, and of the image; where there is only one, it is
        found, and of several images the one with most pixels. Several scales of an image are a pyramid.
    layer
        Layer that holds the counts; null: ``X``.
    lattice
        ``hex`` or ``square``: find array coordinates from positions, where ``obs`` has no ``array_row``, ``array_col``.
    modality
        Name of the table in a model; null: by ``var['feature_types']``, ``rna`` without.
    """

    table: str | None = None
    region: str | None = None
    image: str | None = None
    layer: str | None = None
    lattice: str | None = None
    modality: str | None = None

    def inputs(self, path: Path | None) -> list[Path]:
        """List the files of the table that is read, and the metadata of all elements."""
        folder = existing_folder(path, WHAT)
        tables = [folder / "tables" / self.table] if self.table else [folder / "tables"]
        inside = [f for folder in tables for f in sorted(folder.rglob("*")) if f.is_file()]
        return [f for f in (folder / "zarr.json", folder / ".zgroup", folder / "zmetadata") if f.is_file()] + inside

    def read(self, path: Path | None) -> RawSection:
        """Read one object; positions are brought into the image's pixels by the transformations it keeps."""
        folder = existing_folder(path, WHAT)
        return RawSection(self.section(_opened(folder), section_name(folder), f"'{folder}'", [folder]))

    def section(self, sdata: SpatialData, name: str, where: str, files: Sequence[Path] = ()) -> SpatialData:
        """Turn an object in memory into a section of a name; messages call it ``where``."""
        table, region, instances = self._annotating(sdata, where)
        chosen = _one(self.image, sdata.images if self.image else largest(sdata), "image", where)
        system = _shared_system(sdata, region, chosen, where)
        xy = _centres(sdata, region, instances, system, where)
        image, to_px = image_frame(sdata, system, chosen, typical_distance(xy))
        xy_px = to_px(xy)
        check_inside(xy_px, image, f"section '{name}', image '{chosen}'")
        obs = array_obs(table, xy, self.lattice, f"section '{name}'")
        tables = counts_of(table, obs, self.layer, self.modality, where)
        facts = {"reader": "spatialdata", "image_source": chosen or "none", "files": [str(f) for f in files]}
        radius = _radius(sdata, region, system) or typical_distance(xy) / 4
        radius, names = max(radius * to_px.pitch_px, 1e-6), table.obs_names.tolist()
        return contract.new_section(name, image, names, xy_px, radius, tables, **facts)

    def _annotating(self, sdata: SpatialData, where: str) -> tuple[AnnData, str, np.ndarray]:
        """Return the rows of the table under tissue, the element they annotate, and their instances of it."""
        name = _one(self.table, sdata.tables, "table", where)
        if name is None:
            raise DataError(f"{where} has no table. Give an object with counts.")
        where = f"{where}, table '{name}'"
        table = sdata.tables[name]
        attrs = table.uns.get("spatialdata_attrs", {})
        region = _one(self.region, np.atleast_1d(attrs.get("region", [])).tolist(), "region", where)
        if region is None or region not in sdata:
            raise DataError(
                f"{where} annotates '{region}', which is no element of this object, so spots have no positions."
            )
        table = table[(table.obs[attrs["region_key"]] == region).to_numpy()].copy()
        table = under_tissue(table, where) if "in_tissue" in table.obs else table
        check_names(table, where)
        return table, region, table.obs[attrs["instance_key"]].to_numpy()


def _opened(folder: Path) -> SpatialData:
    try:
        with contract.quiet():
            return read_zarr(folder)
    except Exception as error:
        raise DataError(
            f"'{folder}' cannot be read as SpatialData ({type(error).__name__}: {error}). Point data.path at {WHAT}."
        ) from error


def _one(asked: str | None, there: Iterable[str], option: str, where: str) -> str | None:
    """Return what was asked for, or the only one there is; ``None`` when there is none."""
    names = [str(name) for name in there]
    if asked is not None and asked not in names:
        raise ConfigError(f"{where}: no data.options.{option}={asked}. Choose from: {', '.join(names) or 'none'}.")
    if asked is None and len(names) > 1:
        raise ConfigError(f"{where} has {', '.join(names)}. Name one with data.options.{option}=...")
    return asked if asked is not None else next(iter(names), None)


def _radius(sdata: SpatialData, region: str, system: str) -> float | None:
    """Return the median radius of circles in a coordinate system; ``None`` of anything else."""
    circles = sdata[region]
    if "radius" not in getattr(circles, "columns", ()):
        return None
    matrix = get_transformation(circles, system).to_affine_matrix(("x", "y"), ("x", "y"))
    return float(np.median(circles["radius"]) * np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))


def _shared_system(sdata: SpatialData, region: str, image: str | None, where: str) -> str:
    """Return a coordinate system that region and image share, ``global`` first."""
    systems = get_transformation(sdata[region], get_all=True)
    if image is not None:
        linked = get_transformation(sdata[image], get_all=True)
        systems = [name for name in systems if name in linked]
    if not systems:
        raise DataError(
            f"{where}: '{region}' and image '{image}' share no coordinate system. Align them, and save both with "
            "a transformation to the same one."
        )
    return "global" if "global" in systems else next(iter(systems))


def _centres(sdata: SpatialData, region: str, instances: np.ndarray, system: str, where: str) -> np.ndarray:
    """Return x and y of every row's instance in a coordinate system, ``(n_spots, 2)``."""
    with contract.quiet():
        centres = get_centroids(sdata[region], coordinate_system=system).compute()
    rows = centres.index.get_indexer(pd.Index(instances))
    if (rows < 0).any():
        raise DataError(
            f"{where}: {int((rows < 0).sum()):,} of {len(rows):,} rows annotate no instance of '{region}' (first: "
            f"'{instances[rows < 0][0]}', which has '{centres.index[0]}', ...). Keep rows and instances that belong together."
        )
    return centres[["x", "y"]].to_numpy(np.float64)[rows]
