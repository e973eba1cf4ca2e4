"""From the coordinates of a SpatialData element to the pixels of an image of the same object."""

from __future__ import annotations

from typing import Any

import numpy as np
from spatialdata import SpatialData
from spatialdata.transformations import get_transformation_between_coordinate_systems

from soscope import contract
from soscope.affine import Affine
from soscope.channels import RGB
from soscope.errors import DataError
from soscope.read.base import as_image, eight_bit
from soscope.read.slides import fine_level

UNMOVED = Affine(np.eye(2), np.zeros(2))


def image_frame(sdata: SpatialData, source: Any, image: str | None, pitch: float) -> tuple[np.ndarray | None, Affine]:
    """Return an image's pixels, channels named as there, and the way to them.

    Parameters
    ----------
    sdata
        The object all of it is in.
    source
        Shapes, points or labels whose coordinates are to be mapped, or the name of a coordinate system.
    image
        Name of the image, or ``None``: coordinates then stay as they are.
    pitch
        Distance between spots in the source's coordinates; of several scales, the coarsest that is fine enough is taken.

    Raises
    ------
    DataError
        When there is no such image, when nothing links the two, or the pixels are of a kind no section keeps.
    """
    if image is None:
        return None, UNMOVED
    if image not in sdata.images:
        raise DataError(f"no image '{image}'; there are: {', '.join(sdata.images) or 'none'}.")
    try:
        matrix = get_transformation_between_coordinate_systems(sdata, source, sdata.images[image]).to_affine_matrix(
            ("x", "y"), ("x", "y")
        )
    except Exception as error:
        raise DataError(
            f"image '{image}' and the spots share no coordinate system ({error}). Align them, and save both with a "
            "transformation to the same one."
        ) from error
    to_finest = Affine(matrix[:2, :2].T, matrix[:2, 2])
    pixels, scale = _pixels(sdata.images[image], pitch * to_finest.pitch_px)
    return _named(pixels, f"image '{image}'"), Affine(to_finest.matrix * scale, to_finest.shift * scale)


def largest(sdata: SpatialData) -> list[str]:
    """Return the names of the images with most pixels: of one picture in several sizes, the finest."""
    pixels = {n: s.sizes["x"] * s.sizes["y"] for n, (s, *_) in ((n, _scales(e)) for n, e in sdata.images.items())}
    return [n for n, number in pixels.items() if number == max(pixels.values())]


def _scales(image: Any) -> list[Any]:
    """Return the arrays of an image, the finest first."""
    tree = getattr(image, "children", None)
    return [next(iter(s.ds.data_vars.values())) for s in tree.values()] if tree else [image]


def _named(pixels: Any, where: str) -> np.ndarray:
    """Return colour as 8-bit RGB, other channels with their names where they have any."""
    names = [str(name) for name in pixels.coords["c"].values] if "c" in pixels.coords else []
    if all(name.isdigit() or name in (*RGB, "a") for name in names):
        return as_image(eight_bit(np.asarray(pixels.data)), where)
    return contract.named_channels(as_image(np.asarray(pixels.data), where, names), names)  # type: ignore[return-value]


def _pixels(image: Any, pitch_px: float) -> tuple[Any, float]:
    """Return ``(channels, height, width)`` and its pixels per pixel of the finest scale."""
    scales = _scales(image)
    level = fine_level([s.sizes["x"] for s in scales], pitch_px)
    chosen = scales[level].transpose("c", "y", "x")
    return chosen, scales[level].sizes["x"] / scales[0].sizes["x"]
