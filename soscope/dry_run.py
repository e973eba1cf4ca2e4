"""`dry_run=true`: what a run would take, before anything is trained."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.table import Table
from threadpoolctl import threadpool_limits

from soscope.build import build_finetune, build_pretrain
from soscope.cost import MB
from soscope.data.field import observed_spots, section_places
from soscope.data.module import SectionsDataModule
from soscope.data.plan import bytes_per_spot
from soscope.data.tiles import LARGEST_BLOCK
from soscope.kriging import GROUP, WHOLE_UP_TO, AreaKriging
from soscope.stage_module import StageModule
from soscope.stages import Run, console

STEPS = 2


@dataclass
class Estimate:
    """What a stage would take: parameters that are trained, memory of a step, and seconds at most."""

    stage: str
    n_parameters: int
    memory_mb: float
    seconds: float


def say_estimates(run: Run) -> None:
    """Print tiles, parameters, and estimated memory and time of both training stages.

    Steps are timed on the section's largest tile, kriging on one group of spots; times are those of all epochs, which early
    stopping may shorten. Nothing is kept.
    """
    data = run.data()
    sections = Table(title="Sections and their tiles")
    for title in ("section", "spots", "subspots", "features", "tiles", "spots of a tile, at most"):
        sections.add_column(title, justify="right")
    for section, cores in zip(data.sections, data.cores, strict=True):
        n_features = sum(map(len, section.features.values()))
        sizes = (section.n_spots, section.n_subspots, n_features, len(cores), max(map(len, cores)))
        sections.add_row(section.name, *(f"{n:,}" for n in sizes))
    console.print(sections)
    stages = Table(title="Training, at most")
    for title in ("stage", "parameters", "memory of a step, MB", "minutes"):
        stages.add_column(title, justify="right")
    for e in estimates(run.cfg, data):
        stages.add_row(e.stage, f"{e.n_parameters:,}", f"{e.memory_mb:,.0f}", f"{e.seconds / 60:.1f}")
    console.print(stages)
    console.print("dry_run=true: nothing was trained. The same command without it goes on from what was prepared.")


def estimates(cfg: Any, data: SectionsDataModule) -> list[Estimate]:
    """Return what both stages would take."""
    largest = max(range(len(data.tiles)), key=lambda i: len(data.tiles.parts[i][1]))  # type: ignore[union-attr]
    found = []
    kriging = _kriging_seconds(data, cfg.model.n_components) if cfg.model.n_components else 0.0
    for stage, build in (("pretrain", build_pretrain), ("finetune", _finetune_without_kriging)):
        module = build(cfg, data)
        tile = data.tiles[largest]
        needs = bytes_per_spot(data.sections[tile.section], cfg.model.n_hidden, LARGEST_BLOCK) * tile.n_core
        n_steps = cfg[stage].max_epochs * max(cfg[stage].steps_per_epoch, len(data.tiles))
        seconds = n_steps * _step_seconds(module, tile) + (kriging if stage == "finetune" else 0.0)
        trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
        found.append(Estimate(stage, trained, needs / MB, seconds))
    return found


def _step_seconds(module: StageModule, tile: Any) -> float:
    """Return the time of a step, after one that is not counted."""
    optimizer = torch.optim.Adam(module.parameters())
    for step in range(STEPS + 1):
        if step == 1:
            start = time.perf_counter()
        optimizer.zero_grad()
        module.losses(tile, step)["loss"].backward()
        optimizer.step()
    return (time.perf_counter() - start) / STEPS


def _finetune_without_kriging(cfg: Any, data: SectionsDataModule) -> StageModule:
    """Build the second stage without a field: its steps take as long."""
    return build_finetune(OmegaConf.merge(cfg, {"model": {"n_components": 0}}), data)


def _kriging_seconds(data: SectionsDataModule, n_components: int) -> float:
    """Estimate the time of kriging all sections: that of learning, and that of as many spots as inform a group, per group."""
    section = max(data.sections, key=lambda s: s.n_spots)
    near = np.argsort(((section.xy_um - section.xy_um.mean(0)) ** 2).sum(1))[:WHOLE_UP_TO]
    part = section.only(np.sort(near))
    observed = observed_spots(part)
    scores = np.random.default_rng(0).standard_normal((len(observed), n_components)).astype(np.float32)
    everyone = np.ones(len(observed), dtype=bool)
    places = section_places(part, part.image_features, observed)
    start = time.perf_counter()
    with threadpool_limits(1, "blas"):  # as kriging is done
        kriging = AreaKriging(places, local=True)
        made = time.perf_counter()
        kriging.weigh(scores, [everyone])
        learned = time.perf_counter()
        kriging.both(scores, everyone)
    predicting = time.perf_counter() - learned - (learned - made)
    learning = learned - start
    n_groups = sum(1 if s.n_spots <= WHOLE_UP_TO else s.n_spots / GROUP for s in data.sections)
    return len(data.sections) * learning + max(predicting, 0.0) * n_groups
