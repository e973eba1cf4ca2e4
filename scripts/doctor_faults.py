"""What `soscope doctor` measures on a section as it is and with faults planted: a row of a table per fault.

python scripts/doctor_faults.py data=visium data.path=FOLDER platform=visium [--other IMAGE_FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from hydra import compose, initialize_config_dir
from PIL import Image

from soscope import contract
from soscope.conf_files import conf_dir
from soscope.config import paths_of, register
from soscope.doctor import of_counts, of_geometry, of_image, of_machine
from soscope.doctor.examined import Examined
from soscope.doctor.findings import CHECKS, Severity
from soscope.read import make_reader
from soscope.read.base import RawSection, open_image

CHECKED = (of_geometry, of_counts, of_image, of_machine)
BLANK_SHARE, SCALE = 0.9, 0.3
"""Of the image's rows that are painted white, and of lowres to hires pixels."""
Section = tuple[np.ndarray, np.ndarray, AnnData]
"""Image, positions in pixels, table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="image of another section")
    options, words = parser.parse_known_args()
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=words)
        wrong = "dbit" if cfg.platform.lattice == "hex" else "visium"
        other = compose("train", overrides=[*words, f"platform={wrong}"])
    raw = make_reader(cfg.data.reader, dict(cfg.data.options)).read(paths_of(cfg)[0])
    table = raw.sdata.tables[contract.modalities(raw.sdata)[0]]
    image = contract.image_of(raw.sdata)
    if image is None:
        raise SystemExit(f"section '{raw.name}' has no image to plant faults in.")
    section = image, np.asarray(table.obsm["spatial"], dtype=np.float64), table
    print("| planted | Moran's I | blank | on tissue | R2 by the image | sd above chance | serious |")
    print("|---|---|---|---|---|---|---|")
    for name, plant in faults(options.other):
        print(row(name, cfg, raw.name, plant(*section)), flush=True)
    print(row(f"platform={wrong}", other, raw.name, section), flush=True)


def faults(other: Path | None) -> Iterator[tuple[str, Callable[[Any, Any, Any], Section]]]:
    """Go through the faults that can be planted in what a reader has read."""
    yield "nothing", lambda image, xy, table: (image, xy, table)
    yield "image mirrored", lambda image, xy, table: (image[:, :, ::-1], xy, table)
    yield "image transposed", lambda image, xy, table: (image.swapaxes(1, 2), xy, table)
    yield (
        "positions mirrored in their box",
        lambda image, xy, table: (image, xy * [-1, 1] + [np.ptp(xy[:, 0]) + 2 * xy[:, 0].min(), 0], table),
    )
    yield f"positions scaled by {SCALE}", lambda image, xy, table: (image, xy * SCALE, table)
    yield "counts 7 spots on", lambda image, xy, table: (image, xy, rolled(table, 7))
    if other is not None:
        yield (
            f"image of '{other.parent.name}'",
            lambda image, xy, table: (resized(open_image(other), image.shape), xy, table),
        )
    yield f"image blank by {BLANK_SHARE:.0%}", lambda image, xy, table: (blanked(image), xy, table)
    yield "every fifth spot empty", lambda image, xy, table: (image, xy, emptied(table))
    yield "counts + 0.5", lambda image, xy, table: (image, xy, AnnData(table.X.toarray() + 0.5, table.obs, table.var))


def rolled(table: AnnData, by: int) -> AnnData:
    """Give every spot the counts of another in the order of barcodes."""
    return AnnData(table.X[np.roll(np.arange(table.n_obs), by)], table.obs, table.var)


def emptied(table: AnnData) -> AnnData:
    """Take all counts from every fifth spot."""
    kept = (np.arange(table.n_obs) % 5 > 0).astype(np.float32)
    return AnnData(table.X.multiply(kept[:, None]).tocsr(), table.obs, table.var)


def blanked(image: np.ndarray) -> np.ndarray:
    """Paint the lower rows white."""
    rows = np.arange(image.shape[1])[:, None] < (1 - BLANK_SHARE) * image.shape[1]
    return np.where(rows, image, np.uint8(250))


def resized(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bring an image to another's size."""
    picture = Image.fromarray(np.moveaxis(image, 0, -1)).resize((shape[2], shape[1]))
    return np.moveaxis(np.asarray(picture), -1, 0)


def row(planted: str, cfg: Any, name: str, section: Section) -> str:
    """Examine a section and return its row of the table."""
    image, xy, table = section
    spots = table.obs_names.tolist()
    found = contract.new_section(name, np.ascontiguousarray(image), spots, xy, 1.0, {"rna": table})
    examined = Examined(cfg, RawSection(found))
    serious = [f.about for c in CHECKS for f in c(examined) if f.severity == Severity.SERIOUS]
    blank = (examined.maps.texture(xy) < of_image.BLANK_SD).mean()
    given = examined.judge.given
    better = examined.judge.better()
    if better is not None:
        serious = [f"{s} ({better.placement.words})" if s == "orientation and place" else s for s in serious]
    morans_i = examined.association.morans_i.max()
    values = f"{morans_i:.2f} | {blank:.0%} | {given.on_tissue:.0%} | {given.score:.2f} | {given.z:.1f}"
    return f"| {planted} | {values} | {', '.join(serious) or 'nothing'} |"


if __name__ == "__main__":
    main()
