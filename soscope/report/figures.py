"""Pictures of a result: maps, losses, the demo's scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from spatialdata import SpatialData

from soscope import contract
from soscope.errors import DataError
from soscope.matrices import to_dense
from soscope.report.canvas import SD_COLOURS, Canvas
from soscope.rows import BLOCK

MAP_INCHES, MAPS_HEIGHT = 3.375, 3.6
"""Width and height of one of a row of maps."""


class Words(NamedTuple):
    """What maps of a table call its observed values, and the unit of all its values."""

    observed: str
    unit: str


def words_of(sdata: SpatialData, modality: str) -> Words:
    """Return the words for what `equal_share` returns."""
    if contract.facts(sdata)["adds_up"][modality]:
        return Words("observed / K", "per subspot")
    return Words("observed", "average in a subspot")


def n_maps(canvas: Canvas) -> int:
    """Return how many maps show a feature: one less where there is no tissue image."""
    return 3 + (canvas.image is not None)


def feature_maps(
    canvas: Canvas, feature: str, words: Words, share: np.ndarray, mean: np.ndarray, sd: np.ndarray
) -> Figure:
    """Draw the tissue image, a feature of the observed spots, of the enhanced subspots, and their standard deviation."""
    figure = Figure(figsize=(MAP_INCHES * n_maps(canvas), MAPS_HEIGHT), layout="constrained")
    draw_feature(figure.subplots(1, n_maps(canvas)), canvas, feature, words, share, mean, sd)
    return figure


def draw_feature(
    axes: Sequence[Axes] | np.ndarray,
    canvas: Canvas,
    feature: str,
    words: Words,
    share: np.ndarray,
    mean: np.ndarray,
    sd: np.ndarray,
) -> None:
    """Draw the maps of `feature_maps` on axes there are, `n_maps` of them."""
    norm, unit = shared_norm(share, mean), words.unit
    *image, before, after, doubt = axes
    for one in image:
        canvas.draw(one, None, None, "tissue", scale_bar=True)
    title = f"{feature}: {words.observed}"
    canvas.draw(before, canvas.spots, share, title, norm=norm, label=unit, scale_bar=not image)
    canvas.draw(after, canvas.subspots, mean, f"{feature}: enhanced", norm=norm, label=unit)
    canvas.draw(doubt, canvas.subspots, sd, f"{feature}: standard deviation", cmap=SD_COLOURS, label=unit)


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


def equal_share(sdata: SpatialData, modality: str, features: list[str]) -> np.ndarray:
    """Return the observed values of spots on the scale of a subspot: divided by K for counts, as they are for averages."""
    values = columns(sdata.tables[modality], features)
    if not contract.facts(sdata)["adds_up"][modality]:
        return values
    parent = sdata.tables[contract.IMAGE_FEATURES].obs[contract.PARENT].to_numpy()
    return values / np.maximum(np.bincount(parent[parent >= 0], minlength=len(values)), 1)[:, None]


def columns(table: AnnData, features: list[str], layer: str | None = None) -> np.ndarray:
    """Return some features of a table, or of one of its layers, ``(n_rows, n_features)``; a stored table is read in blocks."""
    values: Any = table.layers[layer] if layer else table.X
    index = table.var_names.get_indexer(features)
    if (index < 0).any():
        raise DataError(
            f"a table of the result has no feature '{features[int(np.argmin(index))]}'. Enhance the run again."
        )
    step = max(BLOCK // max(table.n_vars, 1), 1)
    parts = [to_dense(values[i : i + step][:, index], float) for i in range(0, table.n_obs, step)]
    return np.concatenate(parts) if parts else np.zeros((0, len(features)))


def shared_norm(*values: np.ndarray) -> Normalize:
    """Share one colour scale, cut at the 1st and 99th percentile of all values."""
    low, high = np.percentile(np.concatenate(values), [1, 99])
    return Normalize(low, high if high > low else low + 1)
