"""Full-resolution slides: TIFF and its pyramids through tifffile, scanners' own formats through OpenSlide."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from rich.progress import track

from soscope.errors import ConfigError, DataError
from soscope.read.base import as_image, open_image, page_names

log = logging.getLogger("soscope")
FINE_PITCH_PX = 400
"""A level of a pyramid is fine enough when spots are this far apart: 0.25 um a pixel on Visium."""
STRIP_ROWS = 1024
PLAIN = ("RGB", "MINISBLACK", "YCBCR")
"""Ways to store colour that tifffile hands over as grey or RGB; Pillow converts the others."""

SLIDES: dict[str, type[Slide]] = {}


class Slide(ABC):
    """An image in several resolutions, opened and not yet read. A new format is a subclass here with its suffixes."""

    sizes: Sequence[tuple[int, int]]
    """Width and height of every level, the finest first."""
    suffixes: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls) -> None:
        SLIDES.update(dict.fromkeys(cls.suffixes, cls))

    @abstractmethod
    def __init__(self, file: Path) -> None: ...

    @abstractmethod
    def read(self, level: int) -> np.ndarray:
        """Return a level as ``(channels, height, width)``."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


class TiffSlide(Slide):
    """TIFF, OME-TIFF and BigTIFF."""

    suffixes = (".tif", ".tiff", ".btf")

    def __init__(self, file: Path) -> None:
        import tifffile

        self._file, self._tiff = file, tifffile.TiffFile(file)
        self._levels = self._tiff.series[0].levels
        self.sizes = [(level.sizes["width"], level.sizes["height"]) for level in self._levels]

    def read(self, level: int) -> np.ndarray:
        """Read a level; other colours than grey and RGB are left to Pillow, which knows the finest level only."""
        chosen: Any = self._levels[level]
        if chosen.keyframe.photometric.name not in PLAIN and level == 0:
            return open_image(self._file)
        pixels, axes = chosen.asarray(), chosen.axes
        if set(axes) - set("YXSCI") or len(axes) not in (2, 3):
            raise DataError(
                f"'{self._file}': axes {axes} of shape {pixels.shape} are no single image. Save one plane and time point."
            )
        return pixels[None] if len(axes) == 2 else np.moveaxis(pixels, axes.index(set(axes).difference("YX").pop()), 0)

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()


class ScannerSlide(Slide):
    """Formats of slide scanners."""

    suffixes = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")

    def __init__(self, file: Path) -> None:
        try:
            import openslide
        except ImportError as error:
            raise ConfigError(
                f"'{file.name}' is read by OpenSlide, which is not installed: pip install 'soscope[slides]'. Or convert it "
                "to TIFF."
            ) from error
        self._slide: Any = openslide.OpenSlide(file)
        self.sizes = list(self._slide.level_dimensions)

    def read(self, level: int) -> np.ndarray:
        """Read a level strip by strip; where nothing was scanned it is white."""
        width, height = self.sizes[level]
        down = self._slide.level_downsamples[level]
        image = np.empty((3, height, width), dtype=np.uint8)
        starts = range(0, height, STRIP_ROWS)
        for top in track(starts, "slide", disable=len(starts) < 4, transient=True):
            rows = min(STRIP_ROWS, height - top)
            strip = self._slide.read_region((0, round(top * down)), level, (width, rows))
            rgba = np.asarray(strip, dtype=np.uint8)
            image[:, top : top + rows] = np.moveaxis(np.where(rgba[..., 3:] == 0, np.uint8(255), rgba[..., :3]), -1, 0)
        return image

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def open_slide(file: Path, pitch_px: float) -> tuple[np.ndarray, float]:
    """Read a full-resolution image, of a pyramid the coarsest level that is fine enough.

    Parameters
    ----------
    file
        TIFF, a scanner's format, or any image Pillow reads.
    pitch_px
        Distance between spots, in pixels of the finest level.

    Returns
    -------
    ``(channels, height, width)``, and its pixels per pixel of the finest level.

    Raises
    ------
    ConfigError, DataError
        When the format needs the extra ``slides``; when the file is damaged, or no single image.
    """
    kind = SLIDES.get(file.suffix.lower())
    if kind is None:
        return open_image(file), 1.0
    try:
        slide = kind(file)
        try:
            level = fine_level([width for width, _ in slide.sizes], pitch_px)
            log.info("%s: level %d of %d, %d x %d px", file.name, level, len(slide.sizes), *slide.sizes[level])
            pixels = slide.read(level)
        finally:
            slide.close()
    except (ConfigError, DataError):
        raise
    except Exception as error:
        raise DataError(
            f"'{file}' cannot be read as a slide ({type(error).__name__}: {error}). It may be truncated, or another kind of "
            "file than its ending says."
        ) from error
    return as_image(pixels, f"'{file}'", page_names(file)), slide.sizes[level][0] / slide.sizes[0][0]


def fine_level(widths: Sequence[int], pitch_px: float) -> int:
    """Return the coarsest level at which spots are `FINE_PITCH_PX` apart, the finest when none is so fine."""
    fine = [i for i, width in enumerate(widths) if pitch_px * width / widths[0] >= FINE_PITCH_PX]
    return max(fine, key=lambda i: (-widths[i], i)) if fine else 0
