"""What scripts that time training share: the defaults, a simulated section, and a clock."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra import compose, initialize_config_dir

from soscope.conf_files import conf_dir
from soscope.config import register
from soscope.data.module import SectionsDataModule
from soscope.simulate import simulated_section
from soscope.stages import tiling_of

STAGES = ("pretrain", "finetune")
K, G, N_IMAGE = 7, 60, 53


class Epochs(pl.Callback):
    """Notes how long every epoch of training takes, the first aside, and the memory after the set-up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._start)


def config(stage: str, epochs: int, *words: str) -> Any:
    """Return the defaults and what is said besides, for a number of epochs without early stopping."""
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", [f"{stage}.max_epochs={epochs}", "trainer.progress=false", *words])


def loaded(n_subspots: int, cfg: Any, folder: Path) -> SectionsDataModule:
    """Return a simulated section as the trainer takes it; its kriged field is kept in the folder."""
    data = SectionsDataModule([], ["rna"], cfg.model.z_width, cfg.data.held_out, cfg.seed, tiling_of(cfg), folder)
    data.sections = [simulated_section(n_subspots // K, K, G, N_IMAGE, seed=0)]
    data.cut()
    return data
