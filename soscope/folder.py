"""A run folder: what lies where, which stages are done, and whose config it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from soscope.config import RETIRED, hash_of, relevant, resolved
from soscope.cost import Cost
from soscope.errors import RunFolderError


class RunFolder:
    """Paths and marks of one run.

    Parameters
    ----------
    path
        The folder; made by `claim`.
    prepared_in
        Folder of the prepared sections, where several runs share them; ``prepared`` inside by default.
    """

    def __init__(self, path: Path, prepared_in: Path | None = None) -> None:
        self.path = path
        self.prepared_in = prepared_in or path / "prepared"
        self.config_file = path / "config.yaml"
        self.marks_file = path / "stages.json"
        self.provenance_file = path / "provenance.json"
        self.metrics_file = path / "metrics.csv"
        self.encoder_file = path / "pretrain" / "encoder.pt"
        self.model_file = path / "finetune" / "model.pt"
        self.report_file = path / "report.html"
        self.pictures = path / "pictures"
        self.comparison_file = path / "comparison.csv"
        self.per_feature_file = path / "per_feature.csv"
        self.means_file = path / "means.h5ad"
        self.validation_file = path / "validation.csv"
        self.advice_file = path / "advice.csv"
        self.intervals_file = path / "intervals.csv"
        self.clusters_file = path / "clusters.csv"

    def prepared(self, section: str) -> Path:
        """Return where a prepared section lies."""
        return self.prepared_in / f"{section}.zarr"

    def truth(self, section: str) -> Path:
        """Return where the truth of a simulated or merged section is kept aside."""
        return self.path / "truth" / f"{section}.h5ad"

    def result(self, section: str) -> Path:
        """Return where an enhanced section lies."""
        return self.path / f"{section}.zarr"

    def table(self, section: str, modality: str) -> Path:
        """Return where an enhanced table lies as h5ad."""
        return self.path / f"{section}_{modality}.h5ad"

    def draws(self, section: str, modality: str) -> Path:
        """Return where posterior draws of an enhanced table lie, when they were asked for."""
        return self.path / f"{section}_{modality}_draws.zarr"

    def method(self, section: str, method: str, seed: int | None) -> Path:
        """Return the folder of one method on one section of a benchmark, of one seed where it has any."""
        folder = self.path / "benchmark" / section / method
        return folder if seed is None else folder / f"seed{seed}"

    def table_of_scores(self, name: str) -> Path:
        """Return where the table of a benchmark lies, by ``benchmark.name``."""
        return self.path / f"{name}.csv"

    def page_of_scores(self, name: str) -> Path:
        """Return where the page of a benchmark lies, by ``benchmark.name``."""
        return self.path / f"{name}.html"

    def validation(self, rule: str) -> RunFolder:
        """Return the folder of the benchmark by which `validate` scores a merge."""
        return RunFolder(self.path / "validate" / rule)

    def claim(self, cfg: Any) -> None:
        """Take the folder for a config, or come back to it.

        Raises
        ------
        RunFolderError
            When the folder holds another config; names what differs.
        """
        ours = resolved(cfg)
        if self.config_file.is_file():
            theirs = yaml.safe_load(self.config_file.read_text()) or {}
            differs = _differences(relevant(theirs), relevant(ours))
            if differs:
                raise RunFolderError(
                    f"'{self.path}' holds a run with other settings: {'; '.join(differs[:4])}"
                    f"{' and more' if len(differs) > 4 else ''}. Name another folder with hydra.run.dir=..., or leave it "
                    "out to get one of its own."
                )
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.config_file.is_file():
            write_text(self.config_file, OmegaConf.to_yaml(OmegaConf.create(ours)))

    def keep(self, cfg: Any) -> None:
        """Write what a command that came back set anew: how the result is enhanced, clustered, scored and reported."""
        stored, now = yaml.safe_load(self.config_file.read_text()), resolved(cfg)
        stored |= {group: now[group] for group in ("enhance", "cluster", "report", "benchmark", "validate")}
        write_text(self.config_file, OmegaConf.to_yaml(OmegaConf.create(stored)))

    def config(self) -> DictConfig:
        """Return the config of a folder that holds a run."""
        if not self.config_file.is_file():
            raise RunFolderError(
                f"run='{self.path}' holds no run: no config.yaml in it. Give the folder of a finished run."
            )
        stored: Any = OmegaConf.create(self.config_file.read_text())
        for group, keys in RETIRED.items():
            for key in keys:
                stored.get(group, {}).pop(key, None)
        return stored

    def marks(self) -> dict[str, Any]:
        """Return what is noted of finished stages."""
        return json.loads(self.marks_file.read_text()) if self.marks_file.is_file() else {}

    def is_done(self, stage: str, settings: Any) -> bool:
        """Tell whether a stage has finished with these settings."""
        return self.marks().get(stage, {}).get("settings") == hash_of(settings)

    def mark(self, stage: str, settings: Any, cost: Cost, later: tuple[str, ...] = ()) -> None:
        """Note that a stage has finished and what it took, and that later ones have to be done again."""
        marks = {k: v for k, v in self.marks().items() if k not in later}
        marks[stage] = {
            "settings": hash_of(settings),
            "seconds": round(cost.seconds, 3),
            "peak_mb": round(cost.peak_mb),
        }
        write_text(self.marks_file, json.dumps(marks, indent=2))


def write_text(file: Path, text: str) -> None:
    """Write beside, then rename."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text)
    partial.replace(file)


def _differences(theirs: Any, ours: Any, key: str = "") -> list[str]:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        keys = sorted(set(theirs) | set(ours))
        return [d for k in keys for d in _differences(theirs.get(k), ours.get(k), f"{key}.{k}".strip("."))]
    return [] if theirs == ours else [f"{key} is {theirs} there, {ours} here"]
