"""Write a small folder in Space Ranger's real layout, for readers to read and for tests to spoil."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse
from scipy.io import mmwrite

from soscope import contract
from soscope.read import DemoReader
from soscope.simulated_folders import write_10x_h5

SCALE = 0.5


def write_folder(
    folder: Path, *, mtx: bool = False, header: bool = False, protein: bool = False, lowres_only: bool = False
) -> Path:
    """Write matrix (h5 or mtx), positions (old or new name), scale factors and images of a simulated section."""
    raw = DemoReader(rows=10, columns=8, n_features=40).read(None).sdata
    table = raw.tables["rna"]
    counts = sparse.csr_matrix(table.X)
    features = pd.DataFrame(
        {"id": [f"ENSG{i:011d}" for i in range(40)], "name": table.var_names, "type": "Gene Expression"}
    )
    if protein:
        counts = sparse.hstack([counts, 50 * sparse.csr_matrix(np.ones((table.n_obs, 2)))]).tocsr()
        extra = pd.DataFrame({"id": ["CD3", "CD8"], "name": ["CD3", "CD8"], "type": "Antibody Capture"})
        features = pd.concat([features, extra])
    barcodes = [f"{'ACGT' * 4}-{i}" for i in range(table.n_obs)]
    (folder / "spatial").mkdir(parents=True)
    (_write_mtx if mtx else write_10x_h5)(folder, counts, features, barcodes)
    xy = np.asarray(table.obsm["spatial"]) / SCALE
    positions = pd.DataFrame(
        {
            "barcode": barcodes,
            "in_tissue": 1,
            "array_row": table.obs["array_row"].to_numpy(),
            "array_col": table.obs["array_col"].to_numpy(),
            "pxl_row_in_fullres": xy[:, 1].round(2),
            "pxl_col_in_fullres": xy[:, 0].round(2),
        }
    )
    positions.loc[len(positions)] = ["TTTTTTTTTTTTTTTT-1", 0, 50, 50, 9999.0, 9999.0]
    name = "tissue_positions.csv" if header else "tissue_positions_list.csv"
    positions.to_csv(folder / "spatial" / name, index=False, header=header)
    scales = {"tissue_hires_scalef": SCALE, "tissue_lowres_scalef": SCALE / 2, "spot_diameter_fullres": 26.0}
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(scales | {"fiducial_diameter_fullres": 40.0}))
    image = Image.fromarray(np.moveaxis(contract.image_of(raw), 0, -1))
    if not lowres_only:
        image.save(folder / "spatial" / "tissue_hires_image.png")
    small = image.resize((-(-image.width // 2), -(-image.height // 2)))
    small.save(folder / "spatial" / "tissue_lowres_image.png")
    return folder


def _write_mtx(folder: Path, counts: sparse.csr_matrix, features: pd.DataFrame, barcodes: list[str]) -> None:
    inside = folder / "filtered_feature_bc_matrix"
    inside.mkdir()
    with gzip.open(inside / "matrix.mtx.gz", "wb") as stream:
        mmwrite(stream, sparse.coo_matrix(counts.T.astype(np.int32)))
    with gzip.open(inside / "features.tsv.gz", "wt") as stream:
        features.to_csv(stream, sep="\t", header=False, index=False)
    with gzip.open(inside / "barcodes.tsv.gz", "wt") as stream:
        stream.write("\n".join(barcodes) + "\n")
