"""Folders of the released soScope program: profiles, two graphs, image features and positions of subspots."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from scipy import sparse

from soscope import contract
from soscope.distances import typical_distance
from soscope.errors import ConfigError, DataError
from soscope.lattice import SquareLattice
from soscope.names import section_name
from soscope.read.base import RawSection, Reader, check_names, existing_file, existing_folder
from soscope.read.positions import ARRAY, KNOWN, Positions, read_positions

log = logging.getLogger("soscope")
LABEL, SPOT_GRAPH, SUBSPOT_GRAPH, FEATURES = "label.npy", "adj.npy", "sub_adj.npy", "support_feature.npy"
POSITIONS = (
    "reordered_position_with_center.csv",
    "position_enhance_with_center.csv",
    "enhanced_position_with_center.csv",
    "reordered_position.csv",
)
"""Tables of subspots in the program's demos and as its preprocessing writes them."""
WHAT = f"a folder with {LABEL}, {SPOT_GRAPH}, {SUBSPOT_GRAPH} and the positions of subspots"
WHOLE = 1e-3


@dataclass
class ReleasedReader(Reader, name="soscope"):
    """Read the data folder of the published program; subspots, graphs and image features are taken as they are.

    ``label.npy`` holds the mean per subspot, ``(n_spots, n_features)``: a spot's value where features are averages, its count
    divided by K where they are counts. Subspots of a spot stand in contiguous rows.

    Attributes
    ----------
    positions_file
        Table of subspots in their order with pixels ``imagerow, imagecol`` (or ``image_row, image_col``) and, on a square array,
        ``row, col``; found by itself under the names the program gives it.
    feature_names
        Names in the order of the columns, or a file in the folder with one a line; ``feature_1``, ... without.
    modality
        Name of the table, where there is one.
    tables
        Number of columns per table, in their order, where ``label.npy`` holds several side by side; columns beyond are left out.
    counts
        Whether ``label.npy`` is counts divided by K, to be multiplied back; or the names of the tables for which it is.
    n_image
        Columns of ``support_feature.npy`` to take, the first ones; all by default.
    """

    positions_file: str | None = None
    feature_names: str | list[str] | None = None
    modality: str = "rna"
    tables: dict[str, int] | None = None
    counts: bool | list[str] = False
    n_image: int | None = None

    def inputs(self, path: Path | None) -> list[Path]:
        """List profiles, graphs, positions, and image features and names where there are any."""
        folder = existing_folder(path, WHAT)
        for name in (LABEL, SPOT_GRAPH, SUBSPOT_GRAPH):
            if not (folder / name).is_file():
                raise DataError(f"'{folder}': '{name}' is missing. Point data.path at {WHAT}.")
        files = [folder / LABEL, folder / SPOT_GRAPH, folder / SUBSPOT_GRAPH, self._positions(folder)]
        if isinstance(self.feature_names, str):
            files.append(existing_file(folder / self.feature_names, "feature_names"))
        return files + [folder / FEATURES] * (folder / FEATURES).is_file()

    def read(self, path: Path | None) -> RawSection:
        """Read one folder; the diagonal of both graphs is dropped."""
        files = self.inputs(path)
        folder = existing_folder(path, WHAT)
        label = load(folder / LABEL)
        positions = _read(self._positions(folder))
        n, k = len(label), per_spot(len(label), len(positions), folder)
        cells = positions.numbers(ARRAY)
        row_col = None if cells is None else spot_array(cells, n, k)
        names = [f"spot_{i // k + 1}:{i % k}" for i in range(n * k)]
        subspots = outlines(positions.xy, names, k, None if row_col is None else cells)
        xy_px = positions.xy.reshape(n, k, 2).mean(1)
        tables = self._tables(folder, label, k)
        graph = read_graph(folder / SPOT_GRAPH, n)
        for table in tables.values():
            if row_col is not None:
                table.obs["array_row"], table.obs["array_col"] = row_col.T
            table.obsp[contract.GRAPH] = graph
        facts = {"reader": "soscope", "image_source": "none", "files": [str(f) for f in files]}
        radius = max(typical_distance(xy_px) / 2, 1.0)
        spots = table.obs_names.tolist()
        sdata = contract.new_section(section_name(folder), None, spots, xy_px, radius, tables, **facts)
        features = read_features(folder / FEATURES, n * k, self.n_image)
        graph = read_graph(folder / SUBSPOT_GRAPH, n * k)
        return RawSection(contract.add_subspots(sdata, subspots, features, graph))

    def subspots_per_spot(self, path: Path) -> int:
        """Return K of a folder; `DataError` when its subspots do not divide evenly."""
        return per_spot(len(load(path / LABEL)), len(_read(self._positions(path))), path)

    def left_out(self, path: Path) -> str | None:
        """Return which columns of ``label.npy`` belong to none of ``tables``, or ``None`` when all do."""
        n, taken = load(path / LABEL).shape[1], sum((self.tables or {}).values())
        return f"{LABEL}: columns {taken + 1} to {n} are left out" if 0 < taken < n else None

    def _positions(self, folder: Path) -> Path:
        if self.positions_file:
            return existing_file(folder / self.positions_file, "positions_file")
        for name in POSITIONS:
            if (folder / name).is_file():
                return folder / name
        tables = sorted(f.name for f in folder.glob("*.csv"))
        raise DataError(
            f"'{folder}': no positions of subspots. Looked for {', '.join(POSITIONS)}; the folder holds "
            f"{', '.join(tables) or 'no .csv'}. Name a table with columns {', '.join(KNOWN[0])} with "
            "data.options.positions_file=..."
        )

    def _tables(self, folder: Path, label: np.ndarray, k: int) -> dict[str, AnnData]:
        """Part the columns into tables."""
        widths = dict(self.tables or {self.modality: label.shape[1]})
        ends = np.cumsum(list(widths.values()))
        if min(widths.values()) < 1 or ends[-1] > label.shape[1]:
            raise DataError(
                f"'{folder}': {LABEL} has {label.shape[1]:,} columns, data.options.tables asks for "
                f"{' + '.join(f'{n:,} {m}' for m, n in widths.items())}. Give the columns of each table."
            )
        surplus = self.left_out(folder)
        if surplus:
            log.info(surplus)
        names = self._names(folder, label.shape[1])
        parts = zip(widths, np.split(label, ends, 1), np.split(np.array(names, dtype=object), ends), strict=False)
        counted = list(widths) if self.counts is True else list(self.counts or [])
        unknown = sorted(set(counted) - set(widths))
        if unknown:
            raise ConfigError(f"data.options.counts: no table '{unknown[0]}'. Choose from: {', '.join(widths)}.")
        return {m: self._table(folder, x, k, own.tolist(), m in counted) for m, x, own in parts}

    def _table(self, folder: Path, values: np.ndarray, k: int, names: list[str], counted: bool) -> AnnData:
        spots = [f"spot_{i + 1}" for i in range(len(values))]
        table = AnnData(X=values, obs=pd.DataFrame(index=spots), var=pd.DataFrame(index=pd.Index(names)))
        check_names(table, f"'{folder}'")
        if counted:
            table.X = whole_counts(values, k, folder / LABEL, spots, names)
        return table

    def _names(self, folder: Path, n: int) -> list[str]:
        if self.feature_names is None:
            return [f"feature_{i + 1}" for i in range(n)]
        names = [str(name) for name in self.feature_names]
        if isinstance(self.feature_names, str):
            lines = (folder / self.feature_names).read_text().splitlines()
            names = [line.strip() for line in lines if line.strip()]
            names = names[1:] if len(names) == n + 1 and names[0] == "name" else names
        if len(names) != n:
            raise DataError(
                f"'{folder}': data.options.feature_names gives {len(names):,} names, {LABEL} has {n:,} columns. "
                "Give one name a column."
            )
        return names


