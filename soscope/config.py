"""The typed root schema, the checks across its fields, and the fingerprints that name run folders."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from soscope.errors import ConfigError
from soscope.names import section_name
from soscope.nn.schedule import Exponential
from soscope.released.settings import demo_epochs, demo_rate

STAGES = ("prepare", "pretrain", "finetune", "enhance", "report")
BENCHMARK_STAGES = ("prepare", "score", "compare")
WITHOUT_EFFECT = ("stages", "traceback", "logger", "run", "enhance", "report", "validate")
"""Groups that do not change what is trained, and so do not name a run folder; neither do these keys:"""
WITHOUT_EFFECT_INSIDE = {
    "trainer": ("progress", "threads"),
    "image": ("cache",),
    "benchmark": ("name", "seeds", "methods", "models"),
}


@dataclass
class ModalityConfig:
    """How one table is modelled."""

    likelihood: str = MISSING
    representation: str = "counts"
    n_components: int = 20
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class ModelConfig:
    """Likelihood per modality and sizes of the networks."""

    name: str = MISSING
    modalities: dict[str, ModalityConfig] = field(default_factory=dict)
    n_latent: int = 128
    n_hidden: int = 128
    n_heads: int = 1
    z_width: float = 1.0
    n_components: int = 20
    network_share: float = 0.4


@dataclass
class PlatformConfig:
    """Geometry of the array."""

    name: str = MISSING
    lattice: str = MISSING
    pitch_um: float = MISSING
    spot_diameter_um: float | None = None
    n_neighbours: int = MISSING
    subspots: int = MISSING


@dataclass
class DataConfig:
    """What is read."""

    reader: str = MISSING
    path: Any = None
    features: Any = 500
    held_out: float = 0.1
    truth: str | None = None  # true profiles of the subspots; the benchmark alone reads them
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class SplitConfig:
    """How a spot divides."""

    subspots: int = MISSING
    extent: str = "cell"


@dataclass
class ImageConfig:
    """Image features and the weight of the image term."""

    encoder: str = MISSING
    weights: str | None = None
    color: bool = True
    patch_width_um: float | None = None
    input_px: int = 96
    batch_size: int = 64
    n_components: int = 32
    smoothing: float = 0.5
    cache: str | None = None
    weight: float = 1.0


@dataclass
class GraphConfig:
    """Similarity weights and the all-pairs terms."""

    similarity_scale: float = 5.0
    n_pairs: int | None = None


@dataclass
class ObjectiveConfig:
    """What is optimised."""

    name: str = MISSING
    beta: Exponential = field(default_factory=Exponential)
    mask_share: float = 0.5
    dropout: float = 0.65
    fixed: Any = None  # settings this objective cannot do without, by full key
    released: Any = None  # objective=released: a soscope.released.settings.ReleasedDemo per likelihood


@dataclass
class StageConfig:
    """Length and rate of one training stage; ``averaging`` is the share of the running average of weights kept at each step."""

    max_epochs: int = 40
    steps_per_epoch: int = 25
    learning_rate: float = 1e-3
    patience: int = 4
    averaging: float = 0.0


@dataclass
class TrainerConfig:
    """Where and how Lightning trains."""

    accelerator: str = "cpu"
    devices: Any = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    gradient_clip: float = 1.0
    threads: int | None = None
    progress: bool = True


@dataclass
class LoggerConfig:
    """Where losses go besides metrics.csv."""

    kind: str = "csv"
    project: str = "soscope"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class EnhanceConfig:
    """What is reported of a subspot; ``draws`` of its profile are kept besides."""

    posterior: str = "conditional"
    draws: int = 0


@dataclass
class ReportConfig:
    """What the report shows."""

    features: list[str] | None = None
    n_features: int = 6
    n_clusters: int = 6
    dpi: int = 110


@dataclass
class BenchmarkConfig:
    """What `soscope benchmark` scores against what truth.

    ``models`` names trained methods: each a dictionary of the settings in which it differs from the command's own.
    ``name`` is that of the table, of the page and of the run folder's beginning.
    """

    name: str = "benchmark"
    merge: str = "auto"
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    methods: list[str] | None = None
    models: dict[str, Any] = field(default_factory=dict)


@dataclass
class Config:
    """Root of every run; ``benchmark`` is set by `soscope benchmark` alone."""

    model: ModelConfig = field(default_factory=ModelConfig)
    platform: PlatformConfig = field(default_factory=PlatformConfig)
    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    pretrain: StageConfig = field(default_factory=StageConfig)
    finetune: StageConfig = field(
        default_factory=lambda: StageConfig(max_epochs=16, learning_rate=2e-3, patience=3, averaging=0.98)
    )
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    enhance: EnhanceConfig = field(default_factory=EnhanceConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    benchmark: BenchmarkConfig | None = None
    validate: bool = False  # first score the model on these sections with their spots merged
    seed: int = 0
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    run: str | None = None
    traceback: bool = False


def register() -> None:
    """Make the schema and the run folder's name known to Hydra; called once by the command line."""
    ConfigStore.instance().store(name="soscope_schema", node=Config)
    OmegaConf.register_new_resolver("soscope_run", lambda *, _root_: run_name(_root_), replace=True)
    OmegaConf.register_new_resolver("soscope_demo_epochs", demo_epochs, replace=True)
    OmegaConf.register_new_resolver("soscope_demo_rate", demo_rate, replace=True)


