"""Write small DBiT-seq folders: a matrix of ``XxY`` with the pixels under tissue, and AnnData with barcodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image

CHANNELS = 8
CHANNEL_PX = 4
"""Channels are as wide as gaps: the image is (2 x 8 - 1) x 4 = 60 px wide."""


def write_matrix(folder: Path) -> Path:
    """Write ``Filtered_matrix.tsv``, ``position.txt`` as the protocol's script writes it, and an image cropped to the grid."""
    counts = _counts()
    folder.mkdir(parents=True)
    counts.to_csv(folder / "Filtered_matrix.tsv", sep="\t", index_label="X")
    under = [name for name in counts.index if not name.startswith("1x")]
    (folder / "position.txt").write_text("," + ",".join(sorted(under)))
    _write_image(folder / "tissue.png")
    return folder


def write_barcodes(folder: Path) -> Path:
    """Write ``.h5ad`` whose rows are barcodes B then A, ``barcode_list`` and an image cropped to the grid."""
    counts = _counts()
    folder.mkdir(parents=True)
    bases = {letter: [_bases(i + shift) for i in range(CHANNELS)] for letter, shift in (("A", 0), ("B", 100))}
    place = [tuple(map(int, name.split("x"))) for name in counts.index]
    rows = [bases["B"][b - 1] + bases["A"][a - 1] for a, b in place]
    obs, var = pd.DataFrame(index=rows), pd.DataFrame(index=counts.columns)
    AnnData(X=counts.to_numpy(np.float32), obs=obs, var=var).write_h5ad(folder / "section.h5ad")
    lines = [f"{letter}{i + 1}\t{bases[letter][i]}" for letter in "AB" for i in range(CHANNELS)]
    (folder / "barcode_list").write_text("\n".join(lines) + "\n")
    _write_image(folder / "tissue_lowres_image.png")
    return folder


def _counts() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    names = [f"{a}x{b}" for a in range(1, CHANNELS + 1) for b in range(1, CHANNELS + 1)]
    rng.shuffle(names)
    return pd.DataFrame(rng.poisson(4.0, (len(names), 10)), index=names, columns=[f"gene_{i}" for i in range(10)])


def _bases(number: int) -> str:
    return "".join("ACGT"[(number >> (2 * i)) & 3] for i in range(8))


def _write_image(file: Path) -> None:
    side = (2 * CHANNELS - 1) * CHANNEL_PX
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(file)
