"""Shapes of subspots are numbered by row and carry their names in a column."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd

NAME = "name"


def numbered_by_row(shapes: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return shapes with the index 0, 1, ... and their names in the column ``name``, its first.

    Tables find shapes by these numbers. napari-spatialdata takes whole numbers alone as the index of polygons.
    """
    names = names_of(shapes).to_numpy()
    numbered = shapes.drop(columns=NAME, errors="ignore").set_axis(np.arange(len(shapes)))
    numbered.insert(0, NAME, names)
    return numbered


def names_of(shapes: gpd.GeoDataFrame) -> pd.Index:
    """Return the names of shapes: their column ``name``, or their index where there is no such column."""
    return pd.Index(shapes.get(NAME, shapes.index), name=None).astype(str)
