"""The report's section on what to trust, from the tables of `validate`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from soscope.benchmark.verdicts import VERDICTS, count_verdicts, read_table, said_of_intervals
from soscope.folder import RunFolder

COLUMNS = {
    "section": "section",
    "subspots": "subspots",
    "counts_per_subspot": "counts over the features per subspot",
    "library_per_subspot": "counts per subspot",
    "method": "method",
    "pearson": "Pearson r",
    "within_spot_r": "within-spot r",
    "share_of_ceiling": "share of ceiling",
}


def trust_of(folder: RunFolder) -> dict[str, Any] | None:
    """Return what the page says of a run that was validated; ``None`` for others."""
    if not folder.validation_file.is_file():
        return None
    table, advice = read_table(folder.validation_file), read_table(folder.advice_file)
    return {
        "counts": count_verdicts(table),
        "intervals": said_of_intervals(folder.intervals_file),
        "lists": _lists(table),
        "titles": list(COLUMNS.values()),
        "rows": [[_text(value) for value in row] for row in advice[list(COLUMNS)].itertuples(index=False)],
    }


def _lists(table: pd.DataFrame) -> list[tuple[str, str, list[str]]]:
    """Return section, verdict and its features, highest within-spot r first."""
    ranked = table.sort_values("within_spot_r", ascending=False, kind="stable")
    return [
        (str(section), verdict, part.loc[part["verdict"] == verdict, "feature"].tolist())
        for section, part in ranked.groupby("section", sort=False)
        for verdict in VERDICTS
    ]


def _text(value: Any) -> str:
    """Write a cell: three digits of a fraction, nothing for none."""
    if not isinstance(value, float):
        return str(value)
    if np.isnan(value):
        return ""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.0f}"
