"""From the coordinates of a SpatialData element to the pixels of an image of the same object."""

from __future__ import annotations

from typing import Any

import numpy as np
from spatialdata import SpatialData
from spatialdata.transformations import get_transformation_between_coordinate_systems

from soscope.affine import Affine
from soscope.errors import DataError
from soscope.read.base import as_image
from soscope.read.slides import fine_level

UNMOVED = Affine(np.eye(2), np.zeros(2))


def image_frame(sdata: SpatialData, source: Any, image: str | None, pitch: float) -> tuple[np.ndarray | None, Affine]:
    """Return an image's pixels and the way to them.

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
        When there is no such image, when nothing links the two, or the pixels are not 8-bit.
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
    return as_image(pixels, f"image '{image}'"), Affine(to_finest.matrix * scale, to_finest.shift * scale)


def _pixels(image: Any, pitch_px: float) -> tuple[np.ndarray, float]:
    """Return ``(channels, height, width)`` and its pixels per pixel of the finest scale."""
    scales = (
        [next(iter(s.ds.data_vars.values())) for s in image.children.values()] if hasattr(image, "children") else []
    )
    scales = scales or [image]
    level = fine_level([s.sizes["x"] for s in scales], pitch_px)
    chosen = scales[level].transpose("c", "y", "x")
    return np.asarray(chosen.data), scales[level].sizes["x"] / scales[0].sizes["x"]
