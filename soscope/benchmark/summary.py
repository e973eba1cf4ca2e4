"""Scores of many methods side by side: one row per method and seed, and tables for the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

OURS = "soscope"
CEILING = "ceiling_"
KEYS = ["section", "method", "seed"]


@dataclass(frozen=True)
class Metric:
    """A column of ``benchmark.csv``.

    Attributes
    ----------
    name, title, form
        Column, heading and format.
    goodness
        Larger where a value is better; ``None`` when being better is not the point.
    margin
        Whether a difference from another method's value says which is better.
    over_features
        How a section's value comes from its features'; ``None`` for what a method takes as a whole.
    """

    name: str
    title: str
    form: str = ".3f"
    goodness: Callable[[pd.Series], pd.Series] | None = None
    over_features: str | None = "mean"
    margin: bool = True

    @property
    def head(self) -> str:
        """The title over two lines, for narrow columns."""
        return "\n".join(self.title.rsplit(" ", 1))

    def text(self, value: float, signed: bool = False) -> str:
        """Write a value; nothing for none."""
        return "" if np.isnan(value) else format(value, ("+" if signed else "") + self.form)


METRICS = (
    Metric("pearson", "Pearson r", goodness=lambda v: v),
    Metric("nmse", "error / variance", goodness=lambda v: -v),
    Metric("within_spot_r", "within-spot r", goodness=lambda v: v),
    Metric("within_spot_r_composition", "within-spot r, composition", goodness=lambda v: v),
    Metric("conservation_error", "conserved within", ".0e", over_features="max"),
    Metric("coverage90", "coverage", goodness=lambda v: -(v - 0.9).abs(), margin=False),
    Metric("seconds", "seconds", ".1f", over_features=None),
    Metric("peak_mb", "peak MB", ".0f", over_features=None),
)
PER_FEATURE = [m.name for m in METRICS if m.over_features]


def summarise(per_feature: pd.DataFrame, costs: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ``benchmark.csv``.

    Parameters
    ----------
    per_feature
        Columns ``section, method, seed`` and metrics, one row per feature.
    costs
        Columns ``section, method, seed, seconds, peak_mb``; ceilings have none.

    Returns
    -------
    One row per section, method and seed, in the order they come in.
    """
    how = {m.name: m.over_features for m in METRICS if m.over_features}
    rows = per_feature.reindex(columns=[*KEYS, *how]).groupby(KEYS, sort=False, as_index=False).agg(how)
    rows = rows.merge(costs, on=KEYS, how="left")
    return rows[[*KEYS, *(m.name for m in METRICS)]]


def over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Average seeds, and sections if there are several: one row per method, indexed by it."""
    names = [m.name for m in METRICS]
    by_section = rows.groupby(["section", "method"], sort=False)[names].mean()
    return by_section.groupby("method", sort=False).mean()


def best_other(means: pd.DataFrame, metric: Metric) -> str | None:
    """Return the best method by a metric that is neither ours nor a ceiling; ``None`` where none states it."""
    if metric.goodness is None:
        return None
    others = means[[n != OURS and not n.startswith(CEILING) for n in means.index]]
    good = metric.goodness(others[metric.name]).dropna()
    return None if good.empty else str(good.idxmax())


def marked(means: pd.DataFrame, metric: Metric) -> set[str]:
    """Return the best methods by a metric, ties as printed included; ceilings are no methods."""
    methods = means[[not n.startswith(CEILING) for n in means.index]][metric.name]
    good = pd.Series(dtype=float) if metric.goodness is None else metric.goodness(methods).dropna()
    if good.empty:
        return set()
    best = metric.text(methods[str(good.idxmax())])
    return {str(name) for name, value in methods.items() if metric.text(value) == best}


def margins(means: pd.DataFrame) -> list[str]:
    """Return how much our value differs from the best other method's, as text per metric."""
    texts = []
    for metric in METRICS:
        other = best_other(means, metric) if metric.margin else None
        ours = means[metric.name].get(OURS, np.nan)
        texts.append("" if other is None else metric.text(ours - means[metric.name][other], signed=True))
    return texts


def as_rows(means: pd.DataFrame) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Return name and, per metric, text and whether it is among the best, of every method."""
    best = {m.name: marked(means, m) for m in METRICS}
    return [
        (str(name), [(m.text(row[m.name]), str(name) in best[m.name]) for m in METRICS])
        for name, row in means.iterrows()
    ]


def as_tables(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return titles and means over seeds: a table per section, and with several sections one with means over them."""
    seeds = rows["seed"].nunique()
    over = f"mean over features{f' and {seeds} seeds' if seeds > 1 else ''}"
    parts = [(f"{name} ({over})", over_seeds(part)) for name, part in rows.groupby("section", sort=False)]
    return parts if len(parts) == 1 else [*parts, (f"mean over {len(parts)} sections", over_seeds(rows))]


def draw_table(title: str, means: pd.DataFrame) -> Table:
    """Draw one table for the terminal, the best of every column in bold, our margin in the last line."""
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("method", no_wrap=True)
    for metric in METRICS:
        table.add_column(metric.head, justify="right", no_wrap=True)
    for name, cells in as_rows(means):
        table.add_row(name, *(Text(text, style="bold" if best else "") for text, best in cells))
    if OURS in means.index and any(margins(means)):
        table.add_section()
        table.add_row(f"{OURS} - best other", *margins(means))
    return table
