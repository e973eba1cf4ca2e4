"""Write a small folder in the layout of Xenium's output (XOA 2), for readers to read and for tests to spoil."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import tifffile
import zarr
from scipy import sparse
from spatialdata_io.readers.xenium import cell_id_str_from_prefix_suffix_uint32

PIXEL_UM = 0.2125
SIDE_UM = 400
STEP_UM = 10
GENES = [f"gene_{i:02d}" for i in range(12)]
CONTROLS = ["NegControlProbe_00001", "UnassignedCodeword_0001"]
ALIGNED = np.array([[2.4, 0.0, -20.0], [0.0, 2.4, -10.0]])
"""From pixels of the H&E image to those of the morphology image, which are smaller."""


def write_xenium(folder: Path, image: bool = False, side_um: int = SIDE_UM) -> Path:
    """Write cells on a jittered grid with square outlines, transcripts in and between them, and perhaps an aligned H&E image.

    The image reaches beyond ``SIDE_UM`` by a few micrometres.
    """
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    centre = (np.stack(np.mgrid[: side_um // STEP_UM, : side_um // STEP_UM], -1).reshape(-1, 2) + 0.5) * STEP_UM
    centre = centre + rng.uniform(-2, 2, centre.shape)
    number = np.stack([np.arange(len(centre)), np.ones(len(centre))], 1).astype(np.uint32)
    cells = cell_id_str_from_prefix_suffix_uint32(number[:, 0], number[:, 1])
    specs = {"analysis_sw_version": "xenium-2.0.0.10", "pixel_size": PIXEL_UM, "run_name": "simulated"}
    (folder / "experiment.xenium").write_text(json.dumps(specs))
    counts = rng.poisson(1.5, (len(cells), len(GENES) + len(CONTROLS)))
    _write_matrix(folder / "cell_feature_matrix.h5", counts, cells)
    _write_cells(folder, centre, number, cells)
    _write_transcripts(folder / "transcripts.parquet", rng, side_um)
    if image:
        pixels = rng.integers(0, 255, (800, 840, 3), dtype=np.uint8)
        tifffile.imwrite(folder / "s_he_image.ome.tif", pixels, photometric="rgb", metadata={"axes": "YXS"})
        np.savetxt(folder / "s_he_imagealignment.csv", np.vstack([ALIGNED, [0, 0, 1]]), delimiter=",")
    return folder


def _write_matrix(file: Path, counts: np.ndarray, cells: np.ndarray) -> None:
    matrix = sparse.csr_matrix(counts)
    names = [*GENES, *CONTROLS]
    kinds = ["Gene Expression"] * len(GENES) + ["Negative Control Probe", "Unassigned Codeword"]
    with h5py.File(file, "w") as out:
        group = out.create_group("matrix")
        group["barcodes"] = np.array(cells, dtype="S")
        group["data"], group["indices"] = matrix.data.astype(np.int32), matrix.indices.astype(np.int64)
        group["indptr"], group["shape"] = matrix.indptr.astype(np.int64), np.array(matrix.shape[::-1])
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(len(names))], dtype="S")
        features["name"], features["feature_type"] = np.array(names, dtype="S"), np.array(kinds, dtype="S")
        features["genome"] = np.array(["Unknown"] * len(names), dtype="S")


def _write_cells(folder: Path, centre: np.ndarray, number: np.ndarray, cells: np.ndarray) -> None:
    n = len(cells)
    table = pd.DataFrame({"cell_id": cells, "x_centroid": centre[:, 0], "y_centroid": centre[:, 1]})
    table.assign(cell_area=36.0, nucleus_area=9.0).to_parquet(folder / "cells.parquet", index=False)
    corners = np.array([[-3, -3], [3, -3], [3, 3], [-3, 3], [-3, -3.0]])
    vertex = (centre[:, None] + corners).reshape(-1, 2)
    outlines = pd.DataFrame({"cell_id": np.repeat(cells, 5), "vertex_x": vertex[:, 0], "vertex_y": vertex[:, 1]})
    outlines["label_id"] = np.repeat(np.arange(1, n + 1), 5)
    outlines.to_parquet(folder / "cell_boundaries.parquet", index=False)
    store = zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="w")
    root = zarr.open_group(store, mode="w", zarr_format=2)
    root.create_array("cell_id", data=number)
    summary = root.create_array("cell_summary", data=np.column_stack([centre, np.full((n, 6), 1.0)]))
    columns = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y"]
    summary.attrs["column_names"] = [*columns, "nucleus_area", "z_level", "nucleus_count"]
    for mask in ("0", "1"):
        root.create_array(f"masks/{mask}", data=np.zeros((4, 4), dtype=np.uint32))
        root.create_array(f"polygon_sets/{mask}/cell_index", data=np.arange(n, dtype=np.uint32))
    store.close()


def _write_transcripts(file: Path, rng: np.random.Generator, side_um: int, n: int = 12_000) -> None:
    table = pd.DataFrame(
        {
            "transcript_id": np.arange(n, dtype=np.uint64),
            "cell_id": "UNASSIGNED",
            "overlaps_nucleus": np.uint8(0),
            "feature_name": rng.choice([*GENES, *CONTROLS], n),
            "x_location": rng.uniform(0, side_um, n).astype(np.float32),
            "y_location": rng.uniform(0, side_um, n).astype(np.float32),
            "z_location": rng.uniform(10, 20, n).astype(np.float32),
            "qv": rng.uniform(5, 40, n).astype(np.float32),
        }
    )
    table.to_parquet(file, index=False)
