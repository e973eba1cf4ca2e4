"""`soscope graph`: the graphs A (spots) and W (subspots) as files of rows ``i, j, weight``, the released program's format."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from soscope.arrays import save_array
from soscope.checks import check_finite
from soscope.errors import ConfigError, DataError
from soscope.lattice import Lattice, make_lattice
from soscope.matrices import to_dense
from soscope.prepare.graphs import nearest_edges, neighbour_edges, similarity
from soscope.read.positions import Positions, read_positions
from soscope.read.released import SPOT_GRAPH, SUBSPOT_GRAPH
from soscope.read.truth import read_profiles
from soscope.rows import Rows, blocks
from soscope.schema import PlatformConfig

log = logging.getLogger("soscope")


@dataclass
class GraphConfig:
    """Root of `soscope graph`."""

    profiles: str | None = None  # of spots, with positions: adj.npy
    positions: str | None = None
    features: str | None = None  # of subspots, with subspot_positions: sub_adj.npy
    subspot_positions: str | None = None
    columns: list[str] | None = None  # of x and y; imagecol, imagerow, or image_col, image_row, or x, y
    array: list[str] | None = field(default_factory=lambda: ["row", "col"])  # null: neighbours by distance
    platform: PlatformConfig = field(default_factory=PlatformConfig)
    radius: float | None = None  # link spots closer than this, in the unit of x and y, instead of lattice neighbours
    subspot_radius: float | None = None
    scale: float = 5.0
    self_loops: bool = False
    out: str = MISSING
    overwrite: bool = False
    progress: bool = True
    traceback: bool = False


@dataclass(frozen=True)
class Neighbours:
    """Which points are linked.

    Attributes
    ----------
    lattice
        The lattice of points with a place on an array.
    n
        Number of neighbours: whole rings of the lattice, the nearest for points without an array.
    radius
        Link all points closer than this instead, in the unit of x and y.
    """

    lattice: Lattice
    n: int
    radius: float | None = None

    def edges(self, positions: Positions) -> np.ndarray:
        """Return both directions of every link, ``(2, n_edges)``, by ``i``, then by the row and column of ``j`` on the array."""
        edges, array = self._found(positions), positions.array
        if not edges.shape[1]:
            raise DataError(
                f"{positions.where}: no two of {len(positions):,} points are neighbours. Give a larger radius."
            )
        i, j = edges
        keys = (j,) if array is None else (array[j, 1], array[j, 0])
        return edges[:, np.lexsort((*keys, i))]

    def _found(self, positions: Positions) -> np.ndarray:
        if self.radius is not None:
            return neighbour_edges(positions.xy, self.radius)
        if positions.array is None:
            return nearest_edges(positions.xy, self.n)
        row, col = positions.array.T
        problem = self.lattice.contradiction(row, col)
        if problem:
            raise DataError(f"{positions.where}: {problem}; or find neighbours by distance with array=null.")
        return neighbour_edges(self.lattice.unit_xy(row, col), self.lattice.radius_of(self.n))


def build_graph(
    values: Rows,
    positions: Positions,
    neighbours: Neighbours,
    scale: float = 5.0,
    self_loops: bool = False,
    progress: bool = True,
) -> np.ndarray:
    """Link neighbours, and weigh links by how alike their ends are.

    Parameters
    ----------
    values
        Profiles of spots (A) or image features of subspots (W), ``(n, width)``.
    positions
        Of the same spots or subspots, in the same order.
    neighbours
        Which of them are linked.
    scale
        The link of median distance between values weighs ``1 / scale``, the closest 1.
    self_loops
        Add a link of weight 1 from each point to itself. The released files have none: that program adds them when it reads.
    progress
        Show a bar.

    Returns
    -------
    Rows ``i, j, weight``, numbers from 0, both directions of a link, ``(n_edges, 3)`` of float64.

    Notes
    -----
    The weight is that of `soscope.prepare.graphs.similarity`.
    """
    edges = neighbours.edges(positions)
    rows = np.column_stack([edges.T, similarity(values, edges, scale, progress)])
    if not self_loops:
        return rows
    itself = np.arange(len(positions), dtype=np.float64)
    return np.concatenate([rows, np.column_stack([itself, itself, np.ones(len(itself))])])


def run(cfg: Any) -> None:
    """Do `soscope graph`: check what is given, then build the graphs it is enough for."""
    if cfg.scale <= 1 or any(r is not None and r <= 0 for r in (cfg.radius, cfg.subspot_radius)):
        raise ConfigError(f"scale={cfg.scale:g} must be above 1, radius and subspot_radius above 0.")
    _check_pairs(cfg)
    out = Path(cfg.out).expanduser()
    wanted = [name for name, key in ((SPOT_GRAPH, cfg.profiles), (SUBSPOT_GRAPH, cfg.features)) if key is not None]
    there = [out / name for name in wanted if (out / name).exists()]
    if there and not cfg.overwrite:
        raise DataError(
            f"'{there[0]}' is there already. Give another folder with out=FOLDER, or replace it with overwrite=true."
        )
    built = {}
    if cfg.profiles is not None:
        positions = _positions(cfg, "positions")
        built[SPOT_GRAPH] = _build(cfg, _profiles(Path(cfg.profiles).expanduser(), positions), positions, cfg.radius)
    if cfg.features is not None:
        positions = _positions(cfg, "subspot_positions")
        built[SUBSPOT_GRAPH] = _build(
            cfg, _features(Path(cfg.features).expanduser(), positions), positions, cfg.subspot_radius
        )
    for name, rows in built.items():
        save_array(out / name, rows)
        log.info("%s: %d rows i, j, weight; median weight %.3g", out / name, len(rows), np.median(rows[:, 2]))


def _check_pairs(cfg: Any) -> None:
    """Refuse values without positions and the other way round, and settings of a graph that is not built."""
    for values, positions, radius in (
        ("profiles", "positions", "radius"),
        ("features", "subspot_positions", "subspot_radius"),
    ):
        if (cfg[values] is None) != (cfg[positions] is None) or (cfg[values] is None and cfg[radius] is not None):
            raise ConfigError(
                f"{values}=FILE and {positions}=FILE go together (and {radius} with both): one graph needs them."
            )
    if cfg.profiles is None and cfg.features is None:
        raise ConfigError(
            f"nothing to build: give profiles=FILE positions=FILE for {SPOT_GRAPH}, features=FILE subspot_positions=FILE for "
            f"{SUBSPOT_GRAPH}, or all four."
        )
    if cfg.array is not None and len(cfg.array) != 2 or cfg.columns is not None and len(cfg.columns) != 2:
        raise ConfigError("columns=[X,Y] and array=[ROW,COL] name two columns each.")


def _positions(cfg: Any, setting: str) -> Positions:
    return read_positions(Path(cfg[setting]).expanduser(), cfg.columns, cfg.array, setting)


def _build(cfg: Any, values: Rows, positions: Positions, radius: float | None) -> np.ndarray:
    neighbours = Neighbours(make_lattice(cfg.platform.lattice), cfg.platform.n_neighbours, radius)
    rows = build_graph(values, positions, neighbours, cfg.scale, cfg.self_loops, cfg.progress)
    alone = len(positions) - len(np.unique(rows[rows[:, 0] != rows[:, 1], 0]))
    how = f"on a {cfg.platform.lattice} lattice" if positions.array is not None else "nearest by distance"
    log.info(
        "%s: %d points, neighbours %s%s",
        positions.where,
        len(positions),
        f"within {radius:g}" if radius is not None else f"{how}, {cfg.platform.n_neighbours} at most",
        f"; {alone} have none" if alone else "",
    )
    return rows


def _profiles(file: Path, positions: Positions) -> np.ndarray:
    """Read profiles of spots as they are, in the order of the positions."""
    table, _ = read_profiles(file, len(positions), "profiles", "spot")
    check_finite(table.X, f"profiles='{file}'", table.obs_names.tolist(), table.var_names.tolist())
    _check_order(table.obs_names.tolist(), positions, f"profiles='{file}'")
    return to_dense(table.X, np.float64)


def _check_order(names: list[str], positions: Positions, where: str) -> None:
    """Refuse profiles whose names stand in the positions too, in another order."""
    for column in positions.table.select_dtypes(exclude="number"):
        theirs = positions.table[column].astype(str).tolist()
        if theirs != names and sorted(theirs) == sorted(names):
            first = next(i for i, (a, b) in enumerate(zip(names, theirs, strict=True)) if a != b)
            raise DataError(
                f"{where} and {positions.where} name the same spots in another order (first: row {first + 1}, '{names[first]}' "
                f"against '{theirs[first]}'). Bring the rows of both into one order."
            )


def _features(file: Path, positions: Positions) -> np.ndarray:
    """Open image features of subspots, rows read as they are used."""
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise DataError(
            f"features='{file}' cannot be read as an array ({type(error).__name__}: {error}). Give what `soscope features` wrote."
        ) from error
    if values.ndim != 2 or values.dtype.kind not in "iuf" or len(values) != len(positions):
        raise DataError(
            f"features='{file}': found shape {values.shape} of {values.dtype}, expected a row of numbers for each of "
            f"{len(positions):,} subspots of {positions.where}."
        )
    if not all(np.isfinite(block).all() for block in blocks(values)):
        raise DataError(f"features='{file}' holds NaN or infinite values. Make it again with `soscope features`.")
    return values
