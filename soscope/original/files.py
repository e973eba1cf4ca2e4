"""What the published program leaves in its experiment folders while it trains: models, checkpoints, event files, copies."""

from __future__ import annotations

import shutil
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

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the folder, now that nothing is left to refuse."""
        self.folder.mkdir(parents=True, exist_ok=True)

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
    """Write losses to TensorBoard event files under the program's names, ``loss/node_loss`` and so on.

    Parameters
    ----------
    folder
        Where they go.
    every
        Steps between entries, each the mean since the one before; counted in whole epochs. ``None`` writes every epoch.

    Notes
    -----
    The file is opened when training starts, so that a call that is refused, or finds all done, leaves none.
    """

    def __init__(self, folder: Path, every: int | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("logging needs the extra: pip install 'soscope[tensorboard]'.") from error
        self.folder, self.every, self.open = folder, every or 1, SummaryWriter
        self.writer: Any = None
        self.before = 0
        self.sums: dict[str, list[float]] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the file."""
        if trainer.is_global_zero:
            self.writer = self.open(log_dir=str(self.folder))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count from where training goes on."""
        self.before = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the means of this epoch, and write when it is time."""
        if self.writer is None:
            return
        step = trainer.global_step
        for name, tag in LOSSES.items():
            value = trainer.callback_metrics.get(f"{pl_module.stage}/train_{name}")
            if value is not None:
                self.sums.setdefault(tag, []).append(float(value))
        beta = pl_module.settings.beta  # type: ignore[union-attr]
        self.sums.setdefault("beta", []).append(beta.at(step))  # type: ignore[operator, union-attr]
        if step // self.every > self.before // self.every:
            for tag, values in self.sums.items():
                self.writer.add_scalar(f"loss/{tag}", sum(values) / len(values), step)
            self.sums = {}
        self.before = step

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write out what is still in memory."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write out what there was until training was stopped."""
        self._close()

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def keep_copy(source: Path, target: Path) -> None:
    """Copy a file, which may be the target itself, into a folder that is made when it is missing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    shutil.copyfile(source, partial)
    partial.replace(target)
