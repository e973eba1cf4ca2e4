"""What the image shows around any point: colour, texture, darkness and tissue, looked up in maps made once."""

from __future__ import annotations

import math

import numpy as np
from scipy.ndimage import uniform_filter
from skimage.filters import threshold_otsu

PX_PER_PITCH = 8
"""Pixels of the maps from one spot to the next, at least where the image has as many."""
LEAST_PER_PITCH = 4
"""The same below which texture is lost: as many are kept of an image up to `LARGEST_PX` wide."""
WIDE_PX, LARGEST_PX = 4000, 8000
"""Pixels of the longer side of the maps: what is enough, and the most there are, whatever becomes of texture."""
WIDTHS = (1.0, 2.5)
"""Widths of the windows around a point, in pitches."""
FLAT = 4.0
"""Grey levels between dark and bright below which an image has no tissue to tell from its background."""


class ImageMaps:
    """Maps of an image at the resolution of spots.

    Parameters
    ----------
    image
        A picture in colour, ``(3, height, width)`` of uint8.
    pitch_px
        Pixels from one spot to the next.

    Attributes
    ----------
    maps
        Per width of window: the three colours and the standard deviation of grey, ``(8, rows, columns)``, in grey levels.
    tissue
        Whether a window one pitch wide is tissue, ``(rows, columns)``.
    window_px
        Pixels of the maps along a window one pitch wide.
    """

    def __init__(self, image: np.ndarray, pitch_px: float) -> None:
        self.size_px = np.array(image.shape[:0:-1], dtype=np.float64)
        self.shrunk_by = shrinking(max(image.shape[1:]), pitch_px)
        self.small = shrink(image, self.shrunk_by)
        width = pitch_px / self.shrunk_by
        self.window_px = max(1, round(width))
        self.maps = np.concatenate([_window(self.small, round(w * width)) for w in WIDTHS])
        self.tissue = tissue_mask(self.maps[:3].mean(0), self.maps[3])

    def features(self, xy_px: np.ndarray) -> np.ndarray:
        """Return the maps' values at points, ``(n, 8)``; beyond the border, those at the border."""
        rows, columns, _ = self._places(xy_px)
        return self.maps[:, rows, columns].T

    def texture(self, xy_px: np.ndarray) -> np.ndarray:
        """Return the standard deviation of grey in a window one pitch wide, ``(n,)`` in grey levels."""
        rows, columns, _ = self._places(xy_px)
        return self.maps[3, rows, columns]

    def darkness(self, xy_px: np.ndarray) -> np.ndarray:
        """Return one minus the mean intensity of a window one pitch wide, ``(n,)`` in [0, 1]."""
        return 1 - self.features(xy_px)[:, :3].mean(1) / 255

    def on_tissue(self, xy_px: np.ndarray) -> np.ndarray:
        """Return which points lie on tissue, ``(n,)``; none outside the image does."""
        rows, columns, inside = self._places(xy_px)
        return self.tissue[rows, columns] & inside

    def _places(self, xy_px: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = np.floor(xy_px / self.shrunk_by).astype(np.int64)
        last = np.array(self.small.shape[:0:-1]) - 1
        inside = np.asarray(((xy_px >= 0) & (xy_px <= self.size_px)).all(1))
        columns, rows = np.clip(at, 0, last).T
        return rows, columns, inside


def shrinking(longer_px: int, pitch_px: float) -> int:
    """Return how many pixels of an image become one of its maps, along either axis."""
    without_loss = max(1, int(pitch_px / LEAST_PER_PITCH))
    by_size = min(math.ceil(longer_px / WIDE_PX), without_loss)
    return max(1, int(pitch_px / PX_PER_PITCH), by_size, math.ceil(longer_px / LARGEST_PX))


def shrink(image: np.ndarray, by: int) -> np.ndarray:
    """Average blocks of ``by`` x ``by`` pixels, ``(channels, rows, columns)`` of float32, without an incomplete last block."""
    if by == 1:
        return image.astype(np.float32)
    channels, height, width = image.shape
    rows, columns = height // by, width // by
    blocks = image[:, : rows * by, : columns * by].reshape(channels, rows, by, columns, by)
    return blocks.mean((2, 4), dtype=np.float32)


def _window(small: np.ndarray, width: int) -> np.ndarray:
    """Return mean colours and the standard deviation of grey in square windows, ``(4, rows, columns)``."""

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, max(1, width), mode="nearest")

    grey = small.mean(0)
    spread = np.sqrt(np.clip(mean(grey**2) - mean(grey) ** 2, 0, None))
    return np.stack([*map(mean, small), spread])


def tissue_mask(grey: np.ndarray, texture: np.ndarray) -> np.ndarray:
    """Part an image by Otsu's threshold of its grey; the smoother side is background, be it bright or dark."""
    if np.ptp(grey) < FLAT:
        return np.zeros(grey.shape, dtype=bool)
    dark = grey <= threshold_otsu(grey)
    return dark if np.median(texture[dark]) >= np.median(texture[~dark]) else ~dark
