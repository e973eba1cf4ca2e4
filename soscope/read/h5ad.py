"""An ``.h5ad`` file in the conventions of scanpy and squidpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from spatialdata import SpatialData

from soscope import contract
from soscope.distances import typical_distance
from soscope.errors import ConfigError, DataError
from soscope.names import section_name
from soscope.read.array import array_obs
from soscope.read.base import (
    RawSection,
    Reader,
    as_image,
    check_ids,
    check_inside,
    check_names,
    eight_bit,
    kept_var,
    number_symbols,
    split_modalities,
)
from soscope.read.slides import open_slide
from soscope.read.visium import under_tissue

SIZES = ("fullres", "hires", "lowres")
"""Of images in ``uns['spatial']``, the finest first; positions are pixels of ``fullres``, as CELLxGENE keeps it."""


@dataclass
class AnnDataReader(Reader, name="anndata"):
    """Read a file with counts, ``obsm['spatial']`` and, as scanpy and squidpy keep them, images in ``uns['spatial']``.

    Attributes
    ----------
    layer
        Layer that holds the counts; null: ``X``.
    positions
        Key of ``obsm``: x and y in pixels of the full-resolution image.
    library
        Key of ``uns['spatial']``; needed where there are several and no ``image_file``.
    image_file
        Full-resolution image or slide; the file's own image of highest resolution is taken without it, if there is any.
    lattice
        ``hex`` or ``square``: find array coordinates from positions, where ``obs`` has no ``array_row``, ``array_col``.
    modality
        Name of the table; null: by ``var['feature_types']``, ``rna`` without.
    """

    layer: str | None = None
    positions: str = "spatial"
    library: str | None = None
    image_file: str | None = None
    lattice: str | None = None
    modality: str | None = None

    def inputs(self, path: Path | None) -> list[Path]:
        """List the file and the slide."""
        if path is None or not path.is_file():
            raise DataError(f"data.path='{path}' is not a file. Point it at an .h5ad file.")
        if self.image_file is None:
            return [path]
        slide = Path(self.image_file).expanduser()
        if not slide.is_file():
            raise DataError(
                f"data.options.image_file='{slide}' is not a file. Leave it out to use the image inside '{path}'."
            )
        return [path, slide]

    def read(self, path: Path | None) -> RawSection:
        """Read one file; spots with ``in_tissue`` other than 1 are left out."""
        files = self.inputs(path)
        return RawSection(self.section(open_h5ad(files[0]), section_name(files[0]), f"'{files[0]}'", files=files))

    def section(
        self,
        table: AnnData,
        name: str,
        where: str,
        tables: Mapping[str, AnnData] | None = None,
        files: Sequence[Path] = (),
    ) -> SpatialData:
        """Turn a table in memory into a section.

        Parameters
        ----------
        table
            Positions, array coordinates and image, as in a file; its counts too, where there are no ``tables``.
        name, where
            Name of the section, and what messages call it.
        tables
            Counts of the same spots, in any order, by modality.
        files
            What it was read from.
        """
        table = number_symbols(table)
        check_names(table, where)
        table = under_tissue(table, where) if "in_tissue" in table.obs else table
        xy = positions_of(table, self.positions, where)
        library = self._library(table, where)
        image, scale, source = self._image(library, typical_distance(xy), where)
        check_inside(xy * scale, image, f"section '{name}', {source}")
        obs = array_obs(table, xy, self.lattice, f"section '{name}'")
        if tables is None:
            parts = counts_of(table, obs, self.layer, self.modality, where)
        else:
            own = {m: counts_of(t[table.obs_names], obs, self.layer, m, f"{where}, '{m}'") for m, t in tables.items()}
            parts = {m: part[m] for m, part in own.items()}
        facts = {"reader": "anndata", "image_source": source, "files": [str(f) for f in files]}
        diameter = library.get("scalefactors", {}).get("spot_diameter_fullres") or typical_distance(xy) / 2
        radius, names = max(float(diameter) * scale / 2, 1e-6), table.obs_names.tolist()
        return contract.new_section(name, image, names, xy * scale, radius, parts, **facts)

    def _library(self, table: AnnData, where: str) -> Mapping[str, Any]:
        """Return the entry of ``uns['spatial']`` that is named, or the only one; an empty one where none is needed."""
        entries = table.uns.get("spatial")
        held = entries.items() if isinstance(entries, Mapping) else ()
        libraries = {name: entry for name, entry in held if isinstance(entry, Mapping)}  # others are flags
        if self.library is not None and self.library not in libraries:
            raise ConfigError(
                f"{where}: no data.options.library={self.library} in uns['spatial']. Choose from: "
                f"{', '.join(libraries) or 'none'}."
            )
        if self.library is not None:
            return libraries[self.library]
        if len(libraries) > 1 and self.image_file is None:
            raise ConfigError(
                f"{where}: uns['spatial'] has {', '.join(libraries)}. Name one with data.options.library=..., and keep its spots "
                "alone: one file is one section."
            )
        return next(iter(libraries.values())) if len(libraries) == 1 else {}

    def _image(self, library: Mapping[str, Any], pitch_px: float, where: str) -> tuple[np.ndarray | None, float, str]:
        """Return the image of highest resolution, its pixels per full-resolution pixel, and where it is from."""
        if self.image_file is not None:
            return *open_slide(Path(self.image_file).expanduser(), pitch_px), self.image_file
        for size in SIZES:
            if size in library.get("images", {}):
                return *image_in(library, size, f"{where}, uns['spatial']"), f"uns['spatial'], {size}"
        return None, 1.0, "none"


def open_h5ad(file: Path) -> AnnData:
    """Read an ``.h5ad`` file; `DataError` when it is damaged or another kind of file."""
    try:
        with contract.quiet():
            return read_h5ad(file)
    except Exception as error:
        raise DataError(
            f"'{file}' cannot be read as .h5ad ({type(error).__name__}: {error}). It may be truncated, or another kind of file."
        ) from error


def positions_of(table: AnnData, key: str, where: str) -> np.ndarray:
    """Return x and y of spots, ``(n_spots, 2)``; `DataError` when there are none under ``key``."""
    if key not in table.obsm:
        raise DataError(
            f"{where}: no positions obsm['{key}']; obsm has: {', '.join(table.obsm) or 'nothing'}. Name the key with "
            "data.options.positions=..."
        )
    values = np.asarray(table.obsm[key])
    if values.ndim != 2 or values.shape[1] < 2:
        raise DataError(f"{where}: obsm['{key}'] has shape {values.shape}, expected x and y of {table.n_obs:,} spots.")
    return values[:, :2].astype(np.float64)


def counts_of(
    table: AnnData, obs: pd.DataFrame, layer: str | None, modality: str | None, where: str
) -> dict[str, AnnData]:
    """Return counts per modality with array coordinates alone; `DataError` for an absent layer and repeated features."""
    table = number_symbols(table)
    check_names(table, where)
    check_ids(table, where)
    if layer is not None and layer not in table.layers:
        raise DataError(
            f"{where}: no data.options.layer={layer}; layers are: {', '.join(table.layers) or 'none'}. Counts in X need none."
        )
    values = table.X if layer is None else table.layers[layer]
    if values is None:
        raise DataError(
            f"{where}: X is empty. Name the layer that holds the counts, of {', '.join(table.layers) or 'none'}, with "
            "data.options.layer=..."
        )
    plain = AnnData(X=values.astype(np.float32), obs=obs, var=kept_var(table))
    return split_modalities(plain) if modality is None else {modality: plain}


def image_in(library: Any, size: str, where: str) -> tuple[np.ndarray, float]:
    """Return an image and its scale factor, 1 of the full-resolution one."""
    known = {"tissue_fullres_scalef": 1.0, **library.get("scalefactors", {})}
    scale = known.get(f"tissue_{size}_scalef")
    if scale is None:
        raise DataError(f"{where}: an image, but no scalefactors['tissue_{size}_scalef'] to place spots on it.")
    pixels = np.moveaxis(np.atleast_3d(library["images"][size]), -1, 0)
    return as_image(eight_bit(pixels), f"{where}, image '{size}'"), float(scale)
