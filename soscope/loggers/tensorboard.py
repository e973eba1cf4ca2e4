"""TensorBoard event files in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from soscope.loggers.base import Tracker

COMPARED = "finetune/held_out_loss"
"""Metric that stands beside the settings in the tab of hyperparameters."""


class TensorBoard(Tracker, TensorBoardLogger):
    """One folder of event files for both stages; a run that comes back adds a file to it.

    Parameters
    ----------
    folder
        The run folder; events go into ``tensorboard/`` inside.
    settings
        The run's config as plain containers.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(save_dir=folder, name="tensorboard", version="")
        self.hparams = settings

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer; settings are written when it opens."""
        is_new = self._experiment is None
        writer = super().experiment
        if is_new:
            self._write_settings(writer)
        return writer

    def _write_settings(self, writer: Any) -> None:
        # Lightning's log_hyperparams adds a curve hp_metric with the one value -1 beside the losses
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(_flat(dict(self.hparams)), {COMPARED: 0.0}):
            writer.file_writer.add_summary(summary)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add values named ``stage/metric``; Lightning's ``epoch`` starts again with every stage."""
        super().log_metrics({name: value for name, value in metrics.items() if "/" in name}, step)

    def show(self, pictures: Mapping[str, Path]) -> None:
        """Add every picture under ``report/``."""
        for title, file in pictures.items():
            with Image.open(file) as picture:
                self.experiment.add_image(f"report/{title}", np.asarray(picture.convert("RGB")), dataformats="HWC")

    def close(self, status: str) -> None:
        """Write what waits to be written."""
        if self._experiment is not None:  # Lightning's finalize opens it
            self.finalize(status)


def _flat(settings: dict[str, Any], key: str = "") -> dict[str, bool | int | float | str]:
    """Return settings by full key; what TensorBoard has no type for as text."""
    found: dict[str, bool | int | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{key}{name}.")
        else:
            found[key + name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
