"""Pictures of a benchmark: maps of every method, methods against ceilings, features against the best other method."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from soscope.benchmark.metrics import LEVELS, coverage_name
from soscope.benchmark.summary import CEILING, METRICS, OURS, best_other
from soscope.report.canvas import Canvas
from soscope.report.figures import shared_norm

COLUMNS = 5
DRAWN = [m for m in METRICS if m.name in ("pearson", "within_spot_r")]
OURS_COLOUR, OTHER_COLOUR = "tab:blue", "0.55"


def maps(
    canvas: Canvas,
    feature: str,
    merged: np.ndarray,
    values: dict[str, np.ndarray],
    r: pd.Series,
    same_units: bool = True,
) -> Figure:
    """Draw the observed spots, the truth and every method.

    Parameters
    ----------
    canvas, feature
        Section and feature drawn.
    merged
        Observed values of spots on the scale of a subspot.
    values
        Values of subspots by name, the truth first.
    r
        Pearson's r of each method on this feature.
    same_units
        Whether the truth is in the units of the section; otherwise it has a colour scale of its own.
    """
    n_rows = math.ceil((len(values) + 1) / COLUMNS)
    figure = Figure(figsize=(2.5 * COLUMNS, 2.6 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    norm = shared_norm(merged, values["truth"]) if same_units else shared_norm(merged)
    canvas.draw(grid[0], canvas.spots, merged, f"{feature}: observed spots", norm=norm, scale_bar=True)
    for axes, (name, value) in zip(grid[1:], values.items(), strict=False):
        title = f"{name}: r {r[name]:.2f}" if name in r else name
        own_scale = name == "truth" and not same_units
        canvas.draw(axes, canvas.subspots, value, title, norm=shared_norm(value) if own_scale else norm)
    return figure


def strip(per_feature: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Draw every method's features as points and their mean as a bar, ceilings as lines."""
    methods = [n for n in means.index if not n.startswith(CEILING)]
    figure = Figure(figsize=(11, 1 + 0.32 * len(methods)), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(DRAWN), sharey=True), DRAWN, strict=True):
        features = per_feature.groupby(["method", "feature"])[metric.name].mean()
        for at, name in enumerate(methods):
            colour = OURS_COLOUR if name == OURS else OTHER_COLOUR
            points = features[name].to_numpy()
            jitter = np.linspace(-0.3, 0.3, len(points)) if len(points) > 1 else np.zeros(1)
            axes.scatter(points, at + jitter, s=4, color=colour, alpha=0.4, linewidths=0)
            axes.plot([means.loc[name, metric.name]] * 2, [at - 0.38, at + 0.38], color=colour, lw=2.5)
        _ceilings(axes, means, metric.name)
        axes.set_yticks(range(len(methods)), methods, fontsize=8)
        axes.set_ylim(len(methods) - 0.4, -0.6)
        axes.set_xlabel(metric.title, fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
    return figure


def _ceilings(axes: Axes, means: pd.DataFrame, column: str) -> None:
    for name, style in zip([n for n in means.index if n.startswith(CEILING)], ("--", ":"), strict=False):
        value = means.loc[name, column]
        if not np.isnan(value):
            label = name.removeprefix(CEILING).replace("_", " ")
            axes.axvline(value, color="black", lw=0.9, ls=style, label=f"ceiling, {label}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2)


def calibration(per_feature: pd.DataFrame) -> Figure | None:
    """Draw how much of the truth lies inside intervals against what they state; ``None`` where no method states any.

    A line per method, the mean over features and seeds; for ours the band that holds nine in ten features.
    """
    columns = [coverage_name(level) for level in LEVELS]
    stated = per_feature.reindex(columns=["method", "feature", *columns]).dropna()  # older tables have fewer levels
    if stated.empty:
        return None
    figure = Figure(figsize=(4.2, 3.9), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color="grey", lw=0.8)
    for name, rows in stated.groupby("method", sort=False):
        found = 100 * rows.groupby("feature")[columns].mean()
        colour = OURS_COLOUR if name == OURS else OTHER_COLOUR
        axes.plot(LEVELS, found.mean(), "o-", ms=4, color=colour, label=name)
        if name == OURS:
            axes.fill_between(LEVELS, found.quantile(0.05), found.quantile(0.95), color=colour, alpha=0.15, lw=0)
    axes.set_xlabel("stated, % of the distribution", fontsize=8)
    axes.set_ylabel("found, % of true counts inside", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, frameon=False)
    return figure


def scatters(per_feature: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Draw each feature's score of ours against the best other method's by that metric."""
    figure = Figure(figsize=(4 * len(DRAWN), 3.9), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(DRAWN)), DRAWN, strict=True):
        other = best_other(means, metric)
        if other is None:
            axes.set_axis_off()
            continue
        wide = per_feature.pivot_table(index="feature", columns="method", values=metric.name)
        ours, theirs = wide[OURS], wide[other]
        low, high = min(ours.min(), theirs.min()), max(ours.max(), theirs.max())
        axes.plot([low, high], [low, high], color="grey", lw=0.8)
        axes.scatter(theirs, ours, s=14, color=OURS_COLOUR)
        axes.set_xlabel(f"{metric.title}, {other}", fontsize=8)
        axes.set_ylabel(f"{metric.title}, {OURS}", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_title(f"{OURS} higher on {int((ours > theirs).sum())} of {len(wide)} features", fontsize=9)
    return figure
