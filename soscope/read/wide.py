"""Wide tables: rows are spots named by a column, columns are features or positions."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from soscope.errors import DataError
from soscope.read.base import SEPARATED, separator

log = logging.getLogger("soscope")


def read_wide(file: Path, names: str | None = None) -> pd.DataFrame:
    """Read a table whose rows are named by a column, the first unless it is told; columns of the same name stay as they are.

    Raises
    ------
    DataError
        When it is damaged, lacks that column, or has a first line of another length than the rest.
    """
    sep = separator(file)
    try:
        header = pd.read_csv(file, sep=sep, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0].tolist()
        body = pd.read_csv(file, sep=sep, header=None, skiprows=1, low_memory=False)
    except Exception as error:
        raise DataError(
            f"'{file}' cannot be read as a {SEPARATED[sep]}-separated table ({type(error).__name__}: {error}). It is damaged, "
            "truncated, or another kind of file: compare it with the original, or name another in data.options."
        ) from error
    header = ["", *header] if len(header) == body.shape[1] - 1 else header
    if len(header) != body.shape[1]:
        raise DataError(
            f"'{file}': {len(header):,} names in the first line, {body.shape[1]:,} columns in the {len(body):,} rows below. "
            "Expected a line of names, then one row per spot, its name first."
        )
    if names is not None and names not in header:
        raise DataError(f"'{file}': no column '{names}'; it has {', '.join(header[:8])}, ... See data.options.names.")
    column = 0 if names is None else header.index(names)
    rows = pd.Index(body.iloc[:, column].astype(str).to_numpy())
    body.columns = pd.Index(header)
    return body.iloc[:, [i for i in range(len(header)) if i != column]].set_axis(rows)


def as_counts(frame: pd.DataFrame, file: Path, way_out: str) -> AnnData:
    """Return a table of numbers as AnnData; `DataError` that names the first value of another kind, and the ``way_out``."""
    if not frame.shape[1]:
        raise DataError(f"'{file}': there is no column of counts. {way_out}")
    words = [i for i, kind in enumerate(frame.dtypes) if not pd.api.types.is_numeric_dtype(kind)]
    if words:
        column = frame.iloc[:, words[0]]
        bad = pd.to_numeric(column, errors="coerce").isna().to_numpy()
        raise DataError(
            f"'{file}': {len(words):,} of {frame.shape[1]:,} columns hold words, not counts (first: spot "
            f"'{column.index[bad][0]}', feature '{frame.columns[words[0]]}', '{column[bad].iloc[0]}'). {way_out}"
        )
    obs, var = pd.DataFrame(index=frame.index), pd.DataFrame(index=frame.columns)
    return AnnData(X=sparse.csr_matrix(frame.to_numpy(np.float32)), obs=obs, var=var)


def in_both(table: AnnData, position: pd.DataFrame, files: list[Path], way_out: str) -> tuple[AnnData, pd.DataFrame]:
    """Keep spots that have counts and a position, in the order of the counts, and say how many are left out.

    Parameters
    ----------
    table, position
        Counts, and positions by name of spot.
    files
        Of counts and of positions; the same one alone where they stand in one table.
    way_out
        What to do when they have no spot in common.

    Raises
    ------
    DataError
        When a spot has two positions, or none has one.
    """
    twice = position.index[position.index.duplicated()]
    if len(twice):
        raise DataError(f"'{files[-1]}': spot '{twice[0]}' has more than one position. Keep one.")
    known = table.obs_names.isin(position.index)
    if not known.any():
        raise DataError(
            f"'{files[0]}': none of its {table.n_obs:,} spots has a position in '{files[-1].name}' (counts start with "
            f"'{table.obs_names[0]}', positions with '{position.index[0]}'). {way_out}"
        )
    lost = len(position) - int(known.sum())
    if lost or not known.all():
        log.info("%s: left out %d spots without a position, %d without counts", files[0].name, (~known).sum(), lost)
    table = table[known].copy()
    return table, position.loc[table.obs_names].copy()
