"""Write a small folder in the layout Space Ranger gives Visium HD, for readers to read and for tests to spoil."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse

from soscope.simulated_folders import write_10x_h5

UM_PER_PX = 0.5
HIRES = 0.25
SIDE_UM = 192
MARGIN_PX = 40


def write_hd(folder: Path, bins: tuple[int, ...] = (8, 16), n_features: int = 15) -> Path:
    """Write bins that count the same transcripts, a feature slice with its metadata, and a hires image."""
    rng = np.random.default_rng(0)
    xy_um = rng.uniform(0, SIDE_UM, (20_000, 2))
    feature = rng.integers(0, n_features, len(xy_um))
    for um in bins:
        _write_bins(folder / "binned_outputs" / f"square_{um:03}um", um, xy_um, feature, n_features)
    (folder / "spatial").mkdir(parents=True)
    side = int((SIDE_UM / UM_PER_PX + 2 * MARGIN_PX) * HIRES)
    Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(
        folder / "spatial" / "tissue_hires_image.png"
    )
    layout = {"file_format": "1.0", "transform": np.eye(3).tolist()}
    with h5py.File(folder / "feature_slice.h5", "w") as file:
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": json.dumps(layout), "transform_matrices": {}})
    return folder


def _write_bins(folder: Path, um: int, xy_um: np.ndarray, feature: np.ndarray, n_features: int) -> None:
    side = SIDE_UM // um
    col, row = (xy_um // um).astype(np.int64).T
    spot = row * side + col
    counts = sparse.csr_matrix((np.ones(len(spot)), (spot, feature)), shape=(side * side, n_features))
    counts.sum_duplicates()
    names = [f"gene_{i}" for i in range(n_features)]
    features = pd.DataFrame({"id": [f"ENSG{i:011d}" for i in range(n_features)], "name": names})
    row, col = (a.ravel() for a in np.mgrid[:side, :side])
    barcodes = [f"s_{um:03}um_{r:05}_{c:05}-1" for r, c in zip(row, col, strict=True)]
    (folder / "spatial").mkdir(parents=True)
    write_10x_h5(folder, counts, features.assign(type="Gene Expression"), barcodes)
    px = um / UM_PER_PX
    columns = {"barcode": barcodes, "in_tissue": 1, "array_row": row, "array_col": col}
    pixels = {"pxl_row_in_fullres": (row + 0.5) * px + MARGIN_PX, "pxl_col_in_fullres": (col + 0.5) * px + MARGIN_PX}
    positions = pd.DataFrame(columns | pixels)
    positions.loc[0, "in_tissue"] = 0
    positions.to_parquet(folder / "spatial" / "tissue_positions.parquet", index=False)
    scales = {
        "spot_diameter_fullres": px,
        "bin_size_um": float(um),
        "microns_per_pixel": UM_PER_PX,
        "regist_target_img_scalef": HIRES,
        "tissue_lowres_scalef": HIRES / 10,
        "fiducial_diameter_fullres": 10 * px,
        "tissue_hires_scalef": HIRES,
    }
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(scales))


def write_segmented(folder: Path) -> Path:
    """Add two segmented cells, as Space Ranger 4 does."""
    cells, square = folder / "segmented_outputs", np.array([[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]])
    (cells / "spatial").mkdir(parents=True)
    scales = next(folder.glob("binned_outputs/*/spatial/scalefactors_json.json"))
    (cells / "spatial" / "scalefactors_json.json").write_bytes(scales.read_bytes())
    outlines = [
        {"properties": {"cell_id": i}, "geometry": {"coordinates": [(square + 20 * i).tolist()]}} for i in (1, 2)
    ]
    (cells / "cell_segmentations.geojson").write_text(json.dumps({"features": outlines}))
    features = pd.DataFrame({"id": ["ENSG0"], "name": ["gene_0"], "type": "Gene Expression"})
    write_10x_h5(cells, sparse.csr_matrix([[3], [4]]), features, [f"cellid_{i:09d}-1" for i in (1, 2)])
    (cells / "filtered_feature_bc_matrix.h5").rename(cells / "filtered_feature_cell_matrix.h5")
    return folder
