"""Values and combinations of settings that cannot run, refused before anything is read."""

from __future__ import annotations

import math
import re
from typing import Any

from omegaconf import DictConfig, OmegaConf

from soscope.config import paths_of, section_names
from soscope.errors import ConfigError
from soscope.schema import BENCHMARK_STAGES, STAGES, ClusterConfig

INF = math.inf
BETWEEN = {
    "seed": (0, 2**31 - 1),
    "cluster.fit_on": (100, INF),
    "cluster.n_components": (1, 1000),
    "cluster.n_neighbours": (2, 1000),
    "data.held_out": (0.0, 0.5),
    "data.memory_gb": (0.01, INF),
    "data.workers": (0, 256),
    "enhance.draws": (0, 100_000),
    "graph.n_pairs": (0, INF),
    "graph.similarity_scale": (1.0 + 1e-6, INF),
    "image.batch_size": (1, INF),
    "image.input_px": (1, INF),
    "image.n_components": (1, INF),
    "image.patch_width_um": (1e-3, INF),
    "image.smoothing": (0.0, 10.0),
    "image.weight": (0.0, INF),
    "model.n_components": (0, 1000),
    "model.network_share": (0.0, 1.0),
    "model.z_width": (0.0, 10.0),
    "objective.dropout": (0.0, 0.9),
    "objective.mask_share": (0.0, 0.9),
    "platform.pitch_um": (1e-3, INF),
    "report.interactive_mb": (0.01, 2000.0),
    "split.subspots": (2, 10_000),
}
"""Least and largest value by full key; a setting that is not set has none to be checked."""
BETWEEN_IN_A_STAGE = {
    "averaging": (0.0, 0.9999),
    "learning_rate": (1e-9, 10.0),
    "max_epochs": (1, INF),
    "patience": (1, INF),
}
"""The same for both `pretrain` and `finetune`."""


def check(cfg: DictConfig) -> None:
    """Raise `ConfigError` for values and combinations that cannot run, before anything is read."""
    _one_of("stages", cfg.stages, STAGES if cfg.benchmark is None else BENCHMARK_STAGES)
    _one_of("split.extent", [cfg.split.extent], ("cell", "spot"))
    _one_of("enhance.posterior", [cfg.enhance.posterior], ("conditional", "prior"))
    _check_names_of_classes(cfg)
    _check_ranges(cfg)
    _check_scaling(cfg)
    _check_tiles(cfg)
    _check_model(cfg)
    _check_clusters(cfg.cluster)
    if cfg.benchmark is not None:
        _check_benchmark(cfg)
    _check_names(cfg)


def _check_ranges(cfg: DictConfig) -> None:
    for key, (low, high) in BETWEEN.items():
        _between(key, OmegaConf.select(cfg, key), low, high)
    for stage in ("pretrain", "finetune"):
        for key, (low, high) in BETWEEN_IN_A_STAGE.items():
            _between(f"{stage}.{key}", cfg[stage][key], low, high)
        _between(f"{stage}.steps_per_epoch", cfg[stage].steps_per_epoch, len(paths_of(cfg)), INF)


def _check_scaling(cfg: DictConfig) -> None:
    low_high = list(cfg.image.scaling)
    if len(low_high) != 2 or not 0 <= low_high[0] < low_high[1] <= 100:
        raise ConfigError(f"image.scaling={low_high} must be two percentiles, as in image.scaling=[1,99.8].")


def _check_tiles(cfg: DictConfig) -> None:
    spots = cfg.data.tile_spots
    if spots != "auto" and not (isinstance(spots, int) and spots > 0):
        raise ConfigError(f"data.tile_spots={spots} must be a number of spots, at least 1, or auto.")


def _check_model(cfg: DictConfig) -> None:
    if cfg.validate and cfg.image.features is not None:
        raise ConfigError(
            f"validate=true merges spots, whose parts are none of the subspots that image.features={cfg.image.features} has rows "
            "for. Leave one of them out."
        )
    if cfg.split.extent == "spot" and cfg.platform.spot_diameter_um is None:
        raise ConfigError(
            f"split.extent=spot needs platform.spot_diameter_um, which platform={cfg.platform.name} does not set."
        )
    if cfg.model.n_hidden % cfg.model.n_heads:
        raise ConfigError(f"model.n_heads={cfg.model.n_heads} must divide model.n_hidden={cfg.model.n_hidden}.")
    if not cfg.model.modalities:
        raise ConfigError(
            "model.modalities is empty: name at least one table and its likelihood, as conf/model/nb.yaml does."
        )
    tables, features = list(cfg.model.modalities), cfg.data.features
    if OmegaConf.is_dict(features) and set(features) != set(tables):
        wrong = sorted(set(features) ^ set(tables))[0]
        raise ConfigError(
            f"data.features gives {', '.join(features) or 'nothing'}; the tables of model={cfg.model.name} are "
            f"{', '.join(tables)} (first that differs: '{wrong}'). Give each of them once: "
            f"'data.features={{{', '.join(f'{t}: 100' for t in tables)}}}'."
        )