def load(file: Path) -> np.ndarray:
    """Load a table of finite numbers; `DataError` otherwise."""
    try:
        values = np.load(file, allow_pickle=False)
    except Exception as error:
        raise DataError(
            f"'{file}' cannot be read as numbers in NumPy's format ({type(error).__name__}: {error}). "
            "Save it again as a plain array."
        ) from error
    if values.ndim != 2 or values.dtype.kind not in "iufb" or not len(values):
        raise DataError(
            f"'{file}': expected rows and columns of numbers, found shape {values.shape} of {values.dtype}."
        )
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise DataError(
            f"'{file}': {int((~np.isfinite(values)).sum()):,} values are NaN or infinite (first: row {row}, column {column})."
        )
    return values.astype(np.float64)


def _read(file: Path) -> Positions:
    """Read subspots in their order."""
    return read_positions(file, None, None, "data.options.positions_file", "Give pixels of every subspot's centre;")


def per_spot(n_spots: int, n_subspots: int, folder: Path) -> int:
    """Return subspots per spot; `DataError` when they do not divide evenly."""
    if n_subspots % n_spots or n_subspots < 2 * n_spots:
        raise DataError(
            f"'{folder}': {LABEL} has {n_spots:,} spots, the positions are {n_subspots:,}: expected two or more contiguous "
            "subspots for every spot. Name the table of subspots, not of spots, with data.options.positions_file=..."
        )
    return n_subspots // n_spots


