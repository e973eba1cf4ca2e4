"""Which features of a section to trust, and how finely to split it: what a benchmark on its merged spots says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from soscope.benchmark.summary import CEILING, METRICS, OURS, best_other

TRUSTWORTHY, NO_BETTER, NOT_ENOUGH = "trustworthy", "no better than interpolation", "not enough counts"
KRIGING = "kriging"
VERDICTS = (TRUSTWORTHY, NO_BETTER, NOT_ENOUGH)
INTERPOLATIONS = ("linear", "linear_to_totals")
"""Methods that see counts and positions alone."""
BLIND, WITH_TOTALS = f"{CEILING}blind", f"{CEILING}with_totals"
MIN_CEILING = 0.3
"""Least within-spot r that the true rates would reach; where it is less, the truth is mostly noise."""
STANDARD_ERRORS = 2.0
"""How many of its standard errors the within-spot r has to be above zero."""
TEXT = {"section": str, "modality": str, "feature": str, "best_other": str, "verdict": str, "method": str}
NUMBERS = (
    *("counts_per_subspot", "library_per_subspot", "share_of_ceiling", "within_spot_r", "within_spot_r_best_other"),
    *("pearson", "pearson_best_other", "within_spot_r_interpolation", "ceiling_within_spot_r"),
)


def verdict(ours: float, interpolation: float, ceiling: float, n_free: int) -> str:
    """Say whether what soscope adds inside spots can be trusted, for one feature.

    Parameters
    ----------
    ours, interpolation
        Within-spot r of soscope, and of the best method that only interpolates.
    ceiling
        Blind noise ceiling of the within-spot r; NaN where the truth has none.
    n_free
        Subspots less spots, over spots with a count: what is left to correlate when spot means are taken off.

    Returns
    -------
    ``not enough counts`` below a ceiling of `MIN_CEILING`: the truth cannot tell. Else ``trustworthy`` if ``ours`` is more than
    `STANDARD_ERRORS` of ``1 / sqrt(n_free)`` above zero and not below ``interpolation``. Else ``no better than interpolation``.
    """
    if not ceiling >= MIN_CEILING:
        return NOT_ENOUGH
    clear = ours > STANDARD_ERRORS / np.sqrt(max(n_free, 1))
    return TRUSTWORTHY if clear and not ours < interpolation else NO_BETTER


def judge(per_feature: pd.DataFrame, counts: pd.Series, n_free: pd.Series) -> pd.DataFrame:
    """Return the rows of ``validation.csv`` of one section.

    Parameters
    ----------
    per_feature
        Scores of every method and ceiling, of one seed: columns ``modality, method, feature, pearson, within_spot_r``.
    counts
        Mean of the truth over subspots, by feature.
    n_free
        Subspots less spots, over the spots with a count of it, by feature.
    """
    pearson, within = (_by_method(per_feature, metric) for metric in ("pearson", "within_spot_r"))
    others = within[[m for m in within if m != OURS and not str(m).startswith(CEILING)]]
    best = others.idxmax(axis=1)
    features = within.index.get_level_values("feature")
    rows = np.arange(len(best)), others.columns.get_indexer(pd.Index(best))
    table = pd.DataFrame(
        {
            "counts_per_subspot": counts.reindex(features).to_numpy(),
            "pearson": pearson[OURS],
            "within_spot_r": within[OURS],
            "best_other": best,
            "pearson_best_other": pearson[others.columns].to_numpy()[rows],
            "within_spot_r_best_other": others.to_numpy()[rows],
            "within_spot_r_interpolation": within.reindex(columns=list(INTERPOLATIONS)).max(axis=1),
            "ceiling_within_spot_r": within.get(BLIND, np.nan),
        },
        index=within.index,
    )
    judged = ("within_spot_r", "within_spot_r_interpolation", "ceiling_within_spot_r")
    free = n_free.reindex(features, fill_value=0)
    table["verdict"] = list(map(verdict, *(table[column] for column in judged), free))
    return table.reset_index()


def _by_method(per_feature: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one metric, a row per modality and feature in the order they come in, a column per method."""
    keys = ["modality", "feature"]
    order = pd.MultiIndex.from_frame(per_feature[keys].drop_duplicates())
    return per_feature.pivot(index=keys, columns="method", values=metric).reindex(order)


def advise(panel: float, library: float, k: int, per_feature: pd.DataFrame | None) -> pd.DataFrame:
    """Return the rows of ``advice.csv`` of one section and number of subspots.

    Parameters
    ----------
    panel, library
        Mean count of a spot over the features, and median count over all that was read; NaN for values that are no counts.
    k
        Number of subspots.
    per_feature
        Scores where this many spots were merged into one; ``None`` where they could not be.

    Returns
    -------
    A row for soscope and one for kriging as far as they were scored, or one without scores.
    """
    size: dict[Any, Any] = {"subspots": k, "counts_per_subspot": panel / k, "library_per_subspot": library / k}
    nothing = size | {"pearson": np.nan, "within_spot_r": np.nan, "method": "", "share_of_ceiling": np.nan}
    if per_feature is None:
        return pd.DataFrame([nothing])
    means = per_feature.groupby("method")[["pearson", "within_spot_r"]].mean()
    ceiling = means["within_spot_r"].get(WITH_TOTALS, np.nan)
    rows = [
        size | means.loc[name].to_dict() | {"method": name, "share_of_ceiling": means["within_spot_r"][name] / ceiling}
        for name in (OURS, KRIGING)
        if name in means.index
    ]
    return pd.DataFrame(rows or [nothing])


def read_table(file: Path) -> pd.DataFrame:
    """Read ``validation.csv`` or ``advice.csv``; sections and features called 007 or NA keep their names."""
    return pd.read_csv(file, dtype=TEXT, keep_default_na=False, na_values=dict.fromkeys(NUMBERS, [""]))


def count_verdicts(table: pd.DataFrame) -> Mapping[str, int]:
    """Return how many features have each verdict, in the order of `VERDICTS`."""
    return {name: int((table["verdict"] == name).sum()) for name in VERDICTS}


def said_of_intervals(file: Path) -> str | None:
    """Say what ``intervals.csv`` found; ``None`` where there is none."""
    if not file.is_file():
        return None
    row = pd.read_csv(file).iloc[0]
    return (
        f"90 % intervals held {100 * row['coverage90']:.1f} % of the counts of merged spots; with subspots' variances "
        f"x {row['widening']:.2f}, as in this result, {100 * row['coverage90_widened']:.1f} %"
    )


def in_one_line(table: pd.DataFrame, means: pd.DataFrame) -> str:
    """Say how many features are trustworthy, and how soscope stands against the best other method.

    Parameters
    ----------
    table
        Rows of ``validation.csv``.
    means
        Scores by method, as `soscope.benchmark.summary.over_seeds` returns them.
    """
    counts = ", ".join(f"{n} {name}" for name, n in count_verdicts(table).items())
    metric = next(m for m in METRICS if m.name == "within_spot_r")
    other = best_other(means, metric)
    r = means[metric.name]
    against = "" if other is None else f", best other ({other}) {metric.text(r[other])}"
    return f"of {len(table)} features: {counts}; within-spot r of soscope {metric.text(r[OURS])}{against}"
