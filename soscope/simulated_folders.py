"""Simulated sections as folders on disk, in the layouts of Space Ranger and of the released program."""

from __future__ import annotations

import json
import math
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse

from soscope.data.section import Section
from soscope.simulate import waves

PITCH_PX = 16.0
CHANNELS = 3


def write_released(folder: Path, section: Section) -> None:
    """Write a square section of equal splits as the released program's data folder: positions, graphs, means, features."""
    k = section.n_subspots // section.n_spots
    side = math.isqrt(k)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "label.npy", (section.modalities["rna"].x / k).astype(np.float64))
    np.save(folder / "support_feature.npy", section.image_features[:])
    for name, graph in (("adj.npy", section.spot_graph), ("sub_adj.npy", section.subspot_graph)):
        np.save(folder / name, np.column_stack([*graph.edges, graph.weight.astype(np.float64)]))
    xy = section.subspot_xy_um / section.pitch_um
    cell = np.rint(xy * side + (side - 1) / 2).astype(np.int64)
    table = pd.DataFrame({"imagecol": xy[:, 0] * PITCH_PX, "imagerow": xy[:, 1] * PITCH_PX})
    table.assign(row=cell[:, 1], col=cell[:, 0]).to_csv(folder / "reordered_position_with_center.csv", index=False)


def write_space_ranger(folder: Path, section: Section, seed: int = 0) -> None:
    """Write a hexagonal section as a Space Ranger folder: sparse counts, positions, and an image of a few smooth waves."""
    counts, n = sparse.csr_matrix(section.modalities["rna"].x), section.n_spots
    names = section.modalities["rna"].features
    features = pd.DataFrame({"id": [f"ENSG{i:011d}" for i in range(len(names))], "name": names})
    (folder / "spatial").mkdir(parents=True, exist_ok=True)
    write_10x_h5(folder, counts, features.assign(type="Gene Expression"), [f"{i:016d}-1" for i in range(n)])
    lattice = section.xy_um / section.pitch_um
    row = np.rint(lattice[:, 1] / (math.sqrt(3) / 2)).astype(np.int64)
    xy = (lattice + 1) * PITCH_PX
    write_positions(folder, [f"{i:016d}-1" for i in range(n)], row, np.rint(2 * lattice[:, 0]).astype(np.int64), xy)
    write_scales(folder, 1.0, 0.55 * PITCH_PX)
    height, width = np.ceil(xy.max(0) + PITCH_PX).astype(int)[::-1]
    y, x = np.mgrid[:height, :width]
    pixels = waves(np.stack([x.ravel(), y.ravel()], 1) / PITCH_PX, CHANNELS, np.random.default_rng(seed))
    rgb = np.clip(128 + 100 * pixels, 0, 255).astype(np.uint8).reshape(height, width, CHANNELS)
    Image.fromarray(rgb).save(folder / "spatial" / "tissue_hires_image.png")


def write_10x_h5(folder: Path, counts: sparse.csr_matrix, features: pd.DataFrame, barcodes: list[str]) -> None:
    """Write ``filtered_feature_bc_matrix.h5``: counts ``(n_spots, n_features)``, columns ``id``, ``name``, ``type``."""
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        file.attrs["library_ids"] = np.array([b"simulated"])
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, dtype="S")
        group["data"], group["indices"] = counts.data.astype(np.int32), counts.indices.astype(np.int64)
        group["indptr"], group["shape"] = counts.indptr.astype(np.int64), np.array(counts.shape[::-1])
        described = group.create_group("features")
        for key, column in (("id", "id"), ("name", "name"), ("feature_type", "type")):
            described[key] = features[column].to_numpy(dtype="S")
        described["genome"] = np.array([b"simulated"] * len(features))


def write_positions(folder: Path, barcodes: list[str], row: np.ndarray, col: np.ndarray, xy_px: np.ndarray) -> None:
    """Write ``tissue_positions.csv`` of spots that are all under tissue."""
    columns = {"barcode": barcodes, "in_tissue": 1, "array_row": row, "array_col": col}
    pixels = {"pxl_row_in_fullres": xy_px[:, 1], "pxl_col_in_fullres": xy_px[:, 0]}
    pd.DataFrame(columns | pixels).to_csv(folder / "spatial" / "tissue_positions.csv", index=False)


def write_scales(folder: Path, hires: float, spot_diameter: float) -> None:
    """Write ``scalefactors_json.json``."""
    scales = {"tissue_hires_scalef": hires, "tissue_lowres_scalef": hires / 2, "spot_diameter_fullres": spot_diameter}
    text = json.dumps(scales | {"fiducial_diameter_fullres": 1.6 * spot_diameter})
    (folder / "spatial" / "scalefactors_json.json").write_text(text)
