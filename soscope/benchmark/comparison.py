"""The result and the baselines beside a known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.table import Table

from soscope.benchmark.baselines import BASELINES
from soscope.benchmark.metrics import score
from soscope.data.section import Section
from soscope.likelihoods import Likelihood
from soscope.split import Split

CHEAP = ("copy_down",)
COLUMNS = {"pearson": "Pearson r", "within_spot_r": "within-spot r", "nmse": "error / variance"}


def compare(section: Section, modality: str, likelihood: Likelihood, split: Split, truth: AnnData) -> pd.DataFrame:
    """Score the model and the cheapest baseline, one row per method and feature; `soscope benchmark` compares with all.

    The rows of ``truth`` are the section's subspots in their order; features are matched by name to its columns.
    """
    features = section.modalities[modality].features
    expected = truth[:, features].X
    methods = {"soscope": split.mean}
    methods |= {name: BASELINES[name](section, modality, likelihood).mean for name in CHEAP}
    rows = [
        pd.DataFrame({"section": section.name, "modality": modality, "method": name, "feature": features})
        .assign(**score(mean, expected, section.parent))
        for name, mean in methods.items()
    ]  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def as_table(scores: pd.DataFrame) -> Table:
    """Draw the means over features, and on how many features each method is the better one, for the terminal."""
    table = Table(title="Against the true subspot profiles (mean over features)")
    table.add_column("method")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    table.add_column("better than copy-down on", justify="right")
    wide = scores.pivot_table(index="feature", columns="method", values="pearson")
    for method, part in scores.groupby("method", sort=False):
        wins = int(np.sum(wide[str(method)] > wide["copy_down"]))
        share = "" if method == "copy_down" else f"{wins} of {len(wide)} features"
        table.add_row(str(method), *(f"{part[c].mean():.3f}" for c in COLUMNS), share)
    return table
