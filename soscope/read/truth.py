"""The true profile of every subspot, where somebody has measured it: read to score a method, never to train one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad

from soscope.checks import check_finite
from soscope.errors import DataError

UNNAMED = re.compile(r"feature_(\d+)")
"""Names that readers make up, numbered from 1 in the order of the file, where it holds none."""


def read_truth(file: Path, features: list[str], n_subspots: int) -> AnnData:
    """Read true profiles, rows in the order of the section's subspots.

    Parameters
    ----------
    file
        ``.csv`` with a line of feature names, with or without a column of row names; ``.npy``; or ``.h5ad``.
    features
        Features wanted, by which columns are taken. Where either side has no names (``.npy``, a ``.csv`` without them, features
        called ``feature_1``, ...), columns are taken by order: the number in a made-up name, else the place in this list.
    n_subspots
        Rows expected.

    Returns
    -------
    ``(n_subspots, n_features)``, columns named ``features``.

    Raises
    ------
    DataError
        For files that cannot be read, and shapes, names or values that do not fit.
    """
    table, names = read_profiles(file, n_subspots, "data.truth", "subspot")
    columns = _columns(names, features, table.n_vars, file)
    chosen = table[:, columns].copy()
    chosen.var_names = pd.Index(features)
    check_finite(chosen.X, f"data.truth='{file}'", chosen.obs_names.tolist(), features)
    return chosen


def read_profiles(file: Path, n_rows: int, setting: str, unit: str) -> tuple[AnnData, list[str] | None]:
    """Read profiles from ``.csv``, ``.npy`` or ``.h5ad``, and the names of their features where the file has any.

    Parameters
    ----------
    file
        As for `read_truth`.
    n_rows
        Rows expected.
    setting, unit
        What messages call the file and a row: the setting that names it, and ``spot`` or ``subspot``.

    Raises
    ------
    DataError
        For files that cannot be read, hold words, or have another number of rows.
    """
    file = Path(file).expanduser()
    where = f"{setting}='{file}'"
    if not file.is_file():
        raise DataError(f"{where} is not a file. Name a .csv, .npy or .h5ad of {n_rows:,} rows.")
    if file.suffix not in READ:
        raise DataError(f"{where}: '{file.suffix}' is not understood. Give one of: {', '.join(READ)}.")
    try:
        table, names = READ[file.suffix](file, n_rows, where)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{where} cannot be read ({type(error).__name__}: {error}).") from error
    if table.n_obs != n_rows:
        raise DataError(
            f"{where} has {table.n_obs:,} rows, the section {n_rows:,} {unit}s. Give one row per {unit}, in "
            f"the order of the section's {unit}s."
        )
    return table, names


def _columns(names: list[str] | None, features: list[str], n_columns: int, file: Path) -> list[int]:
    """Return the column of every feature: by name, or by order where a side has no names."""
    if names is not None and set(features) <= set(names):
        return [names.index(f) for f in features]
    numbers = [int(m[1]) - 1 for f in features if (m := UNNAMED.fullmatch(f))]
    if len(numbers) == len(features) and max(numbers, default=0) < n_columns:
        return numbers
    if names is None and len(features) == n_columns:
        return list(range(n_columns))
    if names is None or len(numbers) == len(features):
        raise DataError(
            f"data.truth='{file}' has {n_columns:,} columns, the section {len(features):,} features, and there are no names "
            "to match them by. Give the same columns in the same order, or a .csv with feature names."
        )
    missing = [f for f in features if f not in names]
    raise DataError(
        f"data.truth='{file}' lacks {len(missing):,} of {len(features):,} features (first: '{missing[0]}'; the file has "
        f"{', '.join(names[:5])}, ...). Add them, or leave them out with data.features=[...]."
    )


def _from_csv(file: Path, n_rows: int, where: str) -> tuple[AnnData, list[str] | None]:
    table = pd.read_csv(file)
    unnamed = all(_is_number(str(c)) for c in table.columns) and len(table) == n_rows - 1
    if unnamed:
        table = pd.read_csv(file, header=None)
    first = str(table.columns[0])
    if first.startswith("Unnamed:") or first == "index" or not pd.api.types.is_numeric_dtype(table.iloc[:, 0]):
        table = table.set_index(table.columns[0])
    words = [c for c in table.columns if not pd.api.types.is_numeric_dtype(table[c])]
    if words or not table.shape[1]:
        raise DataError(
            f"{where}: {f'column {words[0]!r} holds words' if words else 'there is no column of numbers'}. "
            "Give numbers, with at most one column of row names, the first."
        )
    rows = pd.DataFrame(index=table.index.astype(str))
    return AnnData(X=table.to_numpy(np.float64), obs=rows), None if unnamed else [str(c) for c in table.columns]


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?(\.\d+)?", text.strip()) is not None


def _from_npy(file: Path, n_rows: int, where: str) -> tuple[AnnData, list[str] | None]:
    values = np.load(file, allow_pickle=False)
    if values.ndim != 2 or values.dtype.kind not in "iufb":
        raise DataError(f"{where}: expected numbers in rows by features, found shape {values.shape} of {values.dtype}.")
    return AnnData(X=values.astype(np.float64), obs=pd.DataFrame(index=[str(i) for i in range(len(values))])), None


def _from_h5ad(file: Path, n_rows: int, where: str) -> tuple[AnnData, list[str] | None]:
    table = read_h5ad(file)
    return table, table.var_names.astype(str).tolist()


READ = {".csv": _from_csv, ".npy": _from_npy, ".h5ad": _from_h5ad}
