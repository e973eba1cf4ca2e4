"""`soscope features`: image features of subspots as one array, from an image and positions or from a folder of patches."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING
from rich.progress import track

from soscope.distances import typical_distance
from soscope.errors import ConfigError, DataError
from soscope.prepare.encoders import ImageEncoder, make_encoder
from soscope.prepare.image_features import encoded
from soscope.read.base import open_image
from soscope.read.positions import Positions, read_positions
from soscope.tools.patches import ImagePatches, Patches, PatchFiles, patch_files
from soscope.tools.resumable import ResumableTable

log = logging.getLogger("soscope")
OF_IMAGE = ("positions", "columns", "patch_px", "patch_um", "um_per_px")
OF_FOLDER = ("names",)
LEAST_PX = 4.0
"""Positions that are closer are taken for places on an array."""


@dataclass
class FeaturesConfig:
    """Root of `soscope features`."""

    image_file: str | None = None  # with positions: patches are cut from it
    positions: str | None = None
    columns: list[str] | None = None  # of x and y in positions; imagecol, imagerow, or image_col, image_row, or x, y
    patch_px: float | None = None  # width of a patch in pixels of the image: the distance between positions
    patch_um: float | None = None  # the same in micrometres, with um_per_px
    um_per_px: float | None = None
    patches: str | None = None  # or a folder with one image file per subspot
    names: str | None = None  # file names of patches in the order of subspots, one a line
    encoder: str = MISSING
    weights: str | None = None
    input_px: int = MISSING
    batch_size: int = 64
    out: str = MISSING
    overwrite: bool = False
    progress: bool = True
    traceback: bool = False


def extract_features(
    patches: Patches,
    encoder: ImageEncoder,
    out: Path,
    batch_size: int = 64,
    overwrite: bool = False,
    progress: bool = True,
) -> np.ndarray:
    """Encode patches into a file, and go on where an earlier call was stopped.

    Parameters
    ----------
    patches
        `ImagePatches` or `PatchFiles`, one patch per subspot.
    encoder
        From `soscope.prepare.encoders.make_encoder`.
    out
        The array's file, ``.npy``; ``out.json`` beside it notes what it is made from, ``out.partial`` holds unfinished rows.
    batch_size
        Patches encoded, and noted as done, together.
    overwrite
        Replace what lies there and was made from other patches or with another encoder.
    progress
        Show a bar of batches.

    Returns
    -------
    ``(n_subspots, n_features)`` of float32, read from the file as it is used.

    Raises
    ------
    DataError
        When ``out`` was made from something else; names what differs.
    """
    if out.suffix != ".npy" or batch_size < 1:
        raise ConfigError(
            f"out='{out}', batch_size={batch_size}: give a file that ends in .npy and a size of 1 or more."
        )
    n, made_from = len(patches), patches.made_from() | {"encoder": encoder.identity()}
    table = ResumableTable(out, (n, encoder.n_features), made_from, overwrite)
    if table.done:
        log.info("%s: %d of %d subspots are done", out, table.done, n)
    starts, total = range(table.done, n, batch_size), -(-n // batch_size)
    name = f"image features ({encoder.name})"
    steps = track(
        starts, name, total=total, completed=total - len(starts), disable=not (progress and starts), transient=True
    )
    table.fill(encoded(encoder, (patches[start : start + batch_size] for start in steps)))
    return np.load(out, mmap_mode="r")


def run(cfg: Any) -> None:
    """Do `soscope features`: check, then encode."""
    if cfg.input_px < 1:
        raise ConfigError(f"input_px={cfg.input_px} must be 1 or more: the width of the patches the encoder sees.")
    if (cfg.image_file is None) == (cfg.patches is None):
        raise ConfigError("give image_file=FILE with positions=FILE, or patches=FOLDER, one of both.")
    encoder = _encoder(cfg)
    patches = _from_folder(cfg) if cfg.image_file is None else _from_image(cfg)
    values = extract_features(patches, encoder, _path(cfg.out), cfg.batch_size, cfg.overwrite, cfg.progress)
    log.info("%s: %d subspots x %d features of %s", cfg.out, *values.shape, encoder.name)


def _from_folder(cfg: Any) -> Patches:
    _refuse(cfg, OF_IMAGE, "image_file=FILE")
    return PatchFiles(patch_files(_path(cfg.patches), cfg.names and _path(cfg.names)), cfg.input_px, cfg.progress)


def _from_image(cfg: Any) -> Patches:
    _refuse(cfg, OF_FOLDER, "patches=FOLDER")
    if cfg.positions is None:
        raise ConfigError(
            f"image_file='{cfg.image_file}' needs positions=FILE, a table with the centre of every subspot in its pixels."
        )
    image = _path(cfg.image_file)
    if not image.is_file():
        raise DataError(f"image_file='{image}' is not a file. Name the image whose pixels the positions are in.")
    positions = read_positions(_path(cfg.positions), cfg.columns, None)
    patch_px = _patch_px(cfg, positions)
    return ImagePatches(open_image(image), positions.xy, patch_px, cfg.input_px, positions.where)


def _patch_px(cfg: Any, positions: Positions) -> float:
    """Return the width of a patch in pixels: as given in one unit or the other, or the distance between positions."""
    if cfg.patch_px is not None and (cfg.patch_um is not None or cfg.um_per_px is not None):
        raise ConfigError("give patch_px, or patch_um with um_per_px, not both.")
    if (cfg.patch_um is None) != (cfg.um_per_px is None):
        raise ConfigError("patch_um and um_per_px go together: the width of a patch, and of a pixel, in micrometres.")
    given = [v for v in (cfg.patch_px, cfg.patch_um, cfg.um_per_px) if v is not None]
    if any(v <= 0 for v in given):
        raise ConfigError("patch_px, patch_um and um_per_px must be above 0.")
    if cfg.patch_um is not None:
        return float(cfg.patch_um / cfg.um_per_px)
    if cfg.patch_px is not None:
        return float(cfg.patch_px)
    if len(positions) < 2:
        raise ConfigError("one position has no distance to the next: give the width of its patch with patch_px.")
    found = typical_distance(positions.xy)
    if found < LEAST_PX:
        raise DataError(
            f"{positions.where}: positions are {found:.3g} px apart, so they are hardly pixels of the image, perhaps places on "
            "an array. Name the columns with pixels (columns=[X,Y]), or give patch_px if that is how small subspots are."
        )
    log.info("patches are %.4g px wide, the distance between positions (patch_px sets another width)", found)
    return found


def _encoder(cfg: Any) -> ImageEncoder:
    try:
        encoder = make_encoder(cfg.encoder, cfg.weights)
    except (
        ConfigError,
        DataError,
    ) as error:  # `soscope train` calls these settings image.*; here they stand at the top
        text = str(error).replace("image.encoder", "encoder").replace("image.", "").replace("image=", "encoder=")
        raise type(error)(text) from error
    if not encoder.n_features:
        raise ConfigError(f"encoder={cfg.encoder} makes no features. Choose another encoder.")
    return encoder


def _refuse(cfg: Any, keys: tuple[str, ...], other: str) -> None:
    given = [key for key in keys if cfg[key] is not None]
    if given:
        raise ConfigError(f"{given[0]}={cfg[given[0]]} goes with {other}, which is not given.")


def _path(text: str) -> Path:
    return Path(text).expanduser()
