"""MuData that users hold in memory, as sections of the data contract; AnnData and SpatialData are the readers' own."""

from __future__ import annotations

from typing import Any

from anndata import AnnData
from spatialdata import SpatialData

from soscope.errors import DataError
from soscope.read.h5ad import AnnDataReader


def section_of_mudata(reader: AnnDataReader, data: Any, name: str) -> SpatialData:
    """Turn MuData whose modalities are measured on the same spots into a section, a table per modality.

    Parameters
    ----------
    reader
        With the options wanted; one of the modalities, or the MuData itself, has what it reads besides counts.
    data, name
        MuData, and the section's name.

    Raises
    ------
    DataError
        When positions are absent or modalities are not of the same spots; as the reader says of the rest.
    """
    where, mods = f"section '{name}'", dict(data.mod)
    holder = next((m for m in [*mods.values(), data] if reader.positions in m.obsm), None)
    if holder is None:
        raise DataError(
            f"{where}: none of the modalities {', '.join(mods)} has obsm['{reader.positions}'], the centres of spots in px."
        )
    spots = holder.obs_names
    for modality, table in mods.items():
        if set(table.obs_names) != set(spots):
            other = sorted(set(table.obs_names) ^ set(spots))
            raise DataError(
                f"{where}: modality '{modality}' has {table.n_obs:,} spots, obsm['{reader.positions}'] {len(spots):,}; "
                f"{len(other):,} are in one alone (first: '{other[0]}'). Keep those in all, as muon.pp.intersect_obs does."
            )
    xy = {reader.positions: holder.obsm[reader.positions]}
    place = AnnData(obs=holder.obs.copy(), obsm=xy, uns=dict(holder.uns))
    return reader.section(place, name, where, mods)