def spot_array(cells: np.ndarray, n: int, k: int) -> np.ndarray | None:
    """Return array row and column of spots ``(n, 2)`` from those of s x s subspots, or ``None`` when they are no such array."""
    s = math.isqrt(k)
    if s * s != k:
        return None
    cells = cells.reshape(n, k, 2)
    middle = cells.mean(1)
    within = np.abs(cells - middle[:, None]).max()
    steps = (middle - middle.min(0)) / s
    whole = np.abs(steps - steps.round()).max() < WHOLE and within < s / 2
    array = steps.round().astype(np.int64)
    if not whole or len(np.unique(array, axis=0)) < n:
        log.info("row and col of subspots form no square array of spots: geometry is taken from pixels alone")
        return None
    return array


def outlines(xy_px: np.ndarray, names: list[str], k: int, cells: np.ndarray | None) -> gpd.GeoDataFrame:
    """Return subspots with their parent: cells of the array around their centres, discs where there is none."""
    columns = {contract.PARENT: np.arange(len(xy_px)) // k}
    if cells is None:
        columns["radius"] = np.full(len(xy_px), max(typical_distance(xy_px) / 2, 1e-6))
        return gpd.GeoDataFrame(columns, geometry=shapely.points(xy_px), index=pd.Index(names))
    design = np.column_stack([cells[:, ::-1], np.ones(len(xy_px))])
    steps = np.linalg.lstsq(design, xy_px, rcond=None)[0][:2]
    corners = xy_px[:, None] + SquareLattice().outline(1) @ steps
    return gpd.GeoDataFrame(columns, geometry=shapely.polygons(corners), index=pd.Index(names))


def read_graph(file: Path, n: int) -> sparse.csr_matrix:
    """Read rows ``i, j, weight`` as an ``n x n`` matrix without its diagonal."""
    rows = load(file)
    if rows.shape[1] != 3:
        raise DataError(f"'{file}': expected rows i, j, weight, found {rows.shape[1]} columns.")
    ends, weight = rows[:, :2], rows[:, 2]
    bad = ((ends < 0) | (ends >= n) | (ends != np.floor(ends))).any(1) | (weight < 0) | (weight > 1)
    if bad.any():
        first = int(np.argmax(bad))
        raise DataError(
            f"'{file}': {int(bad.sum()):,} of {len(rows):,} edges are no pair of numbers 0 to {n - 1:,} with a weight in [0, 1] "
            f"(first: row {first}, {', '.join(f'{v:g}' for v in rows[first])}). The graph belongs to another section."
        )
    i, j = ends[ends[:, 0] != ends[:, 1]].astype(np.int64).T
    if len(np.unique(i * n + j)) < len(i):
        raise DataError(f"'{file}': some edges are listed more than once. Keep each i, j once.")
    return sparse.csr_matrix((weight[ends[:, 0] != ends[:, 1]], (i, j)), shape=(n, n))


def read_features(file: Path, n: int, n_columns: int | None = None) -> np.ndarray | None:
    """Read image features ``(n, n_columns)``, all columns by default, ``None`` when the folder has none."""
    if not file.is_file():
        return None
    features = load(file)
    if len(features) != n:
        raise DataError(
            f"'{file}' has {len(features):,} rows, the positions are {n:,}. Give one row per subspot, in their order."
        )
    if n_columns is not None and n_columns > features.shape[1]:
        raise DataError(f"'{file}' has {features.shape[1]:,} columns, {n_columns:,} are asked for. Ask for no more.")
    return features[:, :n_columns].astype(np.float32)


def whole_counts(label: np.ndarray, k: int, file: Path, spots: list[str], features: list[str]) -> sparse.csr_matrix:
    """Multiply means per subspot back to counts; `DataError` when these are not whole."""
    counts = label * k
    away = np.abs(counts - counts.round())
    bad = (away > WHOLE * np.maximum(1, np.abs(counts))) | (counts < -WHOLE)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise DataError(
            f"'{file}': data.options.counts=true, but times K = {k} {int(bad.sum()):,} of {bad.size:,} values are no counts "
            f"(first: spot '{spots[row]}', feature '{features[column]}', {counts[row, column]:g}). Leave counts=false, and use "
            "model=gaussian with representation=values."
        )
    return sparse.csr_matrix(counts.round().astype(np.float32))
