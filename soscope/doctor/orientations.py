"""The eight ways an image can lie: mirrored, turned, transposed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Orientation:
    """Exchange x and y, then mirror; ``words`` say what is done to the positions, ``image`` what to the image instead."""

    transpose: bool
    mirror_x: bool
    mirror_y: bool
    words: str
    image: str


AS_GIVEN = Orientation(False, False, False, "as given", "nothing")
ORIENTATIONS = (
    AS_GIVEN,
    Orientation(False, True, False, "mirrored left to right", "FLIP_LEFT_RIGHT"),
    Orientation(False, False, True, "mirrored top to bottom", "FLIP_TOP_BOTTOM"),
    Orientation(False, True, True, "turned by 180 degrees", "ROTATE_180"),
    Orientation(True, False, False, "transposed (x and y exchanged)", "TRANSPOSE"),
    Orientation(True, True, False, "turned by 90 degrees clockwise", "ROTATE_90"),
    Orientation(True, False, True, "turned by 90 degrees counter-clockwise", "ROTATE_270"),
    Orientation(True, True, True, "transposed along the other diagonal", "TRANSVERSE"),
)
"""``image`` names Pillow's `Image.Transpose` that brings the image under positions left as they are."""


def within_box(xy: np.ndarray, orientation: Orientation, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Turn points about the centre of a box."""
    centred = xy - (low + high) / 2
    centred = centred[:, ::-1] if orientation.transpose else centred
    signs = np.where([orientation.mirror_x, orientation.mirror_y], -1.0, 1.0)
    return centred * signs + (low + high) / 2


def within_image(xy: np.ndarray, orientation: Orientation, size_px: np.ndarray) -> np.ndarray:
    """Turn points with an image whose width and height become ``size_px``: mirror about its borders."""
    turned = xy[:, ::-1] if orientation.transpose else xy
    return np.where([orientation.mirror_x, orientation.mirror_y], size_px - turned, turned)
