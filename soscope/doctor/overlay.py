"""The overlay: spots over the image as they are given, and as they fit better where they do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from soscope.doctor.examined import Examined

DRAWN_PX, DRAWN_SPOTS = 1200, 200_000


def write_overlay(section: Examined, file: Path) -> None:
    """Draw spots coloured by log total over the image, and beside it the better placement or the darkness at the spots.

    Of very many spots a random part is drawn: they would lie upon each other anyway.
    """
    spots = np.arange(len(section.xy_px))
    if len(spots) > DRAWN_SPOTS:
        spots = np.sort(np.random.default_rng(0).choice(spots, DRAWN_SPOTS, replace=False))
    xy, totals = section.xy_px[spots], np.log1p(np.clip(section.totals[spots], 0, None))
    better = None if section.lacks("image") or section.lacks("spots") else section.judge.better()
    figure = Figure(figsize=(12, 6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, section, xy, totals, f"{section.name}: log total, spots as given")
    if better is not None:
        _draw(right, section, better.placement.move(xy), totals, f"fits better {better.placement.words}")
    elif section.image is not None and section.pitch_px > 0:
        _draw(right, section, xy, section.maps.darkness(xy), "darkness of the image at the spots")
    else:
        right.set_axis_off()
    partial = file.with_name(file.name + ".partial")
    figure.savefig(partial, format="png", dpi=110)
    partial.replace(file)


def _draw(axes: Axes, section: Examined, xy: np.ndarray, values: np.ndarray, title: str) -> None:
    if section.image is not None:
        height, width = section.image.shape[1:]
        step = max(1, max(height, width) // DRAWN_PX)
        axes.imshow(np.moveaxis(section.picture[:, ::step, ::step], 0, -1), extent=(0, width, height, 0))
    else:
        axes.invert_yaxis()
    axes.set_aspect("equal")
    side_px = section.pitch_px * _points_per_px(axes, section)
    drawn = axes.scatter(
        xy[:, 0], xy[:, 1], c=values, s=max(0.5 * side_px, 1.0) ** 2, cmap="viridis", linewidths=0, alpha=0.75
    )
    axes.figure.colorbar(drawn, ax=axes, fraction=0.04, pad=0.02)
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)


def _points_per_px(axes: Axes, section: Examined) -> float:
    """Return typographic points per pixel of the image, for a panel about five inches wide."""
    size = np.ptp(section.xy_px, axis=0).max() if section.image is None else max(section.image.shape[1:])
    return 5 * 72 / max(float(size), 1.0)
