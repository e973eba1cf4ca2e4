"""Compare the subspots of a run with their true profiles, which it has not seen.

    python scripts/score_recipe.py shared SPOTS CELLS > names.txt
    python scripts/score_recipe.py score RUN_FOLDER TRUTH

``SPOTS`` and ``CELLS`` are tables with a row per spot and per cell, features in columns. ``shared`` lists the features both
have, for ``data.features=names.txt``. ``score`` prints, for subspots under spots and for those under none, the mean over features
of Pearson's r, beside what needs no model: the nearest spot, linear interpolation between spots and, under spots, equal
division. It writes ``scores.csv`` into the run folder, a row per feature. ``TRUTH`` is what ``data.truth`` takes, or a table
of cells whose first column names them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from soscope.benchmark.metrics import pearson, within_spot_pearson
from soscope.config import section_names
from soscope.contract import open_section
from soscope.folder import RunFolder, write_text
from soscope.matrices import to_dense
from soscope.read import read_truth
from soscope.read.wide import read_wide

NO_FEATURES = r"(?i)x|y|.*_x|.*_y|.*area|barcode|cell_id"


def shared(spots: Path, cells: Path) -> list[str]:
    """Return the columns both tables have, but for positions, areas and names."""
    tables = [pd.read_csv(file, nrows=1, index_col=0) for file in (spots, cells)]
    both = tables[0].columns.intersection(tables[1].columns, sort=False)
    return both[~both.str.fullmatch(NO_FEATURES)].tolist()


def true_profiles(file: Path, enhanced: anndata.AnnData) -> tuple[list[str], np.ndarray]:
    """Return the features that have a truth, and their true profiles in the order of the subspots."""
    if file.name.endswith(".csv.gz"):
        own = read_wide(file).loc[enhanced.obs_names]
        features = [f for f in enhanced.var_names if f in own.columns]
        return features, own[features].to_numpy(float)
    features = enhanced.var_names.tolist()
    return features, to_dense(read_truth(file, features, enhanced.n_obs).X, float)


def score(folder: Path, file: Path) -> pd.DataFrame:
    """Return Pearson's r by group of subspots, method and feature."""
    run = RunFolder(folder)
    section, modality = only_table(run)
    enhanced = anndata.read_h5ad(run.table(section, modality))
    observed = open_section(run.result(section)).tables[modality]
    features, truth = true_profiles(file, enhanced)
    x = to_dense(observed[:, features].X, float)
    parent = enhanced.obs["parent"].to_numpy()
    xy, spots = enhanced.obsm["spatial"], observed.obsm["spatial"]
    nearest = NearestNDInterpolator(spots, x)(xy)
    linear = LinearNDInterpolator(spots, x)(xy)
    per_spot = np.bincount(parent[parent >= 0], minlength=len(x))
    methods = {
        "soscope": to_dense(enhanced[:, features].X, float),
        "nearest spot": nearest,
        "linear interpolation": np.where(np.isnan(linear), nearest, linear),
        "equal division": (x / np.maximum(per_spot, 1)[:, None])[parent],
    }
    rows = []
    for group, inside in (("under spots", parent >= 0), ("under none", parent < 0)):
        for name, predicted in methods.items() if inside.any() else ():
            if name == "equal division" and group == "under none":
                continue
            r = {"pearson": pearson(predicted[inside], truth[inside])}
            if group == "under spots":
                r["within_spot_r"] = within_spot_pearson(predicted[inside], truth[inside], parent[inside])
            rows.append(pd.DataFrame({"subspots": group, "n": inside.sum(), "method": name, "feature": features} | r))
    return pd.concat(rows, ignore_index=True)


def only_table(run: RunFolder) -> tuple[str, str]:
    """Return the one section and the one table of a run."""
    cfg = run.config()
    sections, modalities = section_names(cfg), list(cfg.model.modalities)
    if len(sections) != 1 or len(modalities) != 1:
        sys.exit(f"'{run.path}' holds {len(sections)} sections and {len(modalities)} tables; one of each can be scored")
    return sections[0], modalities[0]


def main(words: list[str]) -> None:
    match words:
        case ["shared", spots, cells]:
            print("\n".join(shared(Path(spots), Path(cells))))
        case ["score", folder, truth]:
            table = score(Path(folder), Path(truth))
            write_text(Path(folder) / "scores.csv", table.to_csv(index=False))
            means = table.groupby(["subspots", "method"], sort=False).mean(numeric_only=True)
            print(f"{table['feature'].nunique()} features\n{means.round(3).to_string()}")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
