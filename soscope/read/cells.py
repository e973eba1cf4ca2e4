"""Cells under spots: centres from any segmentation become the subspots of the spot they lie in."""

from __future__ import annotations

import logging

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from scipy.spatial import cKDTree
from spatialdata import SpatialData

from soscope import contract
from soscope.distances import typical_distance
from soscope.errors import DataError

log = logging.getLogger("soscope")


def add_cells(sdata: SpatialData, names: pd.Index, xy_px: np.ndarray, diameter_px: float, where: str) -> None:
    """Make cells the subspots of a section.

    A cell belongs to the spot whose disc its centre lies in, and to none (-1) where that is no disc. As there are no outlines,
    cells are drawn as discs that touch their neighbour's, more or less.

    Parameters
    ----------
    sdata
        From `soscope.contract.new_section`.
    names, xy_px
        One name per cell, and centres ``(n_cells, 2)`` as x, y in the pixels of the section.
    diameter_px
        Diameter of a spot's disc.
    where
        The file, for messages.

    Raises
    ------
    DataError
        When no cell lies under any spot: the two are not in one frame.
    """
    spots = shapely.get_coordinates(sdata.shapes[contract.SPOTS].geometry)
    distance, nearest = cKDTree(spots).query(xy_px)
    parent = np.where(distance <= diameter_px / 2, nearest, -1)
    if not (parent >= 0).any():
        raise DataError(
            f"{where}: none of {len(xy_px):,} cells lies under a spot (cells reach from {_span(xy_px)}, spots from "
            f"{_span(spots)}). Bring both into one frame: the same image, the same pixels."
        )
    without = len(spots) - len(np.unique(parent[parent >= 0]))
    log.info("%s: %d of %d cells under no spot, %d of %d spots without a cell", where, (parent < 0).sum(), len(parent),
             without, len(spots))  # fmt: skip
    columns = {contract.PARENT: parent, "radius": max(typical_distance(xy_px) / 2, 1e-6)}
    contract.add_subspots(sdata, gpd.GeoDataFrame(columns, geometry=shapely.points(xy_px), index=names))


def _span(xy: np.ndarray) -> str:
    low, high = xy.min(0), xy.max(0)
    return f"({low[0]:.0f}, {low[1]:.0f}) to ({high[0]:.0f}, {high[1]:.0f})"