def _check_clusters(cluster: DictConfig) -> None:
    from soscope.cluster.criteria import CRITERIA  # late: they bring scikit-learn
    from soscope.cluster.methods import METHODS

    _one_of("cluster.methods", cluster.methods, tuple(METHODS))
    if len(set(cluster.methods)) < len(cluster.methods):
        raise ConfigError(f"cluster.methods={list(cluster.methods)} names one twice.")
    _one_of("cluster.criterion", [cluster.criterion], tuple(CRITERIA))
    limits = list(cluster.range)
    if len(limits) != 2 or not 1 <= limits[0] <= limits[1] <= 100:
        raise ConfigError(
            f"cluster.range={limits} must be the least and the largest number, such as cluster.range=[1,15]."
        )
    resolutions = list(cluster.resolutions)
    if not resolutions or len(set(resolutions)) < len(resolutions):
        raise ConfigError(f"cluster.resolutions={resolutions} must name at least one, and none twice: [0.1,0.3,1.0].")
    for resolution in resolutions:
        _between("cluster.resolutions", resolution, 1e-3, 100.0)


def _check_names(cfg: DictConfig) -> None:
    names = section_names(cfg)
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(
            f"data.path names two sections '{twice[0]}': folder names must differ, since they name the results. "
            "Rename one folder, or link to it under another name."
        )


def _check_benchmark(cfg: DictConfig) -> None:
    if cfg.validate:
        raise ConfigError("validate=true belongs to `soscope train`; a benchmark is that and more. Leave it out.")
    if not re.fullmatch(r"[\w-]+", cfg.benchmark.name):
        raise ConfigError(f"benchmark.name={cfg.benchmark.name} names files: use letters, digits, _ and -.")
    if cfg.enhance.draws:
        raise ConfigError(
            f"enhance.draws={cfg.enhance.draws}, but a benchmark keeps no draws. Leave enhance.draws out."
        )
    if cfg.cluster != OmegaConf.structured(ClusterConfig):
        raise ConfigError("cluster.* groups the subspots of a trained run; a benchmark groups none. Leave it out.")
    seeds = list(cfg.benchmark.seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"benchmark.seeds={seeds} must name at least one seed, and none twice, such as benchmark.seeds=[0,1,2]."
        )
    for seed in seeds:
        _between("benchmark.seeds", seed, 0, 2**31 - 1)
    if cfg.benchmark.methods is not None and not len(cfg.benchmark.methods):
        raise ConfigError("benchmark.methods=[] leaves nothing to score. Name some, or leave it out for all.")
    if cfg.data.truth is not None and cfg.benchmark.merge not in ("auto", "given"):
        raise ConfigError(
            f"benchmark.merge={cfg.benchmark.merge} makes its own truth, so data.truth={cfg.data.truth} would not be read. "
            "Leave one of them out, or use benchmark.merge=given."
        )
    if cfg.data.truth is not None and len(paths_of(cfg)) > 1:
        raise ConfigError("data.truth is the truth of one section, data.path names several. Benchmark them one by one.")


def _check_names_of_classes(cfg: DictConfig) -> None:
    from soscope.build import OBJECTIVES  # late: it brings torch and Lightning, which `soscope --help` can do without
    from soscope.prepare.encoders import ENCODERS

    _one_of("image.encoder", [cfg.image.encoder], tuple(sorted(ENCODERS)))
    _one_of("objective.name", [cfg.objective.name], tuple(OBJECTIVES))
    for key, value in (cfg.objective.fixed or {}).items():
        found = OmegaConf.select(cfg, key)
        if found != value:
            raise ConfigError(f"objective={cfg.objective.name} needs {key}={value}, found {found}. Leave {key} out.")


def _one_of(key: str, values: Any, choices: tuple[str, ...]) -> None:
    unknown = [v for v in values if v not in choices]
    if unknown:
        raise ConfigError(f"{key}={unknown[0]} is unknown. Choose from: {', '.join(choices)}.")


def _between(key: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:
        raise ConfigError(f"{key}={value} must lie between {low:g} and {high:g}.")
