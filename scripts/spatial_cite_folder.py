"""Turn the spatial-CITE-seq tables of the published program's repository into a data folder as it reads them.

    python scripts/spatial_cite_folder.py TABLES OUT

``TABLES`` is ``spatial_cite_human_skin``: 283 proteins, ten genes, and positions of 2 x 2 subspots, in whose order
they stay. ``OUT``
gets ``label.npy`` (means per subspot, proteins first), ``adj.npy``, ``sub_adj.npy``, the positions, ``names.txt``, and the demo's
two YAML files with the widths of these tables. Graphs link nearest neighbours; without an image
all edges of subspots weigh the same.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from soscope.likelihoods import make_likelihood
from soscope.prepare.graphs import nearest_edges, similarity
from soscope.rows import side_by_side

K = 4
POSITIONS = "position_enhance_with_center.csv"
SHARED = {"sub_node": K, "sub_dim": 2048, "z_dim": 128, "head_num": 1, "optimizer_name": "Adam"}
SCHEDULE = {"beta_start_value": 1, "beta_end_value": 1}


def coordinates(edges: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return rows i, j, weight."""
    return np.column_stack([edges.T, weight]).astype(np.float64)


def convert(tables: Path, out: Path) -> None:
    proteins = pd.read_csv(tables / "x3" / "reordered_filtered_protein.csv", index_col=0)
    genes = pd.read_csv(tables / "HVG_top10.csv", index_col=0).loc[proteins.index]
    positions = pd.read_csv(tables / "x3" / POSITIONS)
    spots = pd.read_csv(tables / "x3" / "position_with_center.csv")
    if spots["barcode"].tolist() != proteins.index.tolist() or len(positions) != K * len(spots):
        sys.exit(f"'{tables}': spots and subspots are not in one order")
    out.mkdir(parents=True, exist_ok=True)
    counts = np.concatenate([proteins.to_numpy(), genes.to_numpy()], 1)
    np.save(out / "label.npy", counts / K)
    views = [
        make_likelihood(kind, table.shape[1]).profile_for_similarity(table.to_numpy(), table.to_numpy().sum(1))
        for kind, table in (("poisson", proteins), ("nb", genes))
    ]
    edges = nearest_edges(spots[["imagecol", "imagerow"]].to_numpy(float), 4)
    np.save(out / "adj.npy", coordinates(edges, similarity(side_by_side(views), edges)))
    edges = nearest_edges(positions[["imagecol", "imagerow"]].to_numpy(float), 4)
    np.save(out / "sub_adj.npy", coordinates(edges, np.ones(edges.shape[1])))
    shutil.copyfile(tables / "x3" / POSITIONS, out / POSITIONS)
    (out / "names.txt").write_text("\n".join([*proteins.columns, *genes.columns]) + "\n")
    write_yaml(out, proteins.shape[1], genes.shape[1])


def write_yaml(out: Path, n_proteins: int, n_genes: int) -> None:
    """Write the files of its demo ``Multiomics_all`` with these widths."""
    widths = SHARED | SCHEDULE | {"protein_dim": n_proteins, "gene_dim": n_genes}
    first = widths | {"lr": 1e-3, "beta_n_iterations": 10000, "beta_start_iteration": 10000}
    second = widths | {"lr": 1e-4, "beta_n_iterations": 20000, "beta_start_iteration": 20000, "scale": 1}
    second |= {"gamma_start_value": 1, "gamma_end_value": 1e-3, "graph_loss_weight": 1}
    for name, trainer, params in (("VGAE", "VGAETrainer_Joint_PNB", first), ("soScope", "soScope_Joint", second)):
        (out / f"{name}.yml").write_text(yaml.safe_dump({"trainer": trainer, "params": params}))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
