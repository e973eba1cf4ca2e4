"""Where spots and subspots of a section lie: split on the platform's lattice, or as the section brings them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.models import ShapesModel

from soscope import contract
from soscope.affine import Affine, fit_affine
from soscope.distances import typical_distance
from soscope.errors import ConfigError, DataError
from soscope.lattice import Lattice
from soscope.numbering import numbered_by_row
from soscope.prepare.given import Given, given_outlines, given_parts
from soscope.prepare.graphs import nearest_edges, neighbour_edges
from soscope.prepare.subspots import disc_share, split_spots

log = logging.getLogger("soscope")


@dataclass
class Placed:
    """A raw section with its geometry.

    Attributes
    ----------
    sdata, name
        The section as it was read.
    unit_xy
        Spot centres in pitches, ``(n_spots, 2)``.
    um_per_px
        Micrometres per pixel.
    shapes
        Outlines of subspots in pixels with ``parent`` and ``parent_name``, indexed by name.
    xy_px
        Centres of subspots in pixels, ``(n_subspots, 2)``.
    subspot_edges
        Neighbours among subspots, ``(2, n_edges)``.
    subspot_pitch_um
        Distance between subspots.
    given
        What the section brought; ``None`` when its spots were split here.
    """

    sdata: SpatialData
    name: str
    unit_xy: np.ndarray
    um_per_px: float
    shapes: gpd.GeoDataFrame
    xy_px: np.ndarray
    subspot_edges: np.ndarray
    subspot_pitch_um: float
    given: Given | None = None

    @property
    def parent(self) -> np.ndarray:
        """Spot of each subspot, -1 under no spot."""
        return self.shapes[contract.PARENT].to_numpy()

    @property
    def outlines(self) -> gpd.GeoDataFrame:
        """Outlines of subspots as an element of SpatialData, numbered."""
        return ShapesModel.parse(numbered_by_row(self.shapes))


def place(cfg: Any, sdata: SpatialData, lattice: Lattice) -> Placed:
    """Split the spots of a section, or take the subspots it brings.

    Raises
    ------
    ConfigError
        For a pitch that is not the one the section was read with.
    DataError
        For positions that contradict the platform, or subspots, graphs and image features that do not fit together.
    """
    name = contract.facts(sdata)["section"]
    _check_pitch(cfg, contract.facts(sdata).get("pitch_um"), name)
    table = sdata.tables[contract.modalities(sdata)[0]]
    brings = contract.SUBSPOTS in sdata.shapes
    known = _has_lattice(table, brings, name)
    unit_xy, affine = _on_lattice(cfg, table, lattice, name) if known else _by_distance(table, name)
    um_per_px = cfg.platform.pitch_um / affine.pitch_px
    if brings:
        return _as_given(cfg, sdata, name, unit_xy, affine, um_per_px)
    share = 1.0
    if cfg.split.extent == "spot":
        share = disc_share(lattice, cfg.platform.spot_diameter_um, cfg.platform.pitch_um)
    subspots = split_spots(lattice, unit_xy, affine, cfg.split.subspots, share)
    radius = lattice.radius_of(min(lattice.neighbour_radius)) / np.sqrt(cfg.split.subspots)
    return Placed(
        sdata=sdata,
        name=name,
        unit_xy=unit_xy,
        um_per_px=um_per_px,
        shapes=subspots.to_shapes(table.obs_names.tolist()),
        xy_px=subspots.xy_px,
        subspot_edges=neighbour_edges(subspots.xy_lattice, radius),
        subspot_pitch_um=cfg.platform.pitch_um * float(np.sqrt(share / cfg.split.subspots)),
    )


def subspots_per_spot(parent: np.ndarray, n_spots: int) -> int | str:
    """Return the number of subspots of every spot, or its range in words where it varies."""
    count = np.bincount(parent[parent >= 0], minlength=n_spots)
    return int(count[0]) if (count == count[0]).all() else f"{count.min()} to {count.max()}"


def _check_pitch(cfg: Any, pitch_um: float | None, name: str) -> None:
    """Refuse another pitch than the section's own, where its reader knows it (bins)."""
    if pitch_um is not None and abs(pitch_um - cfg.platform.pitch_um) > 1e-6 * pitch_um:
        raise ConfigError(
            f"section '{name}' was read as bins of {pitch_um:g} um, but platform={cfg.platform.name} has "
            f"platform.pitch_um={cfg.platform.pitch_um:g}. Give platform.pitch_um={pitch_um:g}, or the platform that goes with "
            f"the data."
        )


def _has_lattice(table: AnnData, brings_subspots: bool, name: str) -> bool:
    known = {"array_row", "array_col"} <= set(table.obs)
    if not known and not brings_subspots:
        raise DataError(
            f"section '{name}': its tables have no array_row and array_col, so the lattice its spots divide on is unknown. "
            "Add both columns to obs, or bring subspots of your own."
        )
    return known


def _on_lattice(cfg: Any, table: AnnData, lattice: Lattice, name: str) -> tuple[np.ndarray, Affine]:
    """Return spots in unit coordinates by their array coordinates, and the way to pixels."""
    row, col = (table.obs[key].to_numpy().astype(np.int64) for key in ("array_row", "array_col"))
    problem = lattice.contradiction(row, col)
    if problem:
        raise DataError(f"section '{name}' contradicts platform={cfg.platform.name}: {problem}.")
    unit_xy = lattice.unit_xy(row, col)
    return unit_xy, fit_affine(unit_xy, np.asarray(table.obsm["spatial"]), f"section '{name}'", cfg.platform.name)


def _by_distance(table: AnnData, name: str) -> tuple[np.ndarray, Affine]:
    """Return spots in pitches, a pitch being the typical distance to the nearest spot."""
    xy_px = np.asarray(table.obsm["spatial"], dtype=np.float64)
    pitch = typical_distance(xy_px)
    if not pitch > 0:
        raise DataError(
            f"section '{name}': {len(xy_px)} spots without array coordinates, most of them at one place, have no pitch. "
            "Add array_row and array_col to obs, or check the positions."
        )
    return xy_px / pitch, Affine(np.eye(2) * pitch, np.zeros(2))


def _as_given(cfg: Any, sdata: SpatialData, name: str, unit_xy: np.ndarray, affine: Affine, um_per_px: float) -> Placed:
    """Take shapes ``subspots``, and graphs and image features where there are any; neighbours are found by distance."""
    spots = sdata.shapes[contract.SPOTS].index.tolist()
    shapes = given_outlines(sdata.shapes[contract.SUBSPOTS], spots, f"section '{name}', shapes '{contract.SUBSPOTS}'")
    xy_px = np.column_stack([shapes.geometry.centroid.x, shapes.geometry.centroid.y])
    unit = np.linalg.solve(affine.matrix.T, (xy_px - affine.shift).T).T
    given = given_parts(sdata, shapes.index, name)
    log.info(
        "%s: %d subspots as given, %s per spot (split.* is left out)",
        name,
        len(shapes),
        subspots_per_spot(shapes[contract.PARENT].to_numpy(), len(spots)),
    )
    n = int(cfg.platform.n_neighbours)
    edges = given.subspot_graph.edges if given.subspot_graph is not None else nearest_edges(unit, n)
    pitch_um = cfg.platform.pitch_um * typical_distance(unit, n)
    return Placed(sdata, name, unit_xy, um_per_px, shapes, xy_px, edges, pitch_um, given)
