"""The report's part on clusters, from ``clusters.csv`` and the columns of enhanced tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from soscope.folder import RunFolder
from soscope.report.canvas import Canvas

NAMED_UP_TO = 20
"""Groups up to which colours differ and are named beside the map."""


@dataclass(frozen=True)
class Clusters:
    """What one method tried on a section, or ``note``, why it found nothing."""

    method: str
    column: str
    setting: str
    criterion: str
    tried: pd.DataFrame
    note: str | None = None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table of what was tried, in words."""
        digits = ".1f" if self.tried["score"].abs().max() >= 100 else ".3f"
        return [
            {
                "tried": f"{row['tried']:g}",
                "n_clusters": int(row["n_clusters"]),
                "score": "" if np.isnan(row["score"]) else f"{row['score']:,{digits}}",
                "error": f"{row['error']:.3f}" if row["error"] else "",
                "chosen": row["chosen"],
            }
            for row in self.tried.to_dict("records")
        ]


def clusters_of(folder: RunFolder, section: str) -> list[Clusters]:
    """Return what was tried on a section, method by method; nothing where subspots were not grouped."""
    if not folder.clusters_file.is_file():
        return []
    table = pd.read_csv(folder.clusters_file, dtype={"section": str, "note": str})
    return [
        _clusters(str(name), part) for name, part in table[table["section"] == section].groupby("method", sort=False)
    ]


def _clusters(method: str, table: pd.DataFrame) -> Clusters:
    first = table.iloc[0]
    note = None if pd.isna(first["note"]) else str(first["note"])
    return Clusters(method, first["column"], first["setting"], str(first["criterion"]), table, note)


def draw_clusters(canvas: Canvas, clusters: Clusters, labels: pd.Series) -> Figure:
    """Draw the score of what was tried, and the groups of subspots."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    curve, tissue = figure.subplots(1, 2, width_ratios=(1, 1.4))
    _draw_curve(curve, clusters)
    codes = labels.cat.codes.to_numpy(float)
    n = max(len(labels.cat.categories), 1)
    colours = ListedColormap(mpl.colormaps["tab20"](np.arange(n) % NAMED_UP_TO))
    values = np.where(codes < 0, np.nan, codes)
    canvas.draw(
        tissue, canvas.subspots, values, clusters.method, cmap=colours, norm=Normalize(-0.5, n - 0.5), scale_bar=True
    )
    named = list(labels.cat.categories[:NAMED_UP_TO])
    handles = [Line2D([], [], marker="o", ls="", color=colours(i), label=name) for i, name in enumerate(named)]
    tissue.legend(handles=handles, fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _draw_curve(axes: Axes, clusters: Clusters) -> None:
    tried = clusters.tried
    axes.errorbar(tried["tried"], tried["score"], yerr=tried["error"], marker="o", ms=3, lw=1.2, capsize=2)
    chosen = tried[tried["chosen"]]
    axes.scatter(chosen["tried"], chosen["score"], s=70, facecolors="none", edgecolors="C3", zorder=3)
    axes.set_xlabel(clusters.setting, fontsize=8)
    axes.set_ylabel(clusters.criterion, fontsize=8)
    axes.set_title(f"chosen: {int(chosen['n_clusters'].iloc[0])} clusters", fontsize=9)
    axes.tick_params(labelsize=7)
