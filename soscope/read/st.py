"""Folders of the classic Spatial Transcriptomics arrays: counts, spots and one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from soscope import contract
from soscope.distances import typical_distance
from soscope.errors import DataError
from soscope.names import section_name
from soscope.read.array import array_obs
from soscope.read.base import (
    RawSection,
    Reader,
    check_inside,
    check_names,
    existing_file,
    existing_folder,
    open_image,
    read_columns,
)
from soscope.read.wide import as_counts, in_both, read_wide

COLUMNS = ("x", "y", "pixel_x", "pixel_y")
RAW = "Give raw counts."
NAMED = "The files belong to different sections, or rows are not named XxY."
WHAT = "a folder with counts.tsv.gz, spots.tsv and he.jpg"


@dataclass
class StReader(Reader, name="st"):
    """Read a folder of plain tables: spots named ``XxY`` by features, positions, and the image they are pixels of.

    Attributes
    ----------
    counts_file
        Table inside the folder, tab-separated: rows are spots named ``XxY``, columns features.
    positions_file
        Table inside the folder with columns ``x, y, pixel_x, pixel_y`` and, where some spots are to be left out, ``selected``.
    image_file
        Image inside the folder; null when there is none.
    lattice
        ``square`` on arrays of 2,000 spots, whose ``x, y`` count every other place (a quincunx: a square lattice, turned):
        array coordinates are then found from pixels.
    """

    counts_file: str = "counts.tsv.gz"
    positions_file: str = "spots.tsv"
    image_file: str | None = "he.jpg"
    lattice: str | None = None

    def inputs(self, path: Path | None) -> list[Path]:
        """List counts, positions and the image."""
        folder = existing_folder(path, WHAT)
        files = [
            existing_file(folder / self.counts_file, "counts_file"),
            existing_file(folder / self.positions_file, "positions_file"),
        ]
        image = [] if self.image_file is None else [existing_file(folder / self.image_file, "image_file")]
        return files + image

    def read(self, path: Path | None) -> RawSection:
        """Read one folder; only selected spots that have counts are kept."""
        files = self.inputs(path)
        section = section_name(existing_folder(path, WHAT))
        table = as_counts(read_wide(files[0]), files[0], RAW)
        check_names(table, f"'{files[0]}'")
        positions = read_positions(files[1])
        table, positions = in_both(table, positions, files[:2], NAMED)
        xy_px = positions[["pixel_x", "pixel_y"]].to_numpy(np.float64)
        image = None if self.image_file is None else open_image(files[2])
        check_inside(xy_px, image, f"section '{section}', '{files[-1].name}'")
        table.obs = pd.DataFrame({"array_row": positions["y"], "array_col": positions["x"]}).astype(np.int64)
        table.obs = array_obs(table, xy_px, self.lattice, f"section '{section}'")
        facts = {"reader": "st", "image_source": self.image_file or "none", "files": [str(f) for f in files]}
        radius = max(typical_distance(xy_px) / 4, 1.0)  # spots of 100 um, 200 um apart
        names = table.obs_names.tolist()
        return RawSection(contract.new_section(section, image, names, xy_px, radius, {"rna": table}, **facts))


def read_positions(file: Path) -> pd.DataFrame:
    """Read spots under tissue, indexed ``XxY``: array coordinates ``x, y`` and pixels ``pixel_x, pixel_y``."""
    spots = read_columns(file, COLUMNS, "Expected tab-separated columns", sep="\t")
    array = spots[["x", "y"]].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    whole = (array == np.floor(array)).all(1)
    if not whole.all():
        first = int(np.flatnonzero(~whole)[0])
        raise DataError(
            f"'{file}': x and y must be whole array coordinates, but {int((~whole).sum()):,} of {len(spots):,} rows have others "
            f"(first: row {first + 1}, x={spots['x'][first]}, y={spots['y'][first]}). The refined ones belong into new_x, new_y."
        )
    pixels = spots[["pixel_x", "pixel_y"]].apply(pd.to_numeric, errors="coerce")
    table = pd.DataFrame(array.astype(np.int64), columns=["x", "y"]).join(pixels)
    if "selected" in spots:
        table["selected"] = spots["selected"]
    table.index = pd.Index([f"{x}x{y}" for x, y in zip(table["x"], table["y"], strict=True)])
    return _selected(table, file)


def _selected(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    if "selected" not in table:
        return table
    kept = table[table["selected"] == 1]
    if not len(kept):
        raise DataError(
            f"'{file}': none of {len(table):,} spots has selected = 1. Select those under tissue, or drop the column."
        )
    return kept
