"""Simulate chromatin peaks on the spots of a real Visium section, since no such section is free to use here.

    python scripts/peaks_on_lattice.py FOLDER OUT.h5ad [--peaks 60] [--seed 0]

``FOLDER`` is a Space Ranger folder: its positions, its image and its RNA are kept. ``OUT.h5ad`` holds the measured RNA and the
simulated peaks, parted by ``var['feature_types']``; ``OUT_truth.h5ad`` the peak counts of all subspots, seven to a spot.

A peak's count in a subspot is Poisson with a log rate that is linear in five programs of standard deviation 0.6: how dark the
image is there; a smooth field that nothing else follows; the two leading components of the section's RNA, interpolated
between spots; and a slope across the section. Counts of a spot are the sums over its subspots.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData, concat
from scipy import sparse
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator
from scipy.ndimage import gaussian_filter
from spatialdata import SpatialData

from soscope import contract, pp
from soscope.distances import typical_distance
from soscope.errors import DataError
from soscope.numbering import names_of
from soscope.prepare.panel import represent
from soscope.read import make_reader
from soscope.read.demo import PITCH_PX, feature_names, poisson_counts, rows_and_columns, smooth

TYPICAL = 6
"""Typical count of a peak in a spot."""
SPREAD, WIDEST = 0.6, 2.0
"""Standard deviation of a program, and how many of them it is cut off at."""


def programs_of(sdata: SpatialData, xy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the five programs at points in pixels, ``(5, n_points)``."""
    table = sdata.tables["rna"]
    spots = np.asarray(table.obsm["spatial"])
    pitch = typical_distance(spots)
    image = contract.image_of(sdata)
    if image is None:
        raise DataError("peaks follow the image, and this section has none.")
    darkness = gaussian_filter(255 - image.mean(0), pitch / 6)
    hidden = smooth(rng, darkness.shape, 2 * pitch / PITCH_PX)
    at = rows_and_columns(xy)
    library = np.asarray(table.X.sum(1)).ravel()
    (components,) = represent("components", [table], [library], n_components=2)
    between = LinearNDInterpolator(spots, components.X)(xy)
    rna = np.where(np.isnan(between), NearestNDInterpolator(spots, components.X)(xy), between)
    programs = np.stack([darkness[at], hidden[at], *rna.T, xy.sum(1)]).astype(float)
    programs -= programs.mean(1, keepdims=True)
    return SPREAD * np.clip(programs / programs.std(1, keepdims=True), -WIDEST, WIDEST)


def simulate(folder: Path, n_peaks: int, seed: int) -> tuple[AnnData, AnnData]:
    """Return spots with RNA and peaks, and the peaks of subspots."""
    sdata = make_reader("visium", {}).read(folder).sdata
    pp.split_spots(sdata, platform="visium")
    subspots = sdata.shapes[contract.SUBSPOTS]
    xy = np.column_stack([subspots.centroid.x, subspots.centroid.y])
    rng = np.random.default_rng(seed)
    k = len(subspots) // sdata.tables["rna"].n_obs
    counts = poisson_counts(rng, programs_of(sdata, xy, rng), n_peaks, TYPICAL / k)
    features = pd.DataFrame(index=feature_names("atac", n_peaks))
    truth = AnnData(X=sparse.csr_matrix(counts), obs=pd.DataFrame(index=names_of(subspots)), var=features)
    rna = sdata.tables["rna"]
    peaks = AnnData(X=sparse.csr_matrix(counts.reshape(-1, k, n_peaks).sum(1)), obs=rna.obs[[]], var=features.copy())
    rna = AnnData(X=sparse.csr_matrix(rna.X), obs=rna.obs[["array_row", "array_col"]], var=rna.var[[]])
    rna.var["feature_types"], peaks.var["feature_types"] = "Gene Expression", "Peaks"
    spots = concat([rna, peaks], axis="var", merge="first")
    spots.obs = rna.obs
    spots.obsm["spatial"] = np.asarray(sdata.tables["rna"].obsm["spatial"])
    image = np.moveaxis(np.asarray(contract.image_of(sdata)), 0, -1)
    scales = {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": 0.55 * typical_distance(spots.obsm["spatial"])}
    spots.uns["spatial"] = {"section": {"images": {"hires": image}, "scalefactors": scales}}
    return spots, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a Space Ranger folder")
    parser.add_argument("out", type=Path, help="the .h5ad to write")
    parser.add_argument("--peaks", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    spots, truth = simulate(words.folder, words.peaks, words.seed)
    contract.write_table(spots, words.out)
    contract.write_table(truth, words.out.with_name(words.out.stem + "_truth.h5ad"))
    print(f"{spots.n_obs:,} spots, {truth.n_obs:,} subspots, {truth.n_vars} simulated peaks -> {words.out}")


if __name__ == "__main__":
    main()