def paths_of(cfg: Any) -> list[Path | None]:
    """Return the folders of ``data.path``, one per section; ``[None]`` for readers that need none."""
    path = cfg.data.path
    if path is None:
        return [None]
    many = path if isinstance(path, list | tuple | ListConfig) else [path]
    return [Path(str(p)).expanduser() for p in many]


def section_names(cfg: Any) -> list[str]:
    """Return the name of every section: its folder's name, or the reader's where there is no folder."""
    return [str(cfg.data.reader) if path is None else section_name(path) for path in paths_of(cfg)]


def run_name(cfg: Any) -> str:
    """Return ``<section>-<model>-<hash of the resolved config>``."""
    names = section_names(cfg)
    first = names[0] if len(names) == 1 else f"{names[0]}+{len(names) - 1}"
    return f"{first}-{cfg.model.name}-{fingerprint(cfg)}"


def resolved(cfg: Any) -> dict[str, Any]:
    """Return the config as plain containers: interpolations resolved, data paths absolute, Hydra's own node left out."""
    keys = [k for k in cfg if k != "hydra"]
    plain: dict[str, Any] = {k: _plain(v) for k, v in _items(cfg, keys)}
    if "data" in plain:
        paths = [None if p is None else os.path.abspath(p) for p in paths_of(cfg)]
        plain["data"]["path"] = paths[0] if len(paths) == 1 else paths
        if plain["data"].get("truth"):
            plain["data"]["truth"] = os.path.abspath(Path(plain["data"]["truth"]).expanduser())
    return json.loads(json.dumps(plain, default=str))


def _plain(value: Any) -> Any:
    """Resolve interpolations, but for those in ``models``, which mean the config of that model."""
    if not OmegaConf.is_config(value):
        return value
    if "models" not in value:
        return OmegaConf.to_container(value, resolve=True)
    others = OmegaConf.masked_copy(value, [k for k in value if k != "models"])
    others._set_parent(value._get_parent())
    plain: Any = OmegaConf.to_container(others, resolve=True)
    return plain | {"models": OmegaConf.to_container(value.models)}


def _items(cfg: Any, keys: list[str]) -> list[tuple[str, Any]]:
    return [(k, cfg[k]) for k in keys if not OmegaConf.is_missing(cfg, k)]


def fingerprint(cfg: Any) -> str:
    """Return a short hash of everything in the config that changes what is trained."""
    return hash_of(relevant(resolved(cfg)))


