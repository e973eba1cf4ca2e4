"""Compare clusters of a finished demo run with the simulated regions: python scripts/clusters_of_demo.py RUN_FOLDER.

Programs 1 and 2 of the simulation are switched on in two tissue regions (docs/demo.md): with the rest, three groups of subspots.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata
import numpy as np
from sklearn.metrics import adjusted_rand_score

from soscope.cluster.methods import METHODS
from soscope.folder import RunFolder
from soscope.read.demo import DemoReader, draw_fields


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished `data=demo` run with the default data.options")
    folder = RunFolder(parser.parse_args().run)
    image = np.asarray(DemoReader().read(None).sdata.images["image"].data)
    region = draw_fields(np.random.default_rng(DemoReader.seed), image.shape[1:]).region
    table = anndata.read_h5ad(folder.table("demo", "rna"))
    at = tuple(table.obsm["spatial"][:, ::-1].round().astype(int).T)
    true = (region > 0.35).astype(int) - (region < -0.45)
    for name, method in METHODS.items():
        labels = table.obs[method.column]
        index = adjusted_rand_score(true[at], labels.cat.codes)
        print(f"{name}: {labels.nunique()} clusters, adjusted Rand index {index:.2f} with the three true groups")


if __name__ == "__main__":
    main()
