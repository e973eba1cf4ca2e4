"""DBiT-seq folders: a matrix of spots ``XxY`` with the pixels under tissue, or AnnData with the chip's barcodes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope import contract
from soscope.distances import typical_distance
from soscope.errors import ConfigError, DataError
from soscope.names import section_name
from soscope.read.base import (
    RawSection,
    Reader,
    as_image,
    check_inside,
    check_names,
    existing_file,
    existing_folder,
    open_image,
)
from soscope.read.wide import as_counts, read_wide

COUNTS = ("Filtered_matrix.tsv", "*.h5ad")
UNDER_TISSUE, BARCODES, PLACE = "position.txt", "*barcode_list*", re.compile(r"(\d+)x(\d+)")
WHAT = "a DBiT-seq folder with a matrix of spots named XxY, or with .h5ad and barcode_list"
Found = tuple[AnnData, np.ndarray, "np.ndarray | None"]


@dataclass
class DbitReader(Reader, name="dbit"):
    """Read a folder of a microfluidic grid.

    Attributes
    ----------
    counts_file
        ``Filtered_matrix.tsv``, or another table whose rows are spots ``XxY``, 1 to ``n_channels``; or ``.h5ad`` whose rows are
        named by barcodes B and A, with a list of barcodes beside it. Found by itself under the usual names.
    image_file
        Image inside the folder, cropped to the grid: from the first channel's outer edge to the last one's. null without one.
    n_channels
        Channels each way, of a matrix of ``XxY``.
    """

    counts_file: str | None = None
    image_file: str | None = None
    n_channels: int = 50

    def inputs(self, path: Path | None) -> list[Path]:
        """List counts, spots under tissue or barcodes, and the image."""
        folder = existing_folder(path, WHAT)
        counts = self._counts(folder)
        image = [] if self.image_file is None else [existing_file(folder / self.image_file, "image_file")]
        return [counts, *self._layout(counts).beside(folder), *image]

    def read(self, path: Path | None) -> RawSection:
        """Read one folder; only spots under tissue are kept where these are listed."""
        files = self.inputs(path)
        section = section_name(existing_folder(path, WHAT))
        table, xy_px, image = self._layout(files[0]).read(self, files)
        check_inside(xy_px, image, f"section '{section}', {self.image_file}")
        facts = {"reader": "dbit", "image_source": self.image_file or "none", "files": [str(f) for f in files]}
        radius, names = typical_distance(xy_px) / 4, table.obs_names.tolist()
        return RawSection(contract.new_section(section, image, names, xy_px, radius, {"rna": table}, **facts))

    def _counts(self, folder: Path) -> Path:
        if self.counts_file is not None:
            return existing_file(folder / self.counts_file, "counts_file")
        for pattern in COUNTS:
            found = sorted(folder.glob(pattern))
            if len(found) > 1:
                raise ConfigError(
                    f"'{folder}' holds {', '.join(f.name for f in found)}. Name one with data.options.counts_file=..."
                )
            if found:
                return found[0]
        return existing_file(folder / COUNTS[0], "counts_file")

    def _layout(self, counts: Path) -> Layout:
        return LAYOUTS.get(counts.suffix, LAYOUTS[""])

    def _of_matrix(self, files: list[Path]) -> Found:
        """Read a matrix of ``XxY``; channels are as wide as the gaps between them."""
        table = as_counts(read_wide(files[0]), files[0], "Give raw counts.")
        check_names(table, f"'{files[0]}'")
        place = places(table, files[0], self.n_channels)
        listed = [f for f in files[1:] if f.name == UNDER_TISSUE]
        if listed:
            kept = under_tissue(table.obs_names, listed[0])
            table, place = table[kept].copy(), place[kept]
        table.obs = pd.DataFrame({"array_row": place[:, 1] - 1, "array_col": place[:, 0] - 1}, index=table.obs_names)
        image = None if self.image_file is None else open_image(files[-1])
        n_widths = 2 * self.n_channels - 1
        width_px = np.ones(2) if image is None else np.array(image.shape[:0:-1]) / n_widths
        return table, (2 * (place - 1) + 0.5) * width_px, image

    def _of_barcodes(self, files: list[Path]) -> Found:
        """Read AnnData and the chip's barcodes with spatialdata-io."""
        import spatialdata_io

        folder, image = files[0].parent, None if self.image_file is None else str(files[-1])
        try:
            with contract.quiet():
                sdata = spatialdata_io.dbit(
                    folder,
                    anndata_path=str(files[0]),
                    barcode_position=str(files[1]),
                    image_path=image,
                    dataset_id="section",
                )
        except Exception as error:
            raise DataError(
                f"'{folder}' cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}). Expected "
                f"rows of '{files[0].name}' named by 8 bases "
                f"of barcode B, then 8 of A, and '{files[1].name}' with a line per barcode: A1 or B1, a tab, its bases."
            ) from error
        read = sdata.tables["table"]
        check_names(read, f"'{files[0]}'")
        array = read.obs[["array_B", "array_A"]].to_numpy(np.int64) - 1
        obs = pd.DataFrame(array, columns=["array_row", "array_col"], index=read.obs_names)
        table = AnnData(X=read.X, obs=obs, var=pd.DataFrame(index=read.var_names))
        centre = sdata.shapes["section"].geometry.centroid
        xy_px = np.column_stack([centre.x, centre.y])
        pixels = None if image is None else as_image(np.asarray(sdata.images["section_image"].data), f"'{image}'")
        return table, xy_px, pixels


def places(table: AnnData, file: Path, n_channels: int) -> np.ndarray:
    """Return X and Y of every spot, ``(n_spots, 2)``, from 1; `DataError` for names that say something else."""
    found = [PLACE.fullmatch(name) for name in table.obs_names]
    place = np.array([[int(m[1]), int(m[2])] if m else [0, 0] for m in found])
    wrong = ((place < 1) | (place > n_channels)).any(1)
    if wrong.any():
        raise DataError(
            f"'{file}': {int(wrong.sum()):,} of {len(place):,} rows are not named XxY, 1 to {n_channels} (first: "
            f"'{table.obs_names[wrong][0]}'). Leave out rows that are no spots, or set data.options.n_channels=..."
        )
    return place


def under_tissue(names: pd.Index, file: Path) -> np.ndarray:
    """Tell which spots ``position.txt`` lists, ``XxY`` between commas."""
    listed = {name.strip() for name in file.read_text().replace("\n", ",").split(",")}
    kept = names.isin(listed)
    if not kept.any():
        raise DataError(
            f"'{file}' lists none of the {len(names):,} spots (first: '{names[0]}'). Give XxY between commas."
        )
    return kept


def _tissue(folder: Path) -> list[Path]:
    return [folder / UNDER_TISSUE] * (folder / UNDER_TISSUE).is_file()


def _barcodes(folder: Path) -> list[Path]:
    found = sorted(folder.glob(BARCODES))
    if len(found) != 1:
        raise DataError(
            f"'{folder}': {len(found)} files {BARCODES}, expected one: a line per barcode, A1 or B1, a tab, its bases."
        )
    return found


@dataclass
class Layout:
    """One way a folder is laid out: the files beside its counts, and how all of them are read."""

    beside: Callable[[Path], list[Path]]
    read: Callable[[DbitReader, list[Path]], Found]


LAYOUTS = {"": Layout(_tissue, DbitReader._of_matrix), ".h5ad": Layout(_barcodes, DbitReader._of_barcodes)}
"""By the ending of the counts; the first for all others."""
