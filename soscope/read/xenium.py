"""Xenium ``outs`` folders: a grid over transcripts, or cells inside a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from anndata import AnnData
from rich.progress import track
from scipy import sparse
from spatialdata import SpatialData

from soscope import contract
from soscope.affine import Affine
from soscope.errors import ConfigError, DataError
from soscope.names import section_name
from soscope.read.base import RawSection, Reader, check_ids, check_inside, check_names, existing_folder
from soscope.read.frame import image_frame
from soscope.read.grid import bins_of, section_of_bins, section_of_cells

FILES = ("experiment.xenium", "cells.parquet", "cells.zarr.zip", "cell_feature_matrix.h5")
TRANSCRIPTS, BOUNDARIES = "transcripts.parquet", "cell_boundaries.parquet"
NOT_READ = ("cells_boundaries", "nucleus_boundaries", "cells_labels", "nucleus_labels", "transcripts", "morphology_mip")
WHAT = "a Xenium 'outs' folder"


@dataclass
class XeniumReader(Reader, name="xenium"):
    """Read a Xenium folder with spatialdata-io; control probes and codewords are left out.

    Attributes
    ----------
    spots
        ``grid``: spots are bins of transcripts, to be split. ``cells``: spots are bins of cells, and the cells in them the
        subspots; their own counts are the truth, which nothing is trained on.
    grid_um
        Side of a bin.
    min_qv
        Transcripts of a lower quality value are left out of ``grid``.
    image
        Name spatialdata-io gives an image, such as ``he_image``; null without an image.
    """

    spots: str = "grid"
    grid_um: float = 50.0
    min_qv: float = 20.0
    image: str | None = None

    def __post_init__(self) -> None:
        if self.spots not in LAYOUTS:
            raise ConfigError(f"data.options.spots={self.spots} is unknown. Choose from: {', '.join(LAYOUTS)}.")
        if not self.grid_um > 0:
            raise ConfigError(f"data.options.grid_um={self.grid_um} must be a width in micrometres, above 0.")

    def inputs(self, path: Path | None) -> list[Path]:
        """List the files of cells, and transcripts or outlines, whichever are used."""
        folder = existing_folder(path, WHAT)
        files = [folder / name for name in (*FILES, LAYOUTS[self.spots].file)]
        for file in files:
            if not file.is_file():
                raise DataError(
                    f"'{folder}': '{file.name}' is missing. Point data.path at {WHAT}, with {', '.join(FILES)}."
                )
        return files

    def read(self, path: Path | None) -> RawSection:
        """Read one folder."""
        files = self.inputs(path)
        folder, layout = existing_folder(path, WHAT), LAYOUTS[self.spots]
        with contract.quiet():
            sdata = self._open(folder)
        table = sdata.tables["table"]
        check_names(table, f"'{folder}'")
        check_ids(table, f"'{folder / FILES[-1]}'")
        image, to_px = image_frame(sdata, layout.element(sdata), self.image, self.grid_um)
        facts = {"reader": "xenium", "image_source": self.image or "none", "files": [str(f) for f in files]}
        raw = layout.make(self, section_name(folder), sdata, image, to_px, facts)
        xy_px = np.asarray(raw.sdata.tables["rna"].obsm["spatial"])
        half = self.grid_um / 2 * to_px.pitch_px  # bins at the border are cut off, and their centres may lie beyond it
        check_inside(xy_px, image, f"section '{raw.name}', image '{self.image}'", half)
        return raw

    def _open(self, folder: Path) -> SpatialData:
        import spatialdata_io

        try:
            return spatialdata_io.xenium(
                folder,
                morphology_focus=self.image == "morphology_focus",
                aligned_images=self.image is not None,
                **dict.fromkeys(NOT_READ, False) | {LAYOUTS[self.spots].part: True},
            )
        except Exception as error:
            raise DataError(
                f"'{folder}' cannot be read ({type(error).__name__}: {error}). A file may be truncated, or written by a newer "
                "version of Xenium's software than the installed spatialdata-io knows."
            ) from error

    def _grid(self, name: str, sdata: SpatialData, image: Any, to_px: Affine, facts: dict[str, Any]) -> RawSection:
        features = sdata.tables["table"].var_names
        found = count_transcripts(sdata.points["transcripts"], features, self.grid_um, self.min_qv)
        if not len(found):
            raise DataError(
                f"section '{name}': no transcript of a gene has qv of {self.min_qv:g} or more. Lower data.options.min_qv."
            )
        bins, spot = np.unique(found[["row", "col"]].to_numpy(), axis=0, return_inverse=True)
        entries = (found["count"].to_numpy(np.float32), (spot.ravel(), found["feature"].to_numpy()))
        counts = sparse.csr_matrix(entries, shape=(len(bins), len(features)))
        table = AnnData(X=counts, var=pd.DataFrame(index=features))
        return section_of_bins(name, image, bins, table, self.grid_um, to_px, **facts)

    def _cells(self, name: str, sdata: SpatialData, image: Any, to_px: Affine, facts: dict[str, Any]) -> RawSection:
        table = sdata.tables["table"]
        ids = table.obs["cell_id"].astype(str).to_numpy()
        table.obs_names = pd.Index(ids)
        outlines = sdata.shapes["cell_boundaries"]
        outlines = outlines.set_axis(outlines.index.astype(str))
        known = np.isin(ids, outlines.index)
        if not known.all():
            raise DataError(
                f"section '{name}': {int((~known).sum()):,} of {len(ids):,} cells have no outline in {BOUNDARIES} (first: "
                f"'{ids[~known][0]}'). The files come from different runs."
            )
        matrix = [*to_px.matrix.T.ravel(), *to_px.shift]
        cells = gpd.GeoDataFrame(geometry=outlines.loc[ids].geometry.affine_transform(matrix))
        xy_um = np.asarray(table.obsm["spatial"], dtype=np.float64)
        return section_of_cells(name, image, cells, xy_um, table, self.grid_um, to_px, **facts)


def count_transcripts(points: Any, features: pd.Index, grid_um: float, min_qv: float) -> pd.DataFrame:
    """Count transcripts per bin, part by part of a dask table ``x, y, qv, feature_name``.

    Returns
    -------
    Columns ``row, col, feature`` (number in ``features``; others, such as control probes, are left out) and ``count``.
    """
    keys = ["row", "col", "feature"]
    parts = []
    n = points.npartitions
    for part in track(points.partitions, "transcripts", total=n, disable=n < 4, transient=True):
        rows = part[["x", "y", "qv", "feature_name"]].compute()
        names = rows["feature_name"].astype("category").cat
        feature = features.get_indexer(names.categories.astype(str))[names.codes]
        kept = (feature >= 0) & (rows["qv"].to_numpy() >= min_qv)
        bins = bins_of(rows[["x", "y"]].to_numpy(np.float64)[kept], grid_um)
        found = pd.DataFrame({"row": bins[:, 0], "col": bins[:, 1], "feature": feature[kept], "count": 1})
        parts.append(found.groupby(keys, as_index=False).sum())
    return pd.concat(parts).groupby(keys, as_index=False).sum()


@dataclass
class Layout:
    """What stands for spots: the file it needs, spatialdata-io's word for it, the element read, and how spots are made."""

    file: str
    part: str
    element: Callable[[SpatialData], Any]
    make: Callable[..., RawSection]


LAYOUTS = {
    "grid": Layout(TRANSCRIPTS, "transcripts", lambda sdata: sdata.points["transcripts"], XeniumReader._grid),
    "cells": Layout(BOUNDARIES, "cells_boundaries", lambda sdata: sdata.shapes["cell_boundaries"], XeniumReader._cells),
}
