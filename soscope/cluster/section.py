"""One finished section: opened, its subspots grouped by every method, the groups written down."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem

from soscope import contract
from soscope.cluster.base import UNKNOWN, Found, NoClustersError, Progress, Source, StoredProfiles
from soscope.cluster.columns import put_columns_in_h5ad, put_columns_in_zarr
from soscope.cluster.methods import COLUMNS, METHODS
from soscope.data.section import Section, interpolation_matrix
from soscope.errors import DataError
from soscope.schema import ClusterConfig

log = logging.getLogger("soscope")
TABLE = [
    "section",
    "method",
    "column",
    "setting",
    "tried",
    "n_clusters",
    "criterion",
    "score",
    "error",
    "chosen",
    "note",
]
"""Columns of what is told of clusters, a row per section, method and setting tried; ``note`` says why there are none."""


@dataclass(frozen=True)
class Result:
    """Where an enhanced section lies: its zarr, and per modality its h5ad and whether it holds counts."""

    name: str
    path: Path
    files: Mapping[str, Path]
    counted: Mapping[str, bool]


def cluster_section(
    result: Result, z_width: float, settings: ClusterConfig, seed: int, progress: Progress
) -> pd.DataFrame:
    """Group the subspots of a finished section and write the groups into its tables.

    Parameters
    ----------
    result
        Where the section lies.
    z_width
        Width by which z continues between spots, in pitches.
    settings
        The settings ``cluster.*``.
    seed, progress
        As in `Source`.

    Returns
    -------
    What was tried, columns `TABLE`.

    Raises
    ------
    DataError
        When the result is not as `enhance` leaves it; nothing has then been written.
    """
    source = open_source(result, z_width, progress)
    tables, subspots, spots = [], {}, {}
    for name in settings.methods:
        method = METHODS[name]
        about = {"section": result.name, "method": name, "column": method.column, "setting": method.setting}
        try:
            found = method(source, settings, seed)
        except NoClustersError as reason:
            log.info("%s: no clusters by %s: %s.", result.name, name, reason)
            tables.append(pd.DataFrame([{**about, "chosen": False, "note": str(reason)}]))
            continue
        subspots[method.column] = as_categories(found.labels)
        spots[method.column] = as_categories(majority(found.labels, source.parent, len(source.latent)))
        tables.append(found.tried.assign(**about, criterion=method.score_name(settings)))
        log.info("%s: %s", result.name, _in_words(name, method.setting, method.score_name(settings), found))
    of_tables = {t: part for m in result.files for t, part in ((m, spots), (contract.enhanced_name(m), subspots))}
    put_columns_in_zarr(result.path, of_tables, COLUMNS)
    for file in result.files.values():
        put_columns_in_h5ad(file, subspots, COLUMNS)
    return pd.concat([pd.DataFrame(columns=TABLE), *tables])[TABLE] if tables else pd.DataFrame(columns=TABLE)


def _in_words(name: str, setting: str, criterion: str, found: Found) -> str:
    chosen = found.tried[found.tried["chosen"]].iloc[0]
    return f"{chosen['n_clusters']:.0f} clusters by {name} ({setting}: {chosen['tried']:g}, {criterion} {chosen['score']:.4g})"


def as_categories(labels: np.ndarray) -> pd.Categorical:
    """Return labels as categories ``1``, ``2``, ..., the largest group first; missing where nothing is known."""
    names = pd.Index([str(i + 1) for i in range(int(labels.max(initial=UNKNOWN)) + 1)], dtype=object)
    found: Any = pd.Categorical.from_codes(labels, dtype=pd.CategoricalDtype(names))
    return found


def majority(labels: np.ndarray, parent: np.ndarray, n_spots: int) -> np.ndarray:
    """Return the group most subspots of a spot are in, the larger of equals; `UNKNOWN` for spots without any, ``(n_spots,)``."""
    n_groups = int(labels.max(initial=0)) + 1
    inside = (parent >= 0) & (labels >= 0)
    votes = np.bincount(parent[inside] * n_groups + labels[inside], minlength=n_spots * n_groups)
    votes = votes.reshape(n_spots, n_groups)
    return np.where(votes.any(1), votes.argmax(1), UNKNOWN)


def open_source(result: Result, z_width: float, progress: Progress) -> Source:
    """Open what can be grouped; enhanced profiles stay on disk.

    Raises
    ------
    DataError
        When something is missing, or the zarr and an h5ad hold other subspots.
    """
    facts, tables = contract.open_tables(result.path)
    wanted = [contract.IMAGE_FEATURES, *(t for m in result.files for t in (m, contract.enhanced_name(m)))]
    missing = [t for t in wanted if t not in tables]
    if missing:
        raise _damaged(result.path, f"it has no table '{missing[0]}'")
    names = tables[contract.IMAGE_FEATURES].obs_names
    for modality, file in result.files.items():
        enhanced = tables[contract.enhanced_name(modality)]
        if "X_soscope" not in tables[modality].obsm:
            raise _damaged(result.path, f"table '{modality}' has no obsm['X_soscope']")
        if not (enhanced.obs_names.equals(names) and _names_of(file).equals(names)):
            raise _damaged(file, "its rows are not the section's subspots")
    section = Section.from_tables(facts, tables, list(result.files), 0.0)
    return Source(
        latent=np.asarray(tables[next(iter(result.files))].obsm["X_soscope"], dtype=np.float64),
        at=interpolation_matrix(section, z_width),
        parent=section.parent,
        profiles=[_profiles(tables, m, result.counted[m]) for m in result.files],
        progress=progress,
    )


def _profiles(tables: Mapping[str, AnnData], modality: str, counted: bool) -> StoredProfiles:
    return StoredProfiles(tables[contract.enhanced_name(modality)].X, counted)


def _names_of(file: Path) -> pd.Index:
    try:
        with h5py.File(file) as opened:
            return read_elem(opened["obs"]).index
    except (OSError, KeyError) as error:
        raise _damaged(file, f"it cannot be read as h5ad ({error})") from error


def _damaged(file: Path, what: str) -> DataError:
    return DataError(
        f"'{file}' is not as the stage enhance leaves it: {what}. Write it again with soscope enhance run=DIR."
    )
