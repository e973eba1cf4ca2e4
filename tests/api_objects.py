"""Objects in memory that the tests of the Python functions give and get."""

from __future__ import annotations

from functools import cache

import anndata
import numpy as np
from anndata import AnnData
from spatialdata import SpatialData

import soscope as so
from soscope.made import duplicate

SHORT = {
    "debug": "fast",
    "progress": False,
    "features": 12,
    "pretrain": {"max_epochs": 1, "steps_per_epoch": 2},
    "finetune": {"max_epochs": 1, "steps_per_epoch": 2},
}


@cache
def drawn(seed: int) -> SpatialData:
    return so.pp.read_section(reader="demo", rows=10, columns=8, seed=seed)


def demo(seed: int = 0) -> SpatialData:
    return duplicate(drawn(seed))


def as_anndata(section: SpatialData, modality: str = "rna", scale: float = 0.5) -> AnnData:
    """What scanpy.read_visium delivers: positions of the full-resolution image, of which the picture is a small copy."""
    table = section[modality]
    image = np.moveaxis(np.asarray(section["image"].data), 0, -1).astype(np.float32) / 255
    radius = float(section["spots"]["radius"].iloc[0])
    factors = {"tissue_hires_scalef": scale, "spot_diameter_fullres": 2 * radius / scale}
    return AnnData(
        X=table.X.copy(),
        obs=table.obs[["array_row", "array_col"]].copy(),
        var=table.var.copy(),
        obsm={"spatial": np.asarray(table.obsm["spatial"]) / scale},
        uns={"spatial": {"lib": {"images": {"hires": image}, "scalefactors": factors}}},
    )


def sums(enhanced: AnnData, spots: list[str]) -> np.ndarray:
    """Add subspots up by the name of their spot."""
    values = enhanced.to_df().groupby(enhanced.obs["parent_name"].to_numpy()).sum()
    return values.loc[spots].to_numpy()


def joined(section: SpatialData) -> AnnData:
    """RNA and protein in one table, as 10x matrices hold them."""
    table = anndata.concat(
        [as_anndata(section), as_anndata(section, "protein")], axis=1, merge="first", uns_merge="first"
    )
    table.var["feature_types"] = ["Gene Expression"] * 80 + ["Antibody Capture"] * 20
    return table


def draw(table: AnnData) -> None:
    """Draw an enhanced table with scanpy and squidpy."""
    import scanpy as sc
    import squidpy as sq
    from matplotlib import pyplot as plt

    gene = table.var_names[0]
    sc.pl.embedding(table, basis="spatial", color=gene, show=False)
    sc.pl.spatial(table, color=gene, show=False)
    assert len(plt.gcf().axes[0].images) == 1, "the tissue image is under the spots"
    sq.pl.spatial_scatter(table, color=gene)
    assert len(plt.gcf().axes[0].images) == 1
    plt.close("all")
