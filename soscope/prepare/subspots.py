"""Dividing every spot of a section into subspots."""

from __future__ import annotations

import math
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from soscope.affine import Affine
from soscope.contract import PARENT, PARENT_NAME
from soscope.lattice import Lattice
from soscope.matrices import rank_within


@dataclass
class Subspots:
    """Geometry of a split; rows of a spot are contiguous, in the order of `Lattice.offsets`.

    Attributes
    ----------
    parent
        Spot of each subspot, ``(n_subspots,)``; -1 under no spot.
    xy_lattice
        Unit coordinates on the subspot lattice, ``(n_subspots, 2)``: neighbours are found here.
    xy_px
        Centres in image pixels, ``(n_subspots, 2)``.
    outlines_px
        Corners in image pixels, ``(n_subspots, n_corners, 2)``.
    """

    parent: np.ndarray
    xy_lattice: np.ndarray
    xy_px: np.ndarray
    outlines_px: np.ndarray

    def to_shapes(self, spot_names: list[str]) -> gpd.GeoDataFrame:
        """Return polygons named ``SPOT:NUMBER`` with their parent, ``:NUMBER`` under no spot."""
        number = rank_within(self.parent)
        parents = np.array([*spot_names, ""], dtype=object)[self.parent]
        names = pd.Index([f"{p}:{i}" for p, i in zip(parents, number, strict=True)])
        columns = {PARENT: self.parent.astype(np.int64), PARENT_NAME: parents}
        return gpd.GeoDataFrame(columns, geometry=shapely.polygons(self.outlines_px), index=names)


def split_spots(lattice: Lattice, unit_xy: np.ndarray, affine: Affine, k: int, extent_share: float = 1.0) -> Subspots:
    """Divide spots into ``k`` subspots each.

    Parameters
    ----------
    lattice
        Arrangement of the spots.
    unit_xy
        Spot centres in unit coordinates, ``(n_spots, 2)``.
    affine
        Unit coordinates to pixels.
    k
        Subspots per spot.
    extent_share
        Share of the spot's cell that its subspots cover: 1 for ``split.extent=cell``; the disc's share for ``spot``, where
        subspots draw together around the centre but keep their neighbours.
    """
    offsets, outline = lattice.offsets(k), lattice.outline(k)
    shrink = math.sqrt(extent_share)
    parent = np.repeat(np.arange(len(unit_xy)), k)
    centres = unit_xy[parent] + np.tile(offsets, (len(unit_xy), 1)) * shrink
    return Subspots(
        parent=parent,
        xy_lattice=unit_xy[parent] + np.tile(offsets, (len(unit_xy), 1)),
        xy_px=affine(centres),
        outlines_px=affine(centres[:, None] + outline[None] * shrink),
    )


def disc_share(lattice: Lattice, diameter_um: float, pitch_um: float) -> float:
    """Return the share of a spot's cell that its disc covers (27 % for 55 um spots 100 um apart on a hex lattice)."""
    return min(math.pi / 4 * (diameter_um / pitch_um) ** 2 / lattice.cell_area, 1.0)
