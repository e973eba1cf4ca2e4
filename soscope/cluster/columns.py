"""Columns of ``obs`` put into a written result, whose matrices stay as they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata.io import write_elem

from soscope import contract

Columns = Mapping[str, pd.Categorical]


def put_columns_in_zarr(path: Path, tables: Mapping[str, Columns], instead_of: tuple[str, ...]) -> None:
    """Put columns into tables of a SpatialData zarr.

    A new folder is made beside and takes the place of the old one when it is complete. What is not written anew, matrices and
    images, is linked instead of copied, where the disk can do that.

    Parameters
    ----------
    path
        The zarr.
    tables
        Columns by the name of the table.
    instead_of
        Columns of an earlier time that are taken out.
    """
    with contract.beside(path) as new, contract.quiet():
        shutil.copytree(path, new, copy_function=partial(_link, path))
        root = zarr.open_group(new, mode="r+", use_consolidated=False)
        for name, columns in tables.items():
            _put(root[f"tables/{name}/obs"], columns, instead_of)
        zarr.consolidate_metadata(root.store)


def _link(root: Path, source: str, target: str) -> None:
    """Give a chunk a second name; what may be written to, in ``obs`` and in descriptions of arrays, is copied."""
    file = Path(source)
    if not file.name.startswith((".z", "zarr.json")) and "obs" not in file.relative_to(root).parts:
        try:
            os.link(source, target)
            return
        except OSError:  # a disk without links
            pass
    shutil.copy2(source, target)


def put_columns_in_h5ad(file: Path, columns: Columns, instead_of: tuple[str, ...]) -> None:
    """Put columns into an h5ad: in a copy beside, which is then renamed, for HDF5 may break when a write is interrupted."""
    new = file.with_name(file.name + ".partial")
    shutil.copyfile(file, new)
    with h5py.File(new, "r+") as opened:
        _put(opened["obs"], columns, instead_of)
    new.replace(file)


def _put(obs: Any, columns: Columns, instead_of: tuple[str, ...]) -> None:
    for name in {*instead_of, *columns}:
        if name in obs:
            del obs[name]
    for name, values in columns.items():
        write_elem(obs, name, values)
    others = [str(c) for c in obs.attrs["column-order"] if c not in {*instead_of, *columns}]
    order = [*others, *columns]
    obs.attrs["column-order"] = np.array(order, dtype=object) if isinstance(obs, h5py.Group) else order
