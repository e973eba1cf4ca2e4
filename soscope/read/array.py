"""Array coordinates of spots that come with positions alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components
from scipy.spatial import cKDTree

from soscope.distances import typical_distance
from soscope.errors import DataError
from soscope.lattice import make_lattice

NEIGHBOUR = 1.25
"""Spots up to this many pitches apart are neighbours: below the square lattice's diagonal."""
ROUNDS = 3
ARRAY = ("array_row", "array_col")


def array_obs(table: AnnData, xy: np.ndarray, lattice: str | None, where: str) -> pd.DataFrame:
    """Return array coordinates of a table's spots: found by ``lattice`` where it is named, else those of ``obs``, if any.

    Raises
    ------
    DataError
        As `find_array`, and for array coordinates that are no whole numbers.
    """
    if lattice is not None:
        return pd.DataFrame(find_array(xy, lattice, where), columns=list(ARRAY), index=table.obs_names)
    if not set(ARRAY) <= set(table.obs):
        return pd.DataFrame(index=table.obs_names)
    values = table.obs[list(ARRAY)].apply(pd.to_numeric, errors="coerce")
    whole = (values == np.floor(values)).all(axis=1).to_numpy()
    if not whole.all():
        raise DataError(
            f"{where}: {int((~whole).sum()):,} of {len(values):,} spots have no whole numbers as array_row and array_col "
            f"(first: '{table.obs_names[~whole][0]}'). Mend them, or name data.options.lattice to find them from positions."
        )
    return values.astype(np.int64)


def find_array(xy: np.ndarray, lattice: str, where: str) -> np.ndarray:
    """Find the array coordinates of spots from where they lie: steps from neighbour to neighbour, then a fitted lattice.

    Parameters
    ----------
    xy
        Positions, ``(n_spots, 2)``, in any unit; the array may be turned, and slightly sheared.
    lattice
        ``hex`` or ``square``.
    where
        What messages call the section.

    Returns
    -------
    Array row and column, ``(n_spots, 2)``, from about 0.

    Raises
    ------
    ConfigError, DataError
        For an unknown lattice, and positions that are none.
    """
    unit, steps, n_neighbours = _steps(lattice)
    pitch = typical_distance(xy)
    pairs = cKDTree(xy).query_pairs(NEIGHBOUR * pitch, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    if not pitch > 0 or not len(pairs):
        raise DataError(
            f"{where}: {len(xy)} spots have no neighbours to find a lattice by. Give array_row and array_col."
        )
    apart = xy[pairs[:, 1]] - xy[pairs[:, 0]]
    angle = np.angle(np.exp(1j * n_neighbours * np.arctan2(apart[:, 1], apart[:, 0])).mean()) / n_neighbours
    turn = pitch * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    basis = unit @ turn
    walked, found = _walk(pairs, np.rint(apart @ np.linalg.inv(basis)), len(xy))
    place = walked
    for _ in range(ROUNDS):
        design = np.column_stack([place[found], np.ones(len(found))])
        fitted = np.linalg.lstsq(design, xy[found], rcond=None)[0]
        place = np.rint((xy - fitted[2]) @ np.linalg.inv(fitted[:2]))
        found = np.arange(len(xy))
    return _checked((place @ steps).astype(np.int64), lattice, where)


def _steps(lattice: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return two neighbours of a spot in unit and in array coordinates, and how many it has."""
    row, col = (a.ravel() for a in np.mgrid[-2:3, -2:3])
    unit = make_lattice(lattice).unit_xy(row, col)
    near = np.flatnonzero(np.isclose(np.linalg.norm(unit, axis=1), 1))
    angle = np.mod(np.arctan2(unit[near, 1], unit[near, 0]) + 1e-9, 2 * np.pi)
    two = near[np.argsort(angle)[:2]]
    return unit[two], np.column_stack([row, col])[two], len(near)


def _walk(pairs: np.ndarray, step: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Add up steps from spot to spot over the largest connected part; returns sums ``(n, 2)`` and the spots reached."""
    graph = sparse.csr_matrix((np.ones(len(pairs)), tuple(pairs.T)), shape=(n, n))
    _, part = connected_components(graph, directed=False)
    order, before = breadth_first_order(graph, int(np.argmax(part == np.bincount(part).argmax())))
    key = pairs[:, 0] * n + pairs[:, 1]
    by_key = np.argsort(key)
    reached = order[1:]
    last = step[by_key[np.searchsorted(key, before[reached].astype(np.int64) * n + reached, sorter=by_key)]]
    place = np.zeros((n, 2))
    for spot, move in zip(reached, last, strict=True):
        place[spot] = place[before[spot]] + move
    return place, order


def _checked(array: np.ndarray, lattice: str, where: str) -> np.ndarray:
    low = array.min(0)
    array = array - (
        low - low.sum() % 2 * np.array([0, 1])
    )  # an even shift: hexagonal rows and columns keep an even sum
    twice = pd.MultiIndex.from_arrays(list(array.T)).duplicated()
    if twice.any():
        raise DataError(
            f"{where}: positions are no {lattice} lattice: {int(twice.sum()):,} of {len(array):,} spots fall on one that is "
            "taken. Name another data.options.lattice, or give array_row and array_col."
        )
    return array
