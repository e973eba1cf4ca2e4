"""The stage `report`: pictures as files, and one self-contained page."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader, select_autoescape
from spatialdata import SpatialData

from soscope import contract
from soscope.config import resolved
from soscope.errors import ConfigError
from soscope.folder import RunFolder, write_text
from soscope.provenance import commands
from soscope.report import figures, interactive
from soscope.report.canvas import OUTLINED_UP_TO, Canvas
from soscope.report.clusters import clusters_of, draw_clusters
from soscope.report.trust import trust_of


@dataclass
class Picture:
    """A picture file and what it shows."""

    file: Path
    title: str

    @property
    def data(self) -> str:
        """The file as a data URL."""
        return "data:image/png;base64," + base64.b64encode(self.file.read_bytes()).decode()


def write_report(cfg: Any, folder: RunFolder, sections: list[str], modalities: list[str]) -> dict[str, Path]:
    """Write ``report.html`` and its pictures.

    Returns
    -------
    Picture files by name.

    Raises
    ------
    ConfigError
        When ``report.features`` names a feature that is in no table of any section.
    """
    _check_features(cfg, folder, sections, modalities)
    shown: list[dict[str, Any]] = []
    limit_mb = cfg.report.interactive_mb / (len(sections) * len(modalities))
    for name in sections:
        sdata = contract.open_result(folder.result(name), OUTLINED_UP_TO)
        canvas = Canvas.of(sdata)
        shown.append(
            {
                "name": name,
                "facts": _facts_list(sdata, modalities) + _draws_list(cfg, folder, name, modalities),
                "maps": _interactive(cfg, sdata, modalities, canvas, limit_mb),
                "pictures": _maps(cfg, folder, sdata, modalities, canvas),
                "clusters": clusters_of(folder, name),
            }
        )
    general = []
    metrics = pd.read_csv(folder.metrics_file) if folder.metrics_file.is_file() else None
    if metrics is not None and len(metrics):
        file = figures.save(figures.loss_curves(metrics), folder.pictures / "losses.png", cfg.report.dpi)
        general.append(Picture(file, "Losses"))
    scores = None
    if folder.comparison_file.is_file():
        table = pd.read_csv(folder.comparison_file)
        scores = table.groupby("method", sort=False)[["pearson", "within_spot_r", "nmse"]].mean().round(3)
        file = figures.save(figures.score_scatter(table), folder.pictures / "scores.png", cfg.report.dpi)
        general.append(Picture(file, "Against the simulated truth"))
    page = template("report.html").render(
        sections=shown,
        scripts=interactive.embed([m for s in shown for m in s["maps"]]),
        general=general,
        trust=trust_of(folder),
        scores=None if scores is None else scores.reset_index().to_dict("records"),
        marks=folder.marks(),
        provenance=json.loads(folder.provenance_file.read_text()) if folder.provenance_file.is_file() else {},
        commands=commands(folder),
        config=yaml.safe_dump({k: v for k, v in resolved(cfg).items() if k != "stages"}, sort_keys=False),
    )
    write_text(folder.report_file, page)
    pictures = [p for s in shown for p in s["pictures"]] + general
    return {p.title: p.file for p in pictures}


def chosen_features(cfg: Any, sdata: SpatialData, modality: str) -> list[str]:
    """Return the features of a table to draw: those asked for that it has, else its first (the most spatially variable)."""
    names = sdata.tables[contract.enhanced_name(modality)].var_names
    asked = [f for f in cfg.report.features or () if f in names]
    return asked or names[: cfg.report.n_features].tolist()


def _check_features(cfg: Any, folder: RunFolder, sections: list[str], modalities: list[str]) -> None:
    """Refuse a feature that no table has; one is enough, for tables and sections may differ in theirs."""
    if cfg.report.features is None:
        return
    known: dict[str, None] = {}
    for name in sections:
        _, tables = contract.open_tables(folder.result(name))
        for modality in modalities:
            known |= dict.fromkeys(tables[contract.enhanced_name(modality)].var_names)
    missing = [f for f in cfg.report.features if f not in known]
    if missing:
        raise ConfigError(
            f"report.features: '{missing[0]}' was not enhanced. Add it to data.features, or choose from: "
            f"{', '.join(list(known)[:8])}, ..."
        )


def _interactive(
    cfg: Any, sdata: SpatialData, modalities: list[str], canvas: Canvas, limit_mb: float
) -> list[interactive.FeatureMap]:
    if not cfg.report.interactive:
        return []
    tissue = interactive.tissue_source(sdata, canvas)
    return [
        interactive.feature_map(sdata, modality, canvas, tissue, chosen_features(cfg, sdata, modality), limit_mb)
        for modality in modalities
    ]


def _maps(cfg: Any, folder: RunFolder, sdata: SpatialData, modalities: list[str], canvas: Canvas) -> list[Picture]:
    section = contract.facts(sdata)["section"]
    pictures = []
    for modality in modalities:
        features = chosen_features(cfg, sdata, modality)
        enhanced = sdata.tables[contract.enhanced_name(modality)]
        share, words = figures.equal_share(sdata, modality, features), figures.words_of(sdata, modality)
        mean, sd = figures.columns(enhanced, features), figures.columns(enhanced, features, "sd")
        for i, feature in enumerate(features):
            file = folder.pictures / f"{section}_{modality}_{safe(feature)}.png"
            figure = figures.feature_maps(canvas, feature, words, share[:, i], mean[:, i], sd[:, i])
            pictures.append(Picture(figures.save(figure, file, cfg.report.dpi), f"{section}, {modality}: {feature}"))
    of_subspots = sdata.tables[contract.enhanced_name(modalities[0])].obs
    for clusters in clusters_of(folder, section):
        if clusters.note is None and clusters.column in of_subspots:  # gone when stopped halfway
            file = folder.pictures / f"{section}_{clusters.column}.png"
            figure = draw_clusters(canvas, clusters, of_subspots[clusters.column])
            picture = Picture(figures.save(figure, file, cfg.report.dpi), f"{section}: clusters by {clusters.method}")
            pictures.append(picture)
    return pictures


def _facts_list(sdata: SpatialData, modalities: list[str]) -> list[str]:
    """Say what was done to the data, one sentence each."""
    facts = contract.facts(sdata)
    spots, image = sdata.tables[modalities[0]], sdata.tables[contract.IMAGE_FEATURES]
    spread = {
        "cell": "a spot's counts are spread over its whole cell of the lattice, gaps between spots included",
        "spot": "a spot's counts are spread over its disc alone; tissue between spots stays empty",
        "given": "a spot's counts are spread over the subspots the section came with",
    }[facts["extent"]]
    lines = [
        f"{spots.n_obs:,} spots on platform {facts['platform']}, {image.n_obs:,} subspots "
        f"({facts['subspots_per_spot']} per spot): {spread}.",
        f"{facts['um_per_px']:.3f} µm per pixel, from the lattice's pitch of {facts['pitch_um']:g} µm.",
        f"Image: {facts['image_source']}; features from {facts['image_encoder']}, {image.n_vars} columns per subspot.",
    ]
    for modality in modalities:
        shape = (
            "as counts" if facts["representation"][modality] == "counts" else f"as {facts['representation'][modality]}"
        )
        enhanced = sdata.tables[contract.enhanced_name(modality)]
        lines.append(f"{modality}: {enhanced.n_vars:,} of {facts['n_features_read'][modality]:,} features, {shape}.")
    given = {
        "conditional": "Profiles are given each spot's observed profile, so that its subspots agree with it.",
        "prior": "Profiles are the decoder's alone; subspots need not agree with their spot.",
    }
    return [*lines, given[facts["posterior"]]]


def _draws_list(cfg: Any, folder: RunFolder, section: str, modalities: list[str]) -> list[str]:
    """Say where posterior draws lie, if there are any."""
    files = [folder.draws(section, m) for m in modalities] if cfg.enhance.draws else []
    return [f"{cfg.enhance.draws:,} posterior draws: {file}" for file in files]


def template(name: str) -> Any:
    """Return a template of this package; what is put into it is escaped."""
    return Environment(loader=PackageLoader("soscope.report"), autoescape=select_autoescape()).get_template(name)


def safe(name: str) -> str:
    """Return a name that a file may have."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
