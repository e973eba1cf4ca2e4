"""What the published program's demos were run with, per likelihood; the numbers stand in ``conf/objective/released.yaml``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, OmegaConf

from soscope.errors import ConfigError
from soscope.nn.schedule import Exponential


@dataclass
class ReleasedStage:
    """One stage of a demo.

    Attributes
    ----------
    steps
        Training steps, each over the whole section (the program's "epochs").
    learning_rate, optimizer
        The optimizer is ``adam`` or ``sgd``.
    scale
        Finetuning: what the squared error is divided by, and what bounds the deviation of real-valued subspots.
        Pretraining: the fixed standard deviation of real-valued spots.
    scales
        Finetuning: the same divisor table by table, where tables differ.
    beta
        Weight of the KL over steps, where it differs from ``objective.beta``.
    gamma
        Factor of the whole loss over steps.
    """

    steps: int = MISSING
    learning_rate: float = MISSING
    optimizer: str = "adam"
    scale: float = 1.0
    scales: dict[str, float] = field(default_factory=dict)
    beta: Exponential | None = None
    gamma: Exponential = field(default_factory=lambda: Exponential(1.0, 1.0))


@dataclass
class ReleasedDemo:
    """Both stages of a demo."""

    pretrain: ReleasedStage = field(default_factory=ReleasedStage)
    finetune: ReleasedStage = field(default_factory=ReleasedStage)


def demo_of(cfg: Any) -> Any:
    """Return the demo's settings for the likelihood of the first modality.

    Raises
    ------
    ConfigError
        When ``objective.released`` has no entry for it.
    """
    names = [choice.likelihood for choice in cfg.model.modalities.values()]
    known = cfg.objective.released or {}
    if not names or names[0] not in known:
        raise ConfigError(
            f"objective.released has no entry for likelihood '{names[0] if names else 'none'}'. "
            f"It has: {', '.join(sorted(known))}."
        )
    return OmegaConf.merge(OmegaConf.structured(ReleasedDemo), known[names[0]])


def demo_epochs(stage: str, *, _root_: Any) -> int:
    """Resolve ``${soscope_demo_epochs:STAGE}``: the demo's steps in epochs of ``steps_per_epoch``."""
    return math.ceil(demo_of(_root_)[stage].steps / _root_[stage].steps_per_epoch)


def demo_rate(stage: str, *, _root_: Any) -> float:
    """Resolve ``${soscope_demo_rate:STAGE}``: the demo's learning rate."""
    return float(demo_of(_root_)[stage].learning_rate)
