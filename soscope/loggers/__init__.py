"""Where losses, pictures and artifacts go: metrics.csv always, and what ``logger`` adds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from soscope.config import resolved
from soscope.errors import ConfigError
from soscope.loggers.base import Artifact, Tracker
from soscope.loggers.table import MetricsTable
from soscope.loggers.tensorboard import TensorBoard
from soscope.loggers.weights_and_biases import UPLOADED, WeightsAndBiases

__all__ = ["LOGGERS", "Artifact", "Tracker", "check_logger", "finish", "log_images", "make_loggers"]


@dataclass(frozen=True)
class Kind:
    """A choice of ``logger.kind``.

    Attributes
    ----------
    make
        Returns the loggers it adds, of a config and its run folder.
    needs
        Package that makes them; also the name of the extra that installs it.
    """

    make: Callable[[Any, Path], Sequence[Tracker]]
    needs: str | None = None


LOGGERS = {
    "csv": Kind(lambda cfg, folder: []),
    "tensorboard": Kind(lambda cfg, folder: [TensorBoard(folder, resolved(cfg))], needs="tensorboard"),
    "wandb": Kind(lambda cfg, folder: [WeightsAndBiases(cfg, folder)], needs="wandb"),
}


def check_logger(cfg: Any) -> None:
    """Raise `ConfigError` with the choices for an unknown kind of logger or of uploads, with the extra for a missing one."""
    for key, choices in (("kind", LOGGERS), ("artifacts", UPLOADED)):
        if cfg.logger[key] not in choices:
            raise ConfigError(f"logger.{key}={cfg.logger[key]} is unknown. Choose from: {', '.join(choices)}.")
    needs = LOGGERS[cfg.logger.kind].needs
    if needs and find_spec(needs) is None:
        raise ConfigError(f"logger={cfg.logger.kind} needs the extra: pip install 'soscope[{needs}]'.")


def make_loggers(cfg: Any, folder: Path) -> list[Any]:
    """Return the loggers of a run: the table of metrics, and what ``logger.kind`` adds."""
    return [MetricsTable(folder / "metrics.csv"), *LOGGERS[cfg.logger.kind].make(cfg, folder)]


def log_images(loggers: Sequence[Tracker], images: Mapping[str, Path]) -> None:
    """Send pictures to the loggers that take any."""
    for logger in loggers:
        logger.show(images)


def finish(loggers: Sequence[Tracker], status: str) -> None:
    """Close what is open, so that the next job of a sweep starts a run of its own."""
    for logger in loggers:
        logger.close(status)
