"""Pictures of a result: maps over the tissue image, losses, clusters, the demo's scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from spatialdata import SpatialData

from soscope import contract
from soscope.matrices import to_dense

DRAWN_PX = 1000
OBSERVED_COLOURS, SD_COLOURS = "viridis", "magma"


@dataclass
class Canvas:
    """What every map of a section is drawn on.

    Attributes
    ----------
    image
        ``(height, width, channels)``, thinned out to what a picture can show, or ``None``.
    size_px
        Width and height of the whole image in pixels.
    spots, subspots
        Outlines in pixels, lists of ``(n_corners, 2)``.
    um_per_px
        Micrometres per pixel, for the scale bar.
    window
        Left, right, bottom, top of the drawn part in pixels.
    """

    image: np.ndarray | None
    size_px: tuple[float, float]
    spots: list[np.ndarray]
    subspots: list[np.ndarray]
    um_per_px: float
    window: tuple[float, float, float, float]

    @classmethod
    def of(cls, sdata: SpatialData) -> Canvas:
        """Take outlines and image from a prepared or enhanced section."""
        image = contract.image_of(sdata)
        spots = sdata.shapes[contract.SPOTS]
        subspots = _corners(sdata.shapes[contract.SUBSPOTS])
        circles = spots.geometry.buffer(spots["radius"], quad_segs=6)
        every = np.concatenate(subspots)
        (left, top), (right, bottom) = every.min(0), every.max(0)
        pad = 0.03 * max(right - left, bottom - top)
        window = (left - pad, right + pad, bottom + pad, top - pad)
        um_per_px = float(contract.facts(sdata)["um_per_px"])
        pixels = None if image is None else _drawable(image)
        size = (0.0, 0.0) if image is None else (float(image.shape[2]), float(image.shape[1]))
        return cls(pixels, size, _corners(gpd.GeoDataFrame(geometry=circles)), subspots, um_per_px, window)

    def draw(
        self,
        axes: Axes,
        outlines: list[np.ndarray] | None,
        values: np.ndarray | None,
        title: str,
        cmap: str | ListedColormap = OBSERVED_COLOURS,
        norm: Normalize | None = None,
        label: str | None = None,
        scale_bar: bool = False,
    ) -> None:
        """Draw coloured outlines over the image, with a colour bar where ``label`` names its unit."""
        if self.image is not None:
            extent = (-0.5, self.size_px[0] - 0.5, self.size_px[1] - 0.5, -0.5)
            axes.imshow(self.image, alpha=1.0 if values is None else 0.55, interpolation="bilinear", extent=extent)
        if outlines is not None and values is not None:
            shapes = PolyCollection(
                outlines, array=np.asarray(values), cmap=cmap, norm=norm, linewidths=0.15, edgecolors="face"
            )
            axes.add_collection(shapes)
            if label:
                bar = axes.figure.colorbar(shapes, ax=axes, fraction=0.04, pad=0.02)
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


def _drawable(image: np.ndarray) -> np.ndarray:
    """Return ``(height, width, channels)`` with every n-th pixel, at most `DRAWN_PX` a side: slides are too large to draw."""
    step = max(1, -(-max(image.shape[1:]) // DRAWN_PX))
    return np.moveaxis(image[:, ::step, ::step], 0, -1)


def feature_maps(sdata: SpatialData, canvas: Canvas, modality: str, feature: str) -> Figure:
    """Draw the tissue image, the observed spots, the enhanced subspots and their standard deviation."""
    observed = sdata.tables[modality]
    enhanced = sdata.tables[contract.enhanced_name(modality)]
    share = equal_share(sdata, modality, observed, feature)
    mean, sd = column(enhanced, feature), column(enhanced, feature, "sd")
    norm = shared_norm(share, mean)
    figure = Figure(figsize=(13.5, 3.6), layout="constrained")
    image, before, after, doubt = figure.subplots(1, 4)
    canvas.draw(image, None, None, "tissue", scale_bar=True)
    unit = "per subspot"
    canvas.draw(before, canvas.spots, share, f"{feature}: observed / K", norm=norm, label=unit)
    canvas.draw(after, canvas.subspots, mean, f"{feature}: enhanced", norm=norm, label=unit)
    canvas.draw(doubt, canvas.subspots, sd, f"{feature}: standard deviation", cmap=SD_COLOURS, label=unit)
    return figure


def cluster_map(sdata: SpatialData, canvas: Canvas, clusters: np.ndarray) -> Figure:
    """Draw the clusters of spots' latent state."""
    import matplotlib

    n = int(clusters.max()) + 1
    colours = ListedColormap(matplotlib.colormaps["tab20"](np.arange(n) % 20))
    norm = Normalize(-0.5, n - 0.5)
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    canvas.draw(axes, canvas.spots, clusters, "clusters of the latent state", cmap=colours, norm=norm, scale_bar=True)
    handles = [Line2D([], [], marker="o", ls="", color=colours(i), label=str(i + 1)) for i in range(n)]
    axes.legend(handles=handles, fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def loss_curves(metrics: pd.DataFrame) -> Figure:
    """Draw each stage's terms over steps, training beside held-out."""
    stages = list(metrics["stage"].unique())
    terms = [("train_loss", "loss, trained spots"), ("held_out_loss", "loss, held-out spots"), ("train_kl", "KL")]
    figure = Figure(figsize=(10, 2.6 * len(stages)), layout="constrained")
    grid = figure.subplots(len(stages), len(terms), squeeze=False)
    for row, stage in zip(grid, stages, strict=True):
        part = metrics[metrics["stage"] == stage]
        for axes, (column, title) in zip(row, terms, strict=True):
            if column in part:
                known = part.dropna(subset=[column])
                axes.plot(known["step"], known[column], lw=1.4)
            axes.set_title(f"{stage}: {title}", fontsize=9)
            axes.set_xlabel("step", fontsize=8)
            axes.tick_params(labelsize=7)
    return figure


def score_scatter(scores: pd.DataFrame) -> Figure:
    """Draw each feature's correlation with the truth against that of equal division."""
    wide = scores.pivot_table(index="feature", columns="method", values="pearson")
    figure = Figure(figsize=(3.8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", lw=0.8)
    axes.scatter(wide["copy_down"], wide["soscope"], s=14)
    axes.set_xlabel("Pearson r, spot divided by K", fontsize=8)
    axes.set_ylabel("Pearson r, soscope", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_title("one point per feature", fontsize=9)
    return figure


def save(figure: Figure, file: Path, dpi: int) -> Path:
    """Write a picture as PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    figure.savefig(partial, dpi=dpi, format="png")
    return partial.replace(file)


def equal_share(sdata: SpatialData, modality: str, observed: object, feature: str) -> np.ndarray:
    """Return the observed value of a spot on the scale of a subspot: divided by K for counts, as it is for averages."""
    values = column(observed, feature)
    if not contract.facts(sdata)["adds_up"][modality]:
        return values
    parent = sdata.shapes[contract.SUBSPOTS][contract.PARENT].to_numpy()
    return values / np.maximum(np.bincount(parent[parent >= 0], minlength=len(values)), 1)


def column(table: object, feature: str, layer: str | None = None) -> np.ndarray:
    """Return one feature of a table, or of one of its layers, ``(n_rows,)``."""
    part = table[:, feature]  # type: ignore[index]
    return to_dense(part.layers[layer] if layer else part.X, float).ravel()


def shared_norm(*values: np.ndarray) -> Normalize:
    """Share one colour scale, cut at the 1st and 99th percentile of all values."""
    low, high = np.percentile(np.concatenate(values), [1, 99])
    return Normalize(low, high if high > low else low + 1)


def _corners(shapes: gpd.GeoDataFrame) -> list[np.ndarray]:
    return [shapely.get_coordinates(g.exterior) for g in shapes.geometry]
