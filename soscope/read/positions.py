"""Tables of positions: pixels of spots or subspots, and their place on an array where they have one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from soscope.errors import DataError
from soscope.read.base import read_columns

KNOWN = (("imagecol", "imagerow"), ("image_col", "image_row"), ("pixel_x", "pixel_y"), ("x", "y"))
"""Columns of x and y that are looked for when none are named; two of the published program's tables, one of
ST's, whose ``x`` and ``y`` are places on the array."""
ARRAY = ("row", "col")
"""Columns of array row and column."""


@dataclass
class Positions:
    """Centres of spots or subspots, in the order of the table.

    Attributes
    ----------
    xy
        x and y, ``(n, 2)``, in pixels of the image where there is one.
    array
        Array row and column, ``(n, 2)`` of whole numbers; ``None`` where the table has none.
    table
        The table as it was read.
    where
        What messages call the table.
    """

    xy: np.ndarray
    array: np.ndarray | None
    table: pd.DataFrame
    where: str

    def __len__(self) -> int:
        return len(self.xy)

    def numbers(self, columns: Sequence[str]) -> np.ndarray | None:
        """Return other columns, ``(n, len(columns))``, or ``None`` where the table has not all of them."""
        return _numbers(self.table, columns, self.where) if set(columns) <= set(self.table) else None


def read_positions(
    file: Path,
    columns: Sequence[str] | None = None,
    array: Sequence[str] | None = ARRAY,
    setting: str = "positions",
    way_out: str = "Name the columns of x and y with columns=[X,Y];",
) -> Positions:
    """Read a table of positions.

    Parameters
    ----------
    file
        ``.csv``, or ``.tsv`` and ``.txt`` with tabs, with a line of column names.
    columns
        Names of the columns with x and y; the first of `KNOWN` that the table has by default.
    array
        Names of the columns with array row and column, taken where the table has both; ``None`` leaves them out.
    setting
        What messages call the file.
    way_out
        What messages say of columns that are missing, before those that were looked for.

    Raises
    ------
    DataError
        For files and columns that are missing, and rows that hold no number or stand twice.
    """
    where = f"{setting}='{file}'"
    if not file.is_file():
        raise DataError(
            f"{where} is not a file. Name a table of positions with columns {' or '.join(map(', '.join, KNOWN))}."
        )
    separator = "\t" if file.suffix in (".tsv", ".txt") else ","
    header = set(read_columns(file, (), "", separator))
    chosen = tuple(columns) if columns else next((c for c in KNOWN if set(c) <= header), KNOWN[0])
    looked_for = "" if columns else f"{' or '.join(map(', '.join, KNOWN[1:]))}, or else"
    table = read_columns(file, chosen, f"{way_out} looked for {looked_for}".strip(), separator)
    if not len(table):
        raise DataError(f"{where} has no row. Give one row for every spot or subspot.")
    xy = _numbers(table, chosen, where)
    _check_unique(xy, where, "place")
    known = array is not None and set(array) <= set(table)
    return Positions(xy, _array(table, array, where) if known and array else None, table, where)


def _numbers(table: pd.DataFrame, columns: Sequence[str], where: str) -> np.ndarray:
    values = table[list(columns)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad = ~np.isfinite(values).all(1)
    if bad.any():
        raise DataError(
            f"{where}: {int(bad.sum()):,} of {len(values):,} rows hold no number in {', '.join(columns)} "
            f"(first: row {int(np.argmax(bad)) + 1}). Give every row's position."
        )
    return values


def _array(table: pd.DataFrame, columns: Sequence[str], where: str) -> np.ndarray:
    values = _numbers(table, columns, where)
    if (values != np.round(values)).any():
        first = int(np.argmax((values != np.round(values)).any(1)))
        raise DataError(
            f"{where}: {', '.join(columns)} are no whole numbers (first: row {first + 1}, {values[first, 0]:g}, "
            f"{values[first, 1]:g}), so they are no place on an array. Name others with array=[ROW,COL], or find neighbours by "
            "distance with array=null."
        )
    _check_unique(values, where, f"{' and '.join(columns)}")
    return values.astype(np.int64)


def _check_unique(values: np.ndarray, where: str, what: str) -> None:
    first, count = np.unique(values, axis=0, return_index=True, return_counts=True)[1:]
    if (count > 1).any():
        row = first[np.argmax(count > 1)] + 1
        raise DataError(
            f"{where}: {int((count - 1).sum()):,} rows repeat another's {what} (first: row {row}). Keep one of each."
        )
