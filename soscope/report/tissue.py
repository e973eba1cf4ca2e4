"""The tissue image as pictures show it: thinned out, and in three colours whatever its channels are."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image
from spatialdata import SpatialData

from soscope import contract
from soscope.channels import composite


@dataclass(frozen=True)
class Tissue:
    """A part of the image of a section.

    Attributes
    ----------
    pixels
        ``(height, width, 3)`` of uint8.
    place
        Left, top, width and height in pixels of the whole image.
    """

    pixels: np.ndarray
    place: tuple[float, float, float, float]

    @property
    def url(self) -> str:
        """The picture as a JPEG inside a data URL."""
        file = BytesIO()
        Image.fromarray(self.pixels).save(file, "JPEG", quality=85)
        return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def tissue_of(
    sdata: SpatialData, longest: int, window: tuple[float, float, float, float] | None = None
) -> Tissue | None:
    """Return every n-th pixel of a section's image: slides are too large to draw. ``None`` without an image.

    Parameters
    ----------
    sdata
        A section; channels other than colour are those an encoder has seen, or all.
    longest
        Pixels of the longer side, at most.
    window
        Left, right, bottom, top of the part wanted, in pixels of the image.
    """
    if contract.IMAGE not in sdata.images:
        return None
    image = sdata.images[contract.IMAGE].data
    height, width = image.shape[1:]
    left, right, bottom, top = window or (0, width, height, 0)
    x0, x1 = (int(np.clip(v, 0, width)) for v in (left, right))
    y0, y1 = (int(np.clip(v, 0, height)) for v in (top, bottom))
    step = max(1, -(-max(x1 - x0, y1 - y0) // longest))
    names, seen = contract.channels_of(sdata), contract.facts(sdata).get("image_channels")
    shown = None if seen is None else [names.index(name) for name in seen]
    pixels = composite(np.asarray(image[:, y0:y1:step, x0:x1:step]), names, shown)
    size = (float(pixels.shape[1] * step), float(pixels.shape[0] * step))
    return Tissue(np.ascontiguousarray(pixels), (x0 - 0.5, y0 - 0.5, *size))
