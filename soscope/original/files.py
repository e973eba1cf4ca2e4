"""What the published program leaves in its experiment folders while it trains: models, checkpoints, event files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from soscope.errors import ConfigError

MODEL = "model.pt"
LOSSES = {"reconstruction": "node_loss", "graph": "graph_loss", "kl": "kl_loss", "loss": "loss"}
"""Our names of losses, and those in the program's event files."""


class Snapshots(Callback):
    """Write ``checkpoint_1.pt``, ``checkpoint_2.pt``, ... and ``model.pt`` every so many steps.

    Parameters
    ----------
    folder
        Where they go.
    checkpoint_every, backup_every
        Steps between checkpoints, and between backups of the model.
    save
        Writes what is kept of a module, with its data, to a file.
    """

    def __init__(
        self, folder: Path, checkpoint_every: int, backup_every: int, save: Callable[[Any, Any, Path], None]
    ) -> None:
        self.folder, self.checkpoint_every, self.backup_every, self.save = folder, checkpoint_every, backup_every, save

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Write what is due after this step."""
        step, data = trainer.global_step, trainer.datamodule  # type: ignore[attr-defined]
        if not trainer.is_global_zero:
            return
        if step % self.checkpoint_every == 0:
            self.save(pl_module, data, self.folder / f"checkpoint_{step // self.checkpoint_every}.pt")
        if step % self.backup_every == 0:
            self.save(pl_module, data, self.folder / MODEL)


class Events(Callback):
    """Write losses to TensorBoard event files under the program's names, ``loss/node_loss`` and so on."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("logging needs the extra: pip install 'soscope[tensorboard]'.") from error
        self.writer = SummaryWriter(log_dir=str(folder))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the means of this epoch."""
        for name, tag in LOSSES.items():
            value = trainer.callback_metrics.get(f"{pl_module.stage}/train_{name}")
            if value is not None:
                self.writer.add_scalar(f"loss/{tag}", float(value), trainer.global_step)
        beta = pl_module.settings.beta  # type: ignore[union-attr]
        self.writer.add_scalar("loss/beta", beta.at(trainer.global_step), trainer.global_step)  # type: ignore[operator, union-attr]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write out what is still in memory."""
        self.writer.close()
