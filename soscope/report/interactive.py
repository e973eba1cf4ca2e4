"""Maps to move about in: observed, enhanced and standard deviation side by side, any feature, in a page without a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bokeh.embed import components
from bokeh.layouts import column, gridplot, row
from bokeh.models import (
    AutocompleteInput,
    BoxZoomTool,
    ColorBar,
    ColumnDataSource,
    CrosshairTool,
    CustomJS,
    HoverTool,
    LinearColorMapper,
    PanTool,
    Range1d,
    ResetTool,
    SaveTool,
    ScaleBar,
    Slider,
    Span,
    WheelZoomTool,
)
from bokeh.palettes import all_palettes
from bokeh.plotting import figure
from bokeh.resources import Resources
from markupsafe import Markup
from spatialdata import SpatialData

from soscope import contract
from soscope.report import figures
from soscope.report.canvas import OBSERVED_COLOURS, SD_COLOURS, Canvas
from soscope.report.layers import OPACITY, Layer, layer_of
from soscope.report.quantised import BYTES_IN_PAGE, Quantised, features_that_fit
from soscope.report.tissue import tissue_of

TISSUE_PX, WIDTH = 1400, 350
"""Pixels of the longer side of the tissue image, and of a plot's width."""
PALETTES = (OBSERVED_COLOURS.capitalize(), SD_COLOURS.capitalize())
"""What bokeh calls the colours of the other pictures."""
SHOW_FEATURE = """
const i = features.indexOf(search.value)
if (i < 0) return
columns.forEach((name, k) => {
  const n = codes[k].length / features.length, pixel = pixels[k]
  const value = (j) => low[k][i] + step[k][i] * codes[k][i * n + j]
  const shown = pixel == null ? sources[k].data[name] : sources[k].data[name][0]
  for (let p = 0; p < shown.length; p++)
    shown[p] = pixel == null ? value(p) : pixel[p] < 0 ? NaN : value(pixel[p])
})
mappers.forEach((mapper, k) => mapper.setv({low: shown_low[k][i], high: shown_high[k][i]}))
plots.forEach((plot, k) => { plot.title.text = features[i] + ": " + titles[k] })
new Set(sources).forEach((source) => source.change.emit())
search.value = ""
"""
"""What the browser does when a feature is chosen: the same as `Layer.show` for each column."""


@dataclass
class Shown:
    """One of the three pictures: a column of a layer, its title, colours and values."""

    layer: Layer
    column: str
    title: str
    mapper: LinearColorMapper
    values: Quantised


@dataclass
class FeatureMap:
    """A map of one table, and what the page says about it; `embed` fills ``div``."""

    model: Any
    modality: str
    n_features: int
    n_all: int
    megabytes_for_all: float
    div: Markup = field(default_factory=Markup)


def feature_map(
    sdata: SpatialData,
    modality: str,
    canvas: Canvas,
    tissue: ColumnDataSource | None,
    first: list[str],
    limit_mb: float,
) -> FeatureMap:
    """Build the map of a modality.

    Parameters
    ----------
    sdata, modality, canvas, tissue
        An enhanced section, one of its tables, what stands for its spots and subspots, and its image from `tissue_source`.
    first
        Features that come first; the others follow as the table has them, the most spatially variable first.
    limit_mb
        Megabytes that values may take in the page. Features that do not fit are left out.
    """
    enhanced, um_per_px = sdata.tables[contract.enhanced_name(modality)], canvas.um_per_px
    spots = layer_of(canvas.spots, sdata.tables[modality].obs_names, um_per_px)
    subspots = layer_of(canvas.subspots, enhanced.obs_names, um_per_px)
    names = enhanced.var_names.tolist()
    rows = len(spots.rows) + 2 * len(subspots.rows)
    features = features_that_fit(first, names, rows, limit_mb)
    share = figures.equal_share(sdata, modality, features)[spots.rows]
    mean, sd = (figures.columns(enhanced, features, layer)[subspots.rows] for layer in (None, "sd"))
    colours, sd_colours = (LinearColorMapper(all_palettes[c][256]) for c in PALETTES)
    words = figures.words_of(sdata, modality)
    shown = [
        Shown(spots, "observed", words.observed, colours, Quantised.of(share)),
        Shown(subspots, "enhanced", "enhanced", colours, Quantised.of(mean)),
        Shown(subspots, "sd", "standard deviation", sd_colours, Quantised.of(sd)),
    ]
    limits = [_limits(share, mean), _limits(sd)]
    model = _layout(features, shown, limits, _frames(canvas, len(shown)), tissue, words.unit)
    return FeatureMap(model, modality, len(features), len(names), len(names) * rows * BYTES_IN_PAGE / 1e6)


