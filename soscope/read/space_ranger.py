"""The table of a Space Ranger folder: read by spatialdata-io once matrix and positions are known to belong together."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import pandas as pd
from anndata import AnnData

from soscope import contract
from soscope.errors import DataError

MATRIX = "filtered_feature_bc_matrix"
COLUMNS = ["in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]


def read_table(counts: Path, positions: Path, scales: Path) -> AnnData:
    """Read counts and positions of the spots of a matrix, ``.h5`` or ``matrix.mtx.gz`` between its lists.

    Features that share a symbol are numbered. ``obsm["spatial"]`` is x, y in pixels of the full-resolution image.

    Raises
    ------
    DataError
        When a file is damaged, and when a barcode is repeated in a file or has no position.
    """
    import spatialdata_io

    check_barcodes(counts, positions)
    try:
        with _staged(counts, positions, scales) as (folder, name), contract.quiet():
            sdata = spatialdata_io.visium(folder, dataset_id="section", counts_file=name, gex_only=False)
    except Exception as error:
        raise DataError(
            f"'{counts}' and '{positions}' cannot be read ({type(error).__name__}: {error}). One of them, or a list beside the "
            "matrix, may be truncated: compare sizes with the originals'."
        ) from error
    return sdata.tables["table"]


def check_barcodes(counts: Path, positions: Path) -> None:
    """Refuse barcodes that are repeated or have no position: spatialdata-io renames the one, and leaves gaps for the other."""
    found, known = _barcodes(counts), pd.Index(read_positions(positions).index)
    for file, names in ((counts, found), (positions, known)):
        twice = names[names.duplicated()].unique()
        if len(twice):
            raise DataError(
                f"'{file}': {len(twice):,} barcodes occur more than once (first: '{twice[0]}'). Keep one row of each."
            )
    lost = found[~found.isin(known)]
    if len(lost):
        raise DataError(
            f"'{counts}': {len(lost):,} of {len(found):,} barcodes have no position in '{positions.name}' (first: '{lost[0]}'; "
            f"positions start with '{known[0]}'). Matrix and positions come from different sections or barcode suffixes."
        )


def read_positions(file: Path) -> pd.DataFrame:
    """Read Space Ranger's positions, with a line of names or without, by barcode; `DataError` for anything else."""
    try:
        rows = pd.read_csv(file, header=None, index_col=0, dtype=str)
        rows = rows.iloc[1:] if "in_tissue" in rows.iloc[0].tolist() else rows
        return rows.set_axis(COLUMNS, axis=1).apply(pd.to_numeric)
    except Exception as error:
        raise DataError(
            f"'{file}' cannot be read as positions ({type(error).__name__}: {error}). Expected a barcode and "
            f"{', '.join(COLUMNS)}, separated by commas. The file is damaged or truncated; copy it again."
        ) from error


def _barcodes(counts: Path) -> pd.Index:
    """Return the barcodes of a matrix as its file has them."""
    beside = counts.with_name(counts.name.replace("matrix.mtx.gz", "barcodes.tsv.gz"))
    try:
        if counts.suffix == ".h5":
            with h5py.File(counts) as file:
                return pd.Index(file["matrix/barcodes"][:].astype(str))
        with gzip.open(beside, "rt") as stream:
            return pd.Index([line.split("\t")[0].strip() for line in stream])
    except Exception as error:
        raise DataError(
            f"barcodes of '{counts}' cannot be read ({type(error).__name__}: {error}). The file is damaged or truncated; copy "
            "it again."
        ) from error


@contextmanager
def _staged(counts: Path, positions: Path, scales: Path) -> Iterator[tuple[Path, str]]:
    """Lay these files alone into a folder, and return it and the matrix's name there.

    spatialdata-io (0.7) opens every hires and lowres image that is there as one in colour, and stops at others.
    """
    with TemporaryDirectory(prefix="soscope-") as there:
        folder = Path(there)
        (folder / "spatial").mkdir()
        for file in (positions, scales):
            _link(file, folder / "spatial" / file.name)
        single = counts.suffix == ".h5"
        name = f"{MATRIX}.h5" if single else f"{MATRIX}/{counts.name}"
        _link(counts if single else counts.parent, folder / (name if single else MATRIX))
        yield folder, name


def _link(source: Path, to: Path) -> None:
    """Link to a file or folder; copy it where the system allows no links."""
    try:
        to.symlink_to(source.resolve(), target_is_directory=source.is_dir())
    except OSError:
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, to)
