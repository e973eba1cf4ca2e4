"""Plain tables: counts, positions and an image, each a file, by whatever names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from anndata import AnnData
from spatialdata import SpatialData

from soscope import contract
from soscope.affine import Affine
from soscope.distances import typical_distance
from soscope.errors import ConfigError, DataError
from soscope.names import section_name
from soscope.read.array import ARRAY, array_obs
from soscope.read.base import RawSection, Reader, check_inside, check_names, existing_file
from soscope.read.cells import add_cells
from soscope.read.grid import section_of_cells
from soscope.read.slides import open_slide
from soscope.read.wide import as_counts, in_both, read_wide

UNITS = ("px", "um")
NO_FEATURE = "Columns that are no features are named by data.options.ignore=[...]."
NAMED = "Name the column of spot names with data.options.names=..."
WHAT = "a table of counts (.csv or .tsv, perhaps .gz), or a folder that data.options.counts_file names one in"


@dataclass
class TableReader(Reader, name="table"):
    """Read counts (rows are spots, columns features), positions and an image from plain files.

    Attributes
    ----------
    counts_file
        Table inside the folder ``data.path``; null when ``data.path`` is the table itself.
    positions_file
        Table beside the counts; null when positions are columns of the counts.
    image_file
        Image beside the counts, whose pixels positions are in; null without one.
    names
        Column of spot names in the table that has positions; null: the first. Counts by themselves are named by their first.
    x, y, array_row, array_col
        Columns of positions, and of array coordinates where there are any.
    ignore
        Columns that are neither counts nor any of these.
    unit, um_per_px
        ``px`` or ``um``, of positions; and micrometres per pixel, needed where ``um`` meets an image, or ``px`` a grid.
    lattice
        ``hex`` or ``square``: find array coordinates from positions.
    grid_um
        Rows are cells: bins of this width become the spots, and the cells their subspots.
    cells_file
        Table beside the counts with the centres of cells, in columns ``x`` and ``y`` and named by its first: cells become the
        subspots of the spot they lie in.
    spot_diameter
        Of the disc that a spot's cells lie in, as a part of the pitch: 55 um of 100 on Visium.
    modality
        Name of the table.
    """

    counts_file: str | None = None
    positions_file: str | None = None
    image_file: str | None = None
    names: str | None = None
    x: str = "x"
    y: str = "y"
    array_row: str = "array_row"
    array_col: str = "array_col"
    ignore: list[str] = field(default_factory=list)
    unit: str = "px"
    um_per_px: float | None = None
    lattice: str | None = None
    grid_um: float | None = None
    cells_file: str | None = None
    spot_diameter: float = 0.55
    modality: str = "rna"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(f"data.options.unit={self.unit} is unknown. Choose from: {', '.join(UNITS)}.")
        meets = {"px": "grid_um", "um": "image_file"}[self.unit]
        if self.grid_um is not None and not self.grid_um > 0:
            raise ConfigError(f"data.options.grid_um={self.grid_um} must be a width in micrometres, above 0.")
        if not self.spot_diameter > 0:
            raise ConfigError(f"data.options.spot_diameter={self.spot_diameter} must be a part of the pitch, above 0.")
        if self.grid_um is not None and self.cells_file is not None:
            raise ConfigError(
                "data.options: grid_um gathers the rows of the counts in bins, cells_file divides them; leave one out."
            )
        if getattr(self, meets) is not None and self.um_per_px is None:
            raise ConfigError(f"data.options: unit={self.unit} with {meets} needs um_per_px, micrometres per pixel.")

    def inputs(self, path: Path | None) -> list[Path]:
        """List counts, positions and the image."""
        if path is None or not path.exists():
            raise DataError(f"data.path='{path}' does not exist. Point it at {WHAT}.")
        if path.is_dir() and self.counts_file is None:
            raise DataError(
                f"data.path='{path}' is a folder. Name its table of counts with data.options.counts_file=..."
            )
        counts = path if self.counts_file is None else existing_file(path / self.counts_file, "counts_file")
        beside = ("positions_file", "image_file", "cells_file")
        named = {option: getattr(self, option) for option in beside if getattr(self, option) is not None}
        return [counts, *(existing_file(counts.parent / name, option) for option, name in named.items())]

    def read(self, path: Path | None) -> RawSection:
        """Read one section; spots without counts, or without a position, are left out."""
        files = self.inputs(path)
        section = section_name(path or files[0])
        where = f"section '{section}', '{files[0].name}'"
        table, position = self._table(files)
        check_names(table, where)
        position.columns = pd.Index(["x", "y", *ARRAY][: position.shape[1]])
        xy = position[["x", "y"]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        check_inside(xy, None, where)
        table.obs = position
        table.obs = array_obs(table, xy, self.lattice, where)
        um_per_px = self.um_per_px or 1.0
        xy_px = xy / um_per_px if self.unit == "um" else xy
        image, scale = None, 1.0
        if self.image_file is not None:
            image, scale = open_slide(files[0].parent / self.image_file, typical_distance(xy_px))
        xy_px = xy_px * scale
        check_inside(xy_px, image, where)
        facts = {"reader": "table", "image_source": self.image_file or "none", "files": [str(f) for f in files]}
        if self.grid_um is not None:
            return self._cells(section, image, table, xy_px, scale / um_per_px, facts)
        radius, names = max(typical_distance(xy_px) / 4, 1e-6), table.obs_names.tolist()
        sdata = contract.new_section(section, image, names, xy_px, radius, {self.modality: table}, **facts)
        if self.cells_file is not None:
            self._add_cells(sdata, files[0].parent / self.cells_file, image, xy_px, scale)
        return RawSection(sdata)

    def _add_cells(
        self, sdata: SpatialData, file: Path, image: np.ndarray | None, spots_px: np.ndarray, scale: float
    ) -> None:
        """Make the cells of a table subspots; ``scale`` leads from pixels as they are given to those of ``image``."""
        cells = read_wide(file)
        self._check_positions(cells, file)
        xy = cells[[self.x, self.y]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        xy_px = xy * scale / ((self.um_per_px or 1.0) if self.unit == "um" else 1.0)
        check_inside(xy_px, image, f"'{file}'")
        diameter_px = self.spot_diameter * typical_distance(spots_px)
        add_cells(sdata, cells.index, xy_px, diameter_px, f"'{file}'")

    def _check_positions(self, frame: pd.DataFrame, file: Path) -> None:
        missing = [c for c in (self.x, self.y) if c not in frame]
        if missing:
            raise DataError(
                f"'{file}': no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns[:8]))}, ... Name the "
                "columns of positions with data.options.x=... and data.options.y=..."
            )

    def _table(self, files: list[Path]) -> tuple[AnnData, pd.DataFrame]:
        """Return counts and, row by row, x, y and perhaps array coordinates."""
        together = self.positions_file is None
        file = files[0] if together else files[1]
        where = read_wide(file, self.names)
        counts = where if together else read_wide(files[0])
        self._check_positions(where, file)
        array = [c for c in (self.array_row, self.array_col) if c in where]
        wanted = [self.x, self.y, *array] if len(array) == 2 else [self.x, self.y]
        other = {*map(str, self.ignore), "", *(wanted if together else [])}
        unknown = [c for c in map(str, self.ignore) if c not in counts]
        if unknown:
            raise ConfigError(f"data.options.ignore names '{unknown[0]}', which is no column of '{files[0]}'.")
        table = as_counts(counts.loc[:, [c not in other for c in counts.columns]], files[0], NO_FEATURE)
        return in_both(table, where[wanted], files[: 1 if together else 2], NAMED)

    def _cells(
        self, name: str, image: np.ndarray | None, table: AnnData, xy_px: np.ndarray, px_per_um: float, facts: dict
    ) -> RawSection:
        """Gather cells in bins; a cell without an outline is a disc that touches its neighbour's, more or less."""
        radius = max(typical_distance(xy_px) / 2, 1e-6)
        cells = gpd.GeoDataFrame({"radius": radius}, geometry=shapely.points(xy_px), index=table.obs_names)
        to_px = Affine(np.eye(2) * px_per_um, np.zeros(2))
        xy_um, width = xy_px / px_per_um, float(self.grid_um or 0)
        return section_of_cells(name, image, cells, xy_um, table, width, to_px, modality=self.modality, **facts)
