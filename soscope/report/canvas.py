"""Maps of a section: outlines of spots and subspots over the tissue image, or points where they are too many."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, Normalize
from scipy.spatial import cKDTree
from spatialdata import SpatialData

from soscope import contract
from soscope.distances import typical_distance
from soscope.report.tissue import Tissue, tissue_of

DRAWN_PX = 1000
OUTLINED_UP_TO = 60_000
"""Subspots up to which outlines are drawn; of more, every pixel of a picture shows the nearest."""
FINEST, REACH = 4, 0.75
"""Pixels of a picture of points per distance between neighbours, at most, and how many such distances a point reaches: no
lattice leaves gaps."""
OBSERVED_COLOURS, SD_COLOURS = "viridis", "magma"


class Marks(ABC):
    """What stands for spots or subspots in a map."""

    @abstractmethod
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the greatest x, y in pixels."""

    @abstractmethod
    def colour(
        self, axes: Axes, values: np.ndarray, cmap: str | ListedColormap, norm: Normalize | None
    ) -> ScalarMappable:
        """Draw with a value each."""


class Outlines(Marks):
    """Polygons, given as their corners in pixels."""

    def __init__(self, shapes: gpd.GeoSeries) -> None:
        corners, of_shape = shapely.get_coordinates(shapes.exterior.to_numpy(), return_index=True)
        self.corners = corners
        self.polygons = np.split(corners, np.flatnonzero(np.diff(of_shape)) + 1)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return those of all corners."""
        return self.corners.min(0), self.corners.max(0)

    def colour(
        self, axes: Axes, values: np.ndarray, cmap: str | ListedColormap, norm: Normalize | None
    ) -> ScalarMappable:
        """Draw filled polygons."""
        shapes = PolyCollection(
            self.polygons, array=np.asarray(values), cmap=cmap, norm=norm, linewidths=0.15, edgecolors="face"
        )
        axes.add_collection(shapes)
        return shapes


class Points(Marks):
    """Centres in pixels, drawn as a picture whose pixels show the nearest of them; none where all are too far."""

    def __init__(self, xy: np.ndarray, drawn_px: int = DRAWN_PX) -> None:
        self.xy = np.asarray(xy, dtype=np.float64)
        self.distance = typical_distance(self.xy) or 1.0
        low, high = self.bounds()
        step = max(self.distance / FINEST, float((high - low).max()) / drawn_px)
        axes = [np.arange(start, stop + step, step) for start, stop in zip(low, high, strict=True)]
        grid = np.stack(np.meshgrid(*axes), -1)
        reach = REACH * max(self.distance, step)
        self.nearest = cKDTree(self.xy).query(grid, distance_upper_bound=reach)[1]
        left, top = low - step / 2
        self.extent = (left, left + step * len(axes[0]), top + step * len(axes[1]), top)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return those of all centres, and half the distance between two beyond."""
        return self.xy.min(0) - self.distance / 2, self.xy.max(0) + self.distance / 2

    def colour(
        self, axes: Axes, values: np.ndarray, cmap: str | ListedColormap, norm: Normalize | None
    ) -> ScalarMappable:
        """Draw the picture."""
        return axes.imshow(self.pixels(values), cmap=cmap, norm=norm, extent=self.extent, interpolation="nearest")

    def pixels(self, values: np.ndarray) -> np.ndarray:
        """Return the value of every pixel, ``(n_rows, n_columns)``; NaN where there is no point."""
        return np.append(np.asarray(values, dtype=np.float64), np.nan)[self.nearest]


@dataclass
class Canvas:
    """What every map of a section is drawn on.

    Attributes
    ----------
    image
        The whole image, thinned out to what a picture can show, or ``None``.
    spots, subspots
        What stands for them.
    um_per_px
        Micrometres per pixel, for the scale bar.
    window
        Left, right, bottom, top of the drawn part in pixels.
    """

    image: Tissue | None
    spots: Marks
    subspots: Marks
    um_per_px: float
    window: tuple[float, float, float, float]

    @classmethod
    def of(cls, sdata: SpatialData) -> Canvas:
        """Take outlines and image from a prepared or enhanced section; points where it comes without shapes or with too many."""
        spots, subspots = _marks(sdata, contract.modalities(sdata)[0])
        (left, top), (right, bottom) = subspots.bounds()
        pad = 0.03 * max(right - left, bottom - top)
        window = (left - pad, right + pad, bottom + pad, top - pad)
        um_per_px = float(contract.facts(sdata)["um_per_px"])
        return cls(tissue_of(sdata, DRAWN_PX), spots, subspots, um_per_px, window)

    def draw(
        self,
        axes: Axes,
        marks: Marks | None,
        values: np.ndarray | None,
        title: str,
        cmap: str | ListedColormap = OBSERVED_COLOURS,
        norm: Normalize | None = None,
        label: str | None = None,
        scale_bar: bool = False,
    ) -> None:
        """Draw coloured marks over the image, with a colour bar where ``label`` names its unit."""
        if self.image is not None:
            left, top, width, height = self.image.place
            extent, alpha = (left, left + width, top + height, top), 1.0 if values is None else 0.55
            axes.imshow(self.image.pixels, alpha=alpha, interpolation="bilinear", extent=extent)
        if marks is not None and values is not None:
            drawn = marks.colour(axes, values, cmap, norm)
            if label:
                bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02)
                bar.set_label(label, fontsize=7)
                bar.ax.tick_params(labelsize=7)
        axes.set_xlim(self.window[:2])
        axes.set_ylim(self.window[2:])
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set_title(title, fontsize=9)
        if scale_bar:
            self._scale_bar(axes)

    def _scale_bar(self, axes: Axes) -> None:
        width_um = (self.window[1] - self.window[0]) * self.um_per_px
        length_um = max((n for n in (10, 20, 50, 100, 200, 500, 1000, 2000) if n < width_um / 4), default=10)
        length = length_um / self.um_per_px
        left = self.window[0] + 0.04 * (self.window[1] - self.window[0])
        y = self.window[2] + 0.04 * (self.window[3] - self.window[2])
        axes.plot([left, left + length], [y, y], color="black", lw=2.5, solid_capstyle="butt")
        text = f"{length_um} µm"
        axes.text(left + length / 2, y, text, ha="center", va="bottom", fontsize=7)


def _marks(sdata: SpatialData, modality: str) -> tuple[Marks, Marks]:
    """Return what stands for spots and subspots."""
    few = sdata.tables[contract.IMAGE_FEATURES].n_obs <= OUTLINED_UP_TO
    if few and contract.SUBSPOTS in sdata.shapes:
        spots = sdata.shapes[contract.SPOTS]
        circles = spots.geometry.buffer(spots["radius"], quad_segs=6)
        return Outlines(circles), Outlines(sdata.shapes[contract.SUBSPOTS].geometry)
    of_spots, of_subspots = sdata.tables[modality], sdata.tables[contract.IMAGE_FEATURES]
    return Points(of_spots.obsm["spatial"]), Points(of_subspots.obsm["spatial"])
