"""A sound Space Ranger folder, and what can be wrong with one: every fault changes a copy in place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse

from soscope import contract
from soscope.read import DemoReader
from soscope.simulated_folders import write_10x_h5, write_positions

HIRES, LOWRES = 0.5, 0.15
MATRIX, IMAGE = "filtered_feature_bc_matrix.h5", "spatial/tissue_hires_image.png"
POSITIONS, SCALES = "spatial/tissue_positions.csv", "spatial/scalefactors_json.json"


def write_sound(folder: Path) -> Path:
    """Write the simulated section, its image on a larger slide, as a Space Ranger folder; barcodes in no order of places."""
    (folder / "spatial").mkdir(parents=True)
    raw = DemoReader(rows=20, columns=16, n_features=40).read(None).sdata
    table, tissue = raw.tables["rna"], np.moveaxis(contract.image_of(raw), 0, -1)
    order = np.random.default_rng(0).permutation(table.n_obs)
    slide = np.random.default_rng(1).normal(241, 3, (900, 1000, 3)).clip(0, 255).astype(np.uint8)
    slide[60 : 60 + len(tissue), 40 : 40 + tissue.shape[1]] = tissue
    write_slide(folder, slide)
    names = pd.DataFrame({"id": [f"ENSG{i:011d}" for i in range(table.n_vars)], "name": table.var_names})
    barcodes = [f"{i:016d}-1" for i in range(table.n_obs)]
    write_10x_h5(folder, sparse.csr_matrix(table.X[order]), names.assign(type="Gene Expression"), barcodes)
    xy = (np.asarray(table.obsm["spatial"]) + [40, 60])[order] / HIRES
    row, col = (table.obs[key].to_numpy()[order] for key in ("array_row", "array_col"))
    write_positions(folder, barcodes, row, col, xy)
    scales = {"tissue_hires_scalef": HIRES, "tissue_lowres_scalef": LOWRES, "spot_diameter_fullres": 26.0}
    (folder / SCALES).write_text(json.dumps(scales))
    return folder


def write_slide(folder: Path, slide: np.ndarray) -> None:
    image = Image.fromarray(slide)
    image.save(folder / IMAGE)
    small = image.resize((round(image.width * LOWRES / HIRES), round(image.height * LOWRES / HIRES)))
    small.save(folder / "spatial/tissue_lowres_image.png")


def copied(source: Path, folder: Path) -> Path:
    """Copy a section, files one by one: what it lies on may be read-only."""
    for file in source.rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return folder


def change_image(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with Image.open(folder / IMAGE) as image:
        pixels = np.asarray(image.convert("RGB"))
    Image.fromarray(np.ascontiguousarray(change(pixels))).save(folder / IMAGE)


def change_matrix(folder: Path, change: Callable[[h5py.Group], None]) -> None:
    with h5py.File(folder / MATRIX, "r+") as file:
        change(file["matrix"])


def replace(group: h5py.Group, key: str, values: np.ndarray) -> None:
    del group[key]
    group[key] = values


def flip(folder: Path, other: Path) -> None:
    change_image(folder, lambda pixels: pixels[:, ::-1])


def transpose(folder: Path, other: Path) -> None:
    change_image(folder, lambda pixels: pixels.swapaxes(0, 1))


def lowres_for_hires(folder: Path, other: Path) -> None:
    scales = json.loads((folder / SCALES).read_text())
    (folder / SCALES).write_text(json.dumps(scales | {"tissue_hires_scalef": scales["tissue_lowres_scalef"]}))


def lowres_for_hires_alone(folder: Path, other: Path) -> None:
    """The same where there is no second image to compare with."""
    lowres_for_hires(folder, other)
    (folder / "spatial/tissue_lowres_image.png").write_bytes((folder / IMAGE).read_bytes())


def shift_barcodes(folder: Path, other: Path) -> None:
    """Roll the counts of spots by five against their barcodes."""

    def roll(group: h5py.Group) -> None:
        n = int(group["shape"][1])
        x = sparse.csr_matrix(
            (group["data"][:], group["indices"][:], group["indptr"][:]), shape=(n, int(group["shape"][0]))
        )
        x = x[np.roll(np.arange(n), 5)]
        for key, values in (("data", x.data), ("indices", x.indices), ("indptr", x.indptr)):
            replace(group, key, values)

    change_matrix(folder, roll)


def image_of_another(folder: Path, other: Path) -> None:
    with Image.open(folder / IMAGE) as own, Image.open(other) as image:
        image.convert("RGB").resize(own.size).save(folder / IMAGE)


def empty_spots(folder: Path, other: Path) -> None:
    """Take all counts from every fifth spot."""

    def empty(group: h5py.Group) -> None:
        data, start = group["data"][:], group["indptr"][:]
        for i in range(0, len(start) - 1, 5):
            data[start[i] : start[i + 1]] = 0
        replace(group, "data", data)

    change_matrix(folder, empty)


def fractional(folder: Path, other: Path) -> None:
    change_matrix(folder, lambda group: replace(group, "data", group["data"][:] + 0.5))


def duplicated_features(folder: Path, other: Path) -> None:
    def repeat(group: h5py.Group) -> None:
        ids = group["features/id"][:]
        ids[1] = ids[0]
        replace(group, "features/id", ids)

    change_matrix(folder, repeat)


def mostly_blank(folder: Path, other: Path) -> None:
    """Leave a tenth of the image."""
    change_image(
        folder,
        lambda pixels: np.where(np.arange(len(pixels))[:, None, None] < len(pixels) // 10, pixels, 250).astype(
            np.uint8
        ),
    )


def wrong_platform(folder: Path, other: Path) -> None:
    """Leave the folder as it is: the command is wrong."""


def flip_st(folder: Path, other: Path) -> None:
    with Image.open(folder / "he.jpg") as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(folder / "he.jpg", quality=80)


def shift_rows_st(folder: Path, other: Path) -> None:
    table = pd.read_csv(folder / "counts.tsv.gz", sep="\t", index_col=0)
    table.set_axis(np.roll(table.index, 9)).to_csv(
        folder / "counts.tsv.gz", sep="\t", compression={"method": "gzip", "compresslevel": 1}
    )


def image_of_another_st(folder: Path, other: Path) -> None:
    (folder / "he.jpg").write_bytes(other.read_bytes())
