"""Where losses go: metrics.csv always, W&B when asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from soscope.config import fingerprint, resolved
from soscope.errors import ConfigError


class MetricsTable(Logger):
    """One CSV for both stages, a row per stage and step; a resumed run overwrites the steps it repeats.

    Lightning's own CSVLogger starts a new file when a run is resumed.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Version; there is one."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run folder's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values named ``stage/metric`` to the row of their stage and step."""
        rows = self.read()
        for name, value in metrics.items():
            stage, _, metric = name.partition("/")
            if metric:
                rows.setdefault((stage, int(step or 0)), {})[metric] = float(value)
        table = pd.DataFrame([{"stage": s, "step": n} | row for (s, n), row in rows.items()])
        partial = self.file.with_name(self.file.name + ".partial")
        table.to_csv(partial, index=False)
        partial.replace(self.file)

    def read(self) -> dict[tuple[str, int], dict[str, float]]:
        """Return what has been logged so far."""
        if not self.file.is_file():
            return {}
        table = pd.read_csv(self.file).set_index(["stage", "step"])
        return {key: row.dropna().to_dict() for key, row in table.iterrows()}  # type: ignore[misc]


def _no_more(cfg: Any, folder: Path) -> list[Any]:
    return []


def _wandb(cfg: Any, folder: Path) -> list[Any]:
    try:
        import wandb  # noqa: F401
        from pytorch_lightning.loggers import WandbLogger
    except ImportError as error:
        raise ConfigError("logger=wandb needs the extra: pip install 'soscope[wandb]'.") from error
    logger = WandbLogger(
        name=folder.name,
        id=fingerprint(cfg),
        save_dir=folder,
        project=cfg.logger.project,
        entity=cfg.logger.entity,
        tags=list(cfg.logger.tags),
        config=resolved(cfg),
        resume="allow",
    )
    return [logger]


LOGGERS: dict[str, Callable[[Any, Path], list[Any]]] = {"csv": _no_more, "wandb": _wandb}


def check_logger(cfg: Any) -> None:
    """Raise `ConfigError` with the choices for an unknown kind of logger."""
    if cfg.logger.kind not in LOGGERS:
        raise ConfigError(f"logger.kind={cfg.logger.kind} is unknown. Choose from: {', '.join(LOGGERS)}.")


def make_loggers(cfg: Any, folder: Path) -> list[Any]:
    """Return the loggers of a run: the table of metrics, and what ``logger.kind`` adds."""
    return [MetricsTable(folder / "metrics.csv"), *LOGGERS[cfg.logger.kind](cfg, folder)]


def log_images(loggers: list[Any], images: dict[str, Path]) -> None:
    """Send pictures to the loggers that take any."""
    for logger in loggers:
        if hasattr(logger, "log_image"):
            for name, file in images.items():
                logger.log_image(key=name, images=[str(file)])


def finish(loggers: list[Any], status: str) -> None:
    """Close what is open, so that the next job of a sweep starts a run of its own; nothing is opened to be closed."""
    for logger in loggers:
        opened = getattr(logger, "_experiment", None)
        if opened is not None:
            logger.finalize(status)
            opened.finish(exit_code=0 if status == "success" else 1)
