"""What stands for spots and subspots in the browser: outlines, or pixels where they are too many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, LinearColorMapper
from bokeh.plotting import figure

from soscope.report.canvas import Marks, Outlines, Points

SHAPES_UP_TO = 10_000
"""Outlines up to which a browser follows the mouse while it draws them; more are drawn as pixels."""
PIXELS = 500
"""Pixels of the longer side of a map drawn as pixels."""
OPACITY = 0.8


@dataclass
class Layer:
    """What stands for the rows of a table in the browser.

    Attributes
    ----------
    source
        Outlines or pixels, and columns of values, in micrometres.
    rows
        Rows of the table whose values are shown, ``(n_shown,)``.
    pixel
        Which of them a pixel shows, -1 for none, ``(height, width)``; ``None`` for outlines.
    glyph, place, alphas
        Name of bokeh's glyph, where it lies, and its properties that say how opaque it is.
    """

    source: ColumnDataSource
    rows: np.ndarray
    pixel: np.ndarray | None
    glyph: str
    place: dict[str, Any]
    alphas: tuple[str, ...]

    def show(self, name: str, of_rows: np.ndarray) -> None:
        """Fill a column with the values ``(n_shown,)`` of a feature."""
        if self.pixel is None:
            self.source.data[name] = of_rows
        else:
            self.source.data[name] = [np.append(of_rows, np.float32(np.nan))[self.pixel]]

    def draw(self, plot: figure, name: str, mapper: LinearColorMapper) -> Any:
        """Draw a column; returns bokeh's glyph renderer."""
        opacity = dict.fromkeys(self.alphas, OPACITY)
        if self.pixel is None:
            colour = {"field": name, "transform": mapper}
            return plot.patches(source=self.source, fill_color=colour, line_color=None, **self.place, **opacity)
        return plot.image(name, source=self.source, color_mapper=mapper, **self.place, **opacity)


@singledispatch
def layer_of(marks: Marks, names: Sequence[str], um_per_px: float) -> Layer:
    """Return what stands for marks in the browser, ``names`` being those of their rows."""
    raise TypeError(f"{type(marks).__name__} cannot be shown in a page.")


@layer_of.register
def _(marks: Outlines, names: Sequence[str], um_per_px: float) -> Layer:
    if len(marks.polygons) > SHAPES_UP_TO:
        return _pixels(np.stack([polygon[:-1].mean(0) for polygon in marks.polygons]), um_per_px)
    corners = [
        np.round(polygon[:-1] * um_per_px, 2) for polygon in marks.polygons
    ]  # lists: bokeh packs every array by itself
    data = {"xs": [c[:, 0].tolist() for c in corners], "ys": [c[:, 1].tolist() for c in corners], "name": list(names)}
    place = {"xs": "xs", "ys": "ys"}
    return Layer(ColumnDataSource(data), np.arange(len(corners)), None, "patches", place, ("fill_alpha",))


@layer_of.register
def _(marks: Points, names: Sequence[str], um_per_px: float) -> Layer:
    return _pixels(marks.xy, um_per_px)


def _pixels(xy: np.ndarray, um_per_px: float) -> Layer:
    """Return pixels that show the nearest of some centres; a centre without a pixel is left out."""
    points = Points(xy, PIXELS)
    rows, pixel = np.unique(points.nearest, return_inverse=True)
    empty = rows == len(xy)  # the last, if any
    pixel = np.where(empty[pixel], -1, pixel).reshape(points.nearest.shape).astype(np.int32)
    left, right, bottom, top = (float(v) * um_per_px for v in points.extent)
    place = {"x": left, "y": top, "dw": right - left, "dh": bottom - top}
    return Layer(ColumnDataSource(), rows[~empty], pixel, "image", place, ("global_alpha",))
