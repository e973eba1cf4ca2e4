"""Space Ranger ``outs`` folders, and folders laid out like one (DBiT-like grids among them)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope import contract
from soscope.distances import typical_distance
from soscope.errors import DataError
from soscope.names import section_name
from soscope.read.base import (
    RawSection,
    Reader,
    check_ids,
    check_inside,
    check_names,
    existing_folder,
    kept_var,
    open_image,
    split_modalities,
)
from soscope.read.slides import open_slide
from soscope.read.space_ranger import MATRIX, read_table

COUNTS = (f"{MATRIX}.h5", f"{MATRIX}/matrix.mtx.gz")
POSITIONS = ("spatial/tissue_positions.csv", "spatial/tissue_positions_list.csv")
SCALES = "spatial/scalefactors_json.json"
NEEDED = ("spot_diameter_fullres", "tissue_hires_scalef", "tissue_lowres_scalef")
WHAT = "a Space Ranger 'outs' folder"
IMAGES = {"hires": "spatial/tissue_hires_image.png", "lowres": "spatial/tissue_lowres_image.png"}


@dataclass
class VisiumReader(Reader, name="visium"):
    """Read a Space Ranger folder: counts and positions with spatialdata-io, images as other readers do.

    Attributes
    ----------
    counts_file
        Matrix inside the folder; found by itself when it has Space Ranger's name, perhaps with a prefix as in 10x's downloads.
    image_file
        Full-resolution image or slide, the one positions are pixels of; the hires image, then the lowres one, is taken
        without it.
    """

    counts_file: str | None = None
    image_file: str | None = None

    def inputs(self, path: Path | None) -> list[Path]:
        """List matrix, positions, scale factors and the image used."""
        folder = existing_folder(path, WHAT)
        counts = self._counts(folder)
        beside = sorted(counts.parent.glob("*.tsv.gz")) if counts.suffix == ".gz" else []
        image = Path(self.image_file).expanduser() if self.image_file else self._image(folder)[1]
        return [counts, *beside, self._positions(folder), folder / SCALES, image]

    def read(self, path: Path | None) -> RawSection:
        """Read one folder; only spots under tissue are kept."""
        folder = existing_folder(path, WHAT)
        inputs = self.inputs(folder)
        for file in inputs:
            if not file.is_file():
                raise DataError(f"'{folder}': '{file}' is missing. Point data.path at {WHAT}.")
        scales, section = read_scales(folder / SCALES, NEEDED), section_name(folder)
        table = read_table(inputs[0], self._positions(folder), folder / SCALES)
        check_names(table, f"section '{section}'")
        check_ids(table, f"'{inputs[0]}'")
        table = under_tissue(table, f"'{self._positions(folder)}'")
        xy_px = np.asarray(table.obsm["spatial"], dtype=np.float64)
        image, scale, source = self._pick_image(folder, scales, typical_distance(xy_px))
        xy_px = xy_px * scale
        check_inside(xy_px, image, f"section '{section}', {source}")
        tables = {name: plain(part) for name, part in split_modalities(table).items()}
        radius = scales["spot_diameter_fullres"] / 2 * scale
        facts = {"reader": "visium", "image_source": source, "files": [str(f) for f in inputs]}
        names = table.obs_names.tolist()
        return RawSection(contract.new_section(section, image, names, xy_px, radius, tables, **facts))

    def _counts(self, folder: Path) -> Path:
        """Find the matrix: as it is named, as Space Ranger calls it, or the only one with a prefix (10x's downloads)."""
        candidates = (self.counts_file,) if self.counts_file else COUNTS
        for name in candidates:
            if (folder / name).is_file():
                return folder / name
        prefixed = [] if self.counts_file else sorted(folder.glob(f"*_{COUNTS[0]}"))
        if len(prefixed) == 1:
            return prefixed[0]
        found = (
            f"{len(prefixed)} with a prefix: {', '.join(f.name for f in prefixed)}. Name one"
            if prefixed
            else "name another"
        )
        raise DataError(
            f"'{folder}': no count matrix. Looked for {' and '.join(candidates)}; {found} with data.options.counts_file=..."
        )

    def _positions(self, folder: Path) -> Path:
        for name in POSITIONS:
            if (folder / name).is_file():
                return folder / name
        raise DataError(f"'{folder}': no spot positions. Looked for {' and '.join(POSITIONS)}.")

    def _image(self, folder: Path) -> tuple[str, Path]:
        for kind, name in IMAGES.items():
            if (folder / name).is_file():
                return kind, folder / name
        raise DataError(f"'{folder}': no image. Looked for {' and '.join(IMAGES.values())}.")

    def _pick_image(self, folder: Path, scales: dict[str, float], pitch_px: float) -> tuple[np.ndarray, float, str]:
        """Return the image of highest resolution, its pixels per full-resolution pixel, and its file."""
        if self.image_file:
            return *open_slide(Path(self.image_file).expanduser(), pitch_px), str(self.image_file)
        kind, file = self._image(folder)
        return open_image(file), scales[f"tissue_{kind}_scalef"], file.name


def read_scales(file: Path, needed: Sequence[str]) -> dict[str, float]:
    """Read Space Ranger's scale factors; `DataError` when the file is no JSON or lacks a number that is ``needed``."""
    try:
        scales = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"'{file}' is not valid JSON ({error}). Copy it again from Space Ranger's output.") from error
    missing = [key for key in needed if not isinstance(scales.get(key), int | float)]
    if missing:
        raise DataError(f"'{file}' has no number for {', '.join(missing)}; it holds: {', '.join(scales)}.")
    return dict(scales)


def under_tissue(table: AnnData, where: str) -> AnnData:
    """Keep spots with ``in_tissue`` = 1; `DataError` that names where it stands when there is none."""
    inside = pd.to_numeric(table.obs["in_tissue"], errors="coerce").to_numpy() == 1
    if not inside.any():
        raise DataError(
            f"{where}: none of the {table.n_obs:,} spots of the matrix has in_tissue = 1. "
            "Redo the tissue detection, or set in_tissue by hand."
        )
    return table[inside].copy()


def plain(table: AnnData) -> AnnData:
    """Keep counts, names and lattice coordinates; drop what the reader's own SpatialData layout added."""
    obs = table.obs[["array_row", "array_col"]].astype(np.int64)
    return AnnData(X=table.X.tocsr().astype(np.float32), obs=obs, var=kept_var(table))
