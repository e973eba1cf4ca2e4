"""The typed root schema: every group of settings, its keys and their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from soscope.channels import PERCENTILES
from soscope.nn.schedule import Exponential

STAGES = ("prepare", "pretrain", "finetune", "enhance", "cluster", "report")
BENCHMARK_STAGES = ("prepare", "score", "compare")


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
    network_share: float = 0.3
    section_covariate: bool = True  # tell sections that are trained together apart


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
    features: Any = 500  # a number, all, names, a file; or one of these per table: {protein: all, rna: 300}
    held_out: float = 0.1
    tile_spots: Any = "auto"  # core spots of a tile; auto: as many as fit memory_gb
    memory_gb: float = 4.0  # half for a training step, half for tiles kept ready
    workers: int = 0  # processes that cut tiles ahead of their step
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
    model: str | None = None  # encoder=timm: a name of timm, or hf-hub:owner/model
    features: Any = None  # encoder=precomputed: a file, or one per section
    options: dict[str, Any] = field(default_factory=dict)  # what the encoder takes besides
    channels: Any = None  # names or numbers of the channels it sees; null: all
    scaling: list[float] = field(
        default_factory=lambda: list(PERCENTILES)
    )  # percentiles of a channel that become 0 and 1
    color: bool = True
    patch_width_um: float | None = None
    input_px: int | None = 96  # null: what the encoder wants
    batch_size: int = 64
    n_components: int = 32
    smoothing: float = 0.5
    weigh_encoders: bool = True
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
    released: Any = None  # objective=released: a soscope.demos.ReleasedDemo per likelihood


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
    compile: bool = False
    gradient_clip: float = 1.0
    threads: int | None = None
    progress: bool = True


@dataclass
class LoggerConfig:
    """Where losses go besides metrics.csv; of artifacts, ``models`` or ``all`` are uploaded, the rest noted by checksum."""

    kind: str = "csv"
    project: str = "soscope"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
    artifacts: str = "models"


@dataclass
class EnhanceConfig:
    """What is reported of a subspot; ``draws`` of its profile are kept besides."""

    posterior: str = "conditional"
    draws: int = 0


@dataclass
class ClusterConfig:
    """Methods, and what each of them tries; ``methods=[]`` groups none.

    Attributes
    ----------
    methods
        Of `soscope.cluster.methods.METHODS`.
    n_components
        Principal components, of z and of enhanced profiles, at most.
    range
        Least and largest number of Gaussian components.
    resolutions
        Of Leiden.
    n_neighbours
        Nearest neighbours of a subspot in Leiden's graph.
    criterion
        Of `soscope.cluster.criteria.CRITERIA`: by what a resolution is chosen.
    fit_on
        Of more subspots, or spots, as many are drawn and the others follow.
    """

    methods: list[str] = field(default_factory=lambda: ["gaussian_mixture", "leiden"])
    n_components: int = 10
    range: list[int] = field(default_factory=lambda: [1, 15])
    resolutions: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0])
    n_neighbours: int = 30
    criterion: str = "stability"
    fit_on: int = 20_000


@dataclass
class ReportConfig:
    """What the report shows."""

    features: list[str] | None = None
    n_features: int = 6
    dpi: int = 110
    interactive: bool = True  # maps to move about in, with a search for features
    interactive_mb: float = 20.0  # megabytes of the page their values may take


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
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    benchmark: BenchmarkConfig | None = None
    validate: bool = False  # first score the model on these sections with their spots merged
    seed: int = 0
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    run: str | None = None
    traceback: bool = False
    dry_run: bool = False  # say what training would take, and stop

    @classmethod
    def with_all(cls) -> Config:
        """Return the defaults with the groups that only some verbs set."""
        return cls(benchmark=BenchmarkConfig())
