"""metrics.csv, which every run has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from soscope.loggers.base import Tracker


class MetricsTable(Tracker, Logger):
    """One CSV for both stages, a row per stage and step; a resumed run overwrites the steps it repeats.

    Lightning's own CSVLogger starts a new file when a run is resumed.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Version; there is one."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run folder's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values named ``stage/metric`` to the row of their stage and step."""
        rows = self.read()
        for name, value in metrics.items():
            stage, _, metric = name.partition("/")
            if metric:
                rows.setdefault((stage, int(step or 0)), {})[metric] = float(value)
        table = pd.DataFrame([{"stage": s, "step": n} | row for (s, n), row in rows.items()])
        partial = self.file.with_name(self.file.name + ".partial")
        table.to_csv(partial, index=False)
        partial.replace(self.file)

    def read(self) -> dict[tuple[str, int], dict[str, float]]:
        """Return what has been logged so far."""
        if not self.file.is_file():
            return {}
        table = pd.read_csv(self.file).set_index(["stage", "step"])
        return {key: row.dropna().to_dict() for key, row in table.iterrows()}  # type: ignore[misc]
