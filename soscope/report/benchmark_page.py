"""The page of a benchmark: its tables, maps of every method beside the truth, methods against their ceilings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from anndata import AnnData, read_h5ad
from matplotlib.figure import Figure
from spatialdata import SpatialData

from soscope import contract
from soscope.benchmark.summary import METRICS, OURS, as_rows, as_tables, margins, over_seeds
from soscope.config import resolved
from soscope.folder import RunFolder, write_text
from soscope.provenance import commands
from soscope.report import benchmark_figures, figures
from soscope.report.canvas import Canvas
from soscope.report.page import Picture, safe, template

N_MAPS = 4


@dataclass
class Scored:
    """What was scored on one section.

    Attributes
    ----------
    name, rule
        Section, and how its spots were merged.
    left_out
        Methods that do not apply, and what they miss.
    means
        Files of enhanced profiles by method, those of the first seed.
    per_feature, costs
        Scores per feature, and time and memory.
    """

    name: str
    rule: str
    left_out: dict[str, str]
    means: dict[str, Path]
    per_feature: pd.DataFrame
    costs: pd.DataFrame


def write_benchmark_page(cfg: Any, folder: RunFolder, scored: list[Scored], rows: pd.DataFrame) -> None:
    """Write the page and its pictures from the rows of the table and what every section has."""
    sections = [_section(cfg, folder, s, rows[rows["section"] == s.name]) for s in scored]
    tables = [
        {"title": title, "rows": as_rows(means), "margins": margins(means) if OURS in means.index else []}
        for title, means in as_tables(rows)
    ]
    page = template("benchmark.html").render(
        sections=sections,
        tables=tables,
        titles=[m.title for m in METRICS],
        ours=OURS,
        provenance=json.loads(folder.provenance_file.read_text()),
        commands=commands(folder),
        config=yaml.safe_dump(resolved(cfg), sort_keys=False),
    )
    write_text(folder.page_of_scores(cfg.benchmark.name), page)


def _section(cfg: Any, folder: RunFolder, scored: Scored, rows: pd.DataFrame) -> dict[str, Any]:
    sdata = contract.open_section(folder.prepared(scored.name))
    pictures = []
    for title, figure in _drawn(cfg, folder, scored, sdata, over_seeds(rows)):
        file = folder.pictures / f"{safe(f'{scored.name} {title}').replace(' ', '_')}.png"
        pictures.append(Picture(figures.save(figure, file, cfg.report.dpi), f"{scored.name}: {title}"))
    return {"name": scored.name, "facts": _facts(cfg, scored, sdata), "pictures": pictures}


def _drawn(
    cfg: Any, folder: RunFolder, scored: Scored, sdata: SpatialData, means: pd.DataFrame
) -> Iterator[tuple[str, Figure]]:
    yield "methods and ceilings", benchmark_figures.strip(scored.per_feature, means)
    if OURS in means.index and len(means) > 1:
        yield (
            "every feature, soscope against the best other method",
            benchmark_figures.scatters(scored.per_feature, means),
        )
    calibration = benchmark_figures.calibration(scored.per_feature)
    if calibration is not None:
        yield "calibration of the intervals", calibration
    canvas, same_units = Canvas.of(sdata), bool(scored.per_feature["nmse"].notna().any())
    truth = read_h5ad(folder.truth(scored.name))
    methods = {name: read_h5ad(file) for name, file in scored.means.items()}
    for modality in cfg.model.modalities:
        for feature in most_variable(sdata.tables[modality]):
            merged = figures.equal_share(sdata, modality, [feature])[:, 0]
            tables = {"truth": truth, **methods}
            values = {name: figures.columns(table, [feature])[:, 0] for name, table in tables.items()}
            scores = scored.per_feature.query("modality == @modality and feature == @feature")
            r = scores.groupby("method")["pearson"].mean()
            yield f"{modality} {feature}", benchmark_figures.maps(canvas, feature, merged, values, r, same_units)


def most_variable(table: AnnData) -> list[str]:
    """Return the features to draw: those of the highest Moran's I."""
    return table.var["morans_i"].sort_values(ascending=False, kind="stable").index[:N_MAPS].tolist()


def _facts(cfg: Any, scored: Scored, sdata: SpatialData) -> list[str]:
    """Say what was scored, one sentence each."""
    facts = contract.facts(sdata)
    spots, subspots = len(sdata.shapes[contract.SPOTS]), len(sdata.shapes[contract.SUBSPOTS])
    lines = [
        f"Truth: benchmark.merge={scored.rule}; {spots:,} spots, {subspots:,} subspots ({facts['subspots_per_spot']} per spot).",
        f"Image: {facts['image_source']}; features from {facts['image_encoder']}, "
        f"{sdata.tables[contract.IMAGE_FEATURES].n_vars} columns per subspot, the same for all methods.",
    ]
    for modality in cfg.model.modalities:
        lines.append(f"{modality}: {sdata.tables[modality].n_vars:,} features, chosen without a look at the truth.")
    return lines + [f"{name} is left out: it needs {what}." for name, what in scored.left_out.items()]
