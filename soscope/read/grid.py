"""Spots made of finer data: a square grid over cells or transcripts."""

from __future__ import annotations

from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from soscope import contract
from soscope.affine import Affine
from soscope.read.base import RawSection


def bins_of(xy_um: np.ndarray, grid_um: float) -> np.ndarray:
    """Return row and column of the bin of every point, ``(n_points, 2)``; bins start at the origin."""
    return np.floor(xy_um[:, ::-1] / grid_um).astype(np.int64)


def section_of_bins(
    name: str,
    image: np.ndarray | None,
    bins: np.ndarray,
    table: AnnData,
    grid_um: float,
    to_px: Affine,
    modality: str = "rna",
    **facts: Any,
) -> RawSection:
    """Assemble a section whose spots are bins.

    ``bins`` has row and column of every spot, ``(n_spots, 2)``; the rows of ``table`` are in that order; ``to_px`` leads from
    micrometres to pixels of ``image``.
    """
    spots = [f"r{row:05d}c{col:05d}" for row, col in bins]
    table.obs = pd.DataFrame({"array_row": bins[:, 0], "array_col": bins[:, 1]}, index=spots)
    xy_px = to_px((bins[:, ::-1] + 0.5) * grid_um)
    radius = grid_um / 2 * to_px.pitch_px
    sdata = contract.new_section(name, image, spots, xy_px, radius, {modality: table}, pitch_um=float(grid_um), **facts)
    return RawSection(sdata)


def section_of_cells(
    name: str,
    image: np.ndarray | None,
    cells: gpd.GeoDataFrame,
    xy_um: np.ndarray,
    table: AnnData,
    grid_um: float,
    to_px: Affine,
    **facts: Any,
) -> RawSection:
    """Assemble a section whose spots are bins of cells, and whose subspots are the cells.

    A spot's counts are the sums of its cells'; the cells' own are the truth, which nothing is trained on. ``cells`` are outlines
    in pixels, or points with ``radius``, named like the rows of ``table``; ``xy_um`` ``(n_cells, 2)`` decides on their bins.
    """
    bins, parent = np.unique(bins_of(xy_um, grid_um), axis=0, return_inverse=True)
    parent = parent.ravel()
    gather = sparse.csr_matrix((np.ones(len(parent), np.float32), (parent, np.arange(len(parent)))))
    counts = sparse.csr_matrix(table.X).astype(np.float32)
    sums = AnnData(X=sparse.csr_matrix(gather @ counts), var=table.var.copy())
    raw = section_of_bins(name, image, bins, sums, grid_um, to_px, **facts)
    contract.add_subspots(raw.sdata, cells.assign(**{contract.PARENT: parent}))
    obs, var = pd.DataFrame(index=table.obs_names), pd.DataFrame(index=table.var_names)
    return RawSection(raw.sdata, AnnData(X=counts, obs=obs, var=var))
