"""Subspots, graphs and image features that a section brings, checked and taken as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from spatialdata import SpatialData

from soscope import contract
from soscope.errors import DataError
from soscope.numbering import names_of
from soscope.prepare.graphs import Graph

FLOAT16_MAX = float(np.finfo(np.float16).max)


@dataclass
class Given:
    """What a section brings besides its subspots; ``None`` for what has to be made.

    Attributes
    ----------
    features
        Image features, ``(n_subspots, n_columns)``.
    spot_graph, subspot_graph
        Weighted neighbours.
    """

    features: np.ndarray | None = None
    spot_graph: Graph | None = None
    subspot_graph: Graph | None = None


def given_outlines(shapes: gpd.GeoDataFrame, spots: list[str], where: str) -> gpd.GeoDataFrame:
    """Return polygons, indexed by name, with whole-number parents and their names; `DataError` for anything else."""
    if contract.PARENT not in shapes:
        raise DataError(
            f"{where}: no column '{contract.PARENT}'. Add the row of each subspot's spot, -1 for one under no spot."
        )
    names = names_of(shapes)
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise DataError(f"{where}: the name '{twice}' occurs more than once. Give every subspot a name of its own.")
    parent = pd.to_numeric(shapes[contract.PARENT], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    wrong = ~((parent >= -1) & (parent < len(spots)) & (parent == np.floor(parent)))
    if wrong.any() or not (parent >= 0).any():
        first = names[wrong][0] if wrong.any() else names[0] if len(shapes) else "none"
        raise DataError(
            f"{where}: '{contract.PARENT}' must be the row of a spot, 0 to {len(spots) - 1:,}, or -1 under no spot, and not -1 "
            f"throughout; {int(wrong.sum()):,} of {len(shapes):,} are something else (first subspot: '{first}')."
        )
    rows = parent.astype(np.int64)
    columns = {contract.PARENT: rows, contract.PARENT_NAME: np.array([*spots, ""], dtype=object)[rows]}
    return gpd.GeoDataFrame(columns, geometry=_polygons(shapes), index=names)


def _polygons(shapes: gpd.GeoDataFrame) -> list[Any]:
    """Return one polygon per subspot: circles as discs, of outlines in several parts the largest."""
    geometry = shapes.geometry
    if (geometry.geom_type == "Point").all():
        geometry = geometry.buffer(shapes["radius"], quad_segs=6)
    several = (geometry.geom_type != "Polygon").to_numpy()
    polygons = geometry.to_numpy().copy()
    polygons[several] = [max(shapely.get_parts(g), key=lambda part: part.area) for g in polygons[several]]
    return list(polygons)


def given_parts(sdata: SpatialData, subspots: pd.Index, name: str) -> Given:
    """Return the graphs and image features a section brings, rows in the order of ``subspots``.

    Raises
    ------
    DataError
        For rows that are not the subspots, weights outside [0, 1], and features that are not finite.
    """
    given = Given()
    for modality in contract.modalities(sdata):
        table = sdata.tables[modality]
        if given.spot_graph is None and contract.GRAPH in table.obsp:
            given.spot_graph = _graph(table, f"section '{name}', table '{modality}'")
    if contract.IMAGE_FEATURES not in sdata.tables:
        return given
    where = f"section '{name}', table '{contract.IMAGE_FEATURES}'"
    table = sdata.tables[contract.IMAGE_FEATURES]
    if set(table.obs_names) != set(subspots):
        raise DataError(
            f"{where}: its {table.n_obs:,} rows are not the {len(subspots):,} shapes '{contract.SUBSPOTS}' (first row: "
            f"'{table.obs_names[0]}', first shape: '{subspots[0]}'). Name the rows like the shapes."
        )
    table = table[subspots]
    if contract.GRAPH in table.obsp:
        given.subspot_graph = _graph(table, where)
    given.features = _features(table, where) if table.n_vars else None
    return given


def _graph(table: AnnData, where: str) -> Graph:
    graph = Graph.from_matrix(table.obsp[contract.GRAPH], np.float64)
    if not ((graph.weight >= 0) & (graph.weight <= 1)).all():
        raise DataError(
            f"{where}: weights of obsp['{contract.GRAPH}'] must lie in [0, 1], found {graph.weight.min():g} to "
            f"{graph.weight.max():g}. Give similarities, or leave the graph out to have it built."
        )
    return graph


def _features(table: AnnData, where: str) -> np.ndarray:
    values = np.asarray(table.to_df(), dtype=np.float32)
    if not (np.abs(values) <= FLOAT16_MAX).all():
        raise DataError(
            f"{where}: image features must be finite and below {FLOAT16_MAX:g}, since they are kept as float16. "
            "Replace missing values, or scale the columns."
        )
    return values