def relevant(plain: dict[str, Any]) -> dict[str, Any]:
    """Return what changes what is trained, out of a plain config."""
    kept = {k: v for k, v in plain.items() if k not in WITHOUT_EFFECT and v is not None}
    for group in kept.keys() & WITHOUT_EFFECT_INSIDE.keys():
        kept[group] = {k: v for k, v in kept[group].items() if k not in WITHOUT_EFFECT_INSIDE[group]}
    return kept


def hash_of(value: Any) -> str:
    """Return eight hexadecimal digits that identify a plain value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()


def check(cfg: DictConfig) -> None:
    """Raise `ConfigError` for values and combinations that cannot run, before anything is read."""
    _one_of("stages", cfg.stages, STAGES if cfg.benchmark is None else BENCHMARK_STAGES)
    _one_of("split.extent", [cfg.split.extent], ("cell", "spot"))
    _one_of("enhance.posterior", [cfg.enhance.posterior], ("conditional", "prior"))
    _between("enhance.draws", cfg.enhance.draws, 0, 100_000)
    _check_objective(cfg)
    _between("data.held_out", cfg.data.held_out, 0.0, 0.5)
    _between("model.network_share", cfg.model.network_share, 0.0, 1.0)
    _between("model.n_components", cfg.model.n_components, 0, 1000)
    _between("image.smoothing", cfg.image.smoothing, 0.0, 10.0)
    _between("objective.mask_share", cfg.objective.mask_share, 0.0, 0.9)
    _between("objective.dropout", cfg.objective.dropout, 0.0, 0.9)
    _between("graph.similarity_scale", cfg.graph.similarity_scale, 1.0 + 1e-6, math.inf)
    _between("image.weight", cfg.image.weight, 0.0, math.inf)
    _between("split.subspots", cfg.split.subspots, 2, 10_000)
    _between("seed", cfg.seed, 0, 2**31 - 1)
    _between("platform.pitch_um", cfg.platform.pitch_um, 1e-3, math.inf)
    _between("model.z_width", cfg.model.z_width, 0.0, 10.0)
    _between("graph.n_pairs", cfg.graph.n_pairs or 0, 0, math.inf)
    _between("report.n_clusters", cfg.report.n_clusters, 1, 100)
    for key in ("n_components", "input_px", "batch_size"):
        _between(f"image.{key}", cfg.image[key], 1, math.inf)
    _between("image.patch_width_um", cfg.image.patch_width_um or 1.0, 1e-3, math.inf)
    for name in ("pretrain", "finetune"):
        for key in ("max_epochs", "patience"):
            _between(f"{name}.{key}", cfg[name][key], 1, math.inf)
        _between(f"{name}.averaging", cfg[name].averaging, 0.0, 0.9999)
        _between(f"{name}.learning_rate", cfg[name].learning_rate, 1e-9, 10.0)
        _between(f"{name}.steps_per_epoch", cfg[name].steps_per_epoch, len(paths_of(cfg)), math.inf)
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
    if cfg.benchmark is not None:
        _check_benchmark(cfg)
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


def _check_objective(cfg: DictConfig) -> None:
    from soscope.build import OBJECTIVES  # late: it brings torch and Lightning, which `soscope --help` can do without

    _one_of("objective.name", [cfg.objective.name], tuple(OBJECTIVES))
    for key, value in (cfg.objective.fixed or {}).items():
        found = OmegaConf.select(cfg, key)
        if found != value:
            raise ConfigError(f"objective={cfg.objective.name} needs {key}={value}, found {found}. Leave {key} out.")


def _one_of(key: str, values: Any, choices: tuple[str, ...]) -> None:
    unknown = [v for v in values if v not in choices]
    if unknown:
        raise ConfigError(f"{key}={unknown[0]} is unknown. Choose from: {', '.join(choices)}.")


def _between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{key}={value} must lie between {low:g} and {high:g}.")