def _limits(*values: np.ndarray) -> np.ndarray:
    """Return the least and the greatest value in colours of every feature, ``(2, n_features)``."""
    norms = [figures.shared_norm(*(v[:, i] for v in values)) for i in range(values[0].shape[1])]
    return np.array([[n.vmin, n.vmax] for n in norms]).T


def _frames(canvas: Canvas, n: int) -> list[Any]:
    """Return empty plots that are panned and zoomed together, y downwards as in the image."""
    left, right, bottom, top = (float(v) * canvas.um_per_px for v in canvas.window)
    x, y = Range1d(left, right), Range1d(bottom, top)
    height = round(WIDTH * (bottom - top) / (right - left))
    cross = tuple(Span(dimension=d, line_color="#555", line_dash="dotted") for d in ("width", "height"))
    plots = []
    for _ in range(n):
        zoom = WheelZoomTool()
        tools = [PanTool(), zoom, BoxZoomTool(match_aspect=True), ResetTool(), SaveTool(), CrosshairTool(overlay=cross)]
        plot = figure(x_range=x, y_range=y, frame_width=WIDTH, frame_height=height, tools=tools, title="")
        plot.toolbar.active_scroll = zoom
        plot.axis.visible = plot.grid.visible = False
        plots.append(plot)
    bar = ScaleBar(range=x, unit="µm", location="bottom_left", background_fill_alpha=0.7, border_line_color=None)
    plots[0].add_layout(bar)
    return plots


def _layout(
    features: list[str], shown: list[Shown], limits: list[np.ndarray], plots: list[Any], tissue: Any, unit: str
) -> Any:
    """Draw the first feature, and let the search box draw the others in the browser."""
    mappers = list(dict.fromkeys(s.mapper for s in shown))
    for mapper, (low, high) in zip(mappers, limits, strict=True):
        mapper.update(low=low[0], high=high[0], nan_color="rgba(0,0,0,0)")
    opacity = Slider(title="Opacity of values over the image", start=0, end=1, step=0.05, value=OPACITY, width=260)
    for plot, part in zip(plots, shown, strict=True):
        if tissue is not None:
            plot.image_url(url="url", x="x", y="y", w="w", h="h", source=tissue)
        part.layer.show(part.column, part.values.of_feature(0))
        drawn = part.layer.draw(plot, part.column, part.mapper)
        plot.title.text = f"{features[0]}: {part.title}"
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=_tooltips(part, shown)))
        plot.add_layout(ColorBar(color_mapper=part.mapper, height=10, title=unit), "below")
        for alpha in part.layer.alphas:
            opacity.js_link("value", drawn.glyph, alpha)
    search = AutocompleteInput(
        title=f"Feature ({len(features):,} to choose from)",
        placeholder="part of a name, then Enter",
        completions=features,
        case_sensitive=False,
        search_strategy="includes",
        min_characters=1,
        max_completions=30,
        width=260,
    )
    args = {
        "search": search,
        "features": features,
        "plots": plots,
        "titles": [s.title for s in shown],
        "mappers": mappers,
        "shown_low": [low for low, _ in limits],
        "shown_high": [high for _, high in limits],
        "sources": [s.layer.source for s in shown],
        "columns": [s.column for s in shown],
        "codes": [s.values.codes.ravel() for s in shown],
        "low": [s.values.low for s in shown],
        "step": [s.values.step for s in shown],
        "pixels": [None if s.layer.pixel is None else s.layer.pixel.ravel() for s in shown],
    }
    search.js_on_change("value", CustomJS(args=args, code=SHOW_FEATURE))
    return column(row(search, opacity), gridplot([plots], toolbar_location="right", toolbar_options={"logo": None}))


def _tooltips(part: Shown, shown: list[Shown]) -> list[tuple[str, str]]:
    """Return what is told of a place: its name where outlines have one, and all columns of its layer."""
    name = [] if part.layer.pixel is not None else [("", "@name")]
    return name + [(s.title, f"@{{{s.column}}}{{0.000}}") for s in shown if s.layer is part.layer]


def tissue_source(sdata: SpatialData, canvas: Canvas) -> ColumnDataSource | None:
    """Return the drawn part of the tissue image, which all maps of a section share; ``None`` without an image."""
    tissue = tissue_of(sdata, TISSUE_PX, canvas.window)
    if tissue is None:
        return None
    place = {k: [v * canvas.um_per_px] for k, v in zip("xywh", tissue.place, strict=True)}
    return ColumnDataSource({"url": [tissue.url]} | place)


def embed(maps: list[FeatureMap]) -> Markup:
    """Put every map's place into its ``div``; returns bokeh's own scripts and all maps, for the page to hold once."""
    if not maps:
        return Markup()
    script, divs = components(tuple(m.model for m in maps))
    for one, div in zip(maps, divs, strict=True):
        one.div = Markup(div)
    return Markup(Resources(mode="inline", components=["bokeh", "bokeh-widgets"]).render() + script)
