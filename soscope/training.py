"""Lightning's Trainer, set up alike for both stages: progress, early stopping, checkpoints, resume."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from soscope.data.module import SectionsDataModule
from soscope.errors import ConfigError
from soscope.stage_module import StageModule

log = logging.getLogger("soscope")


def count_devices(cfg: Any) -> int:
    """Return how many devices ``trainer.devices`` and ``trainer.num_nodes`` ask for."""
    wanted, gpu = cfg.trainer.devices, cfg.trainer.accelerator in ("gpu", "cuda", "auto")
    there = max(torch.cuda.device_count() if gpu else 1, 1)
    if str(wanted) in ("auto", "-1"):
        return there * cfg.trainer.num_nodes
    listed = str(wanted).strip("[]").split(",") if not str(wanted).isdigit() else None
    return (len(listed) if listed else int(str(wanted))) * cfg.trainer.num_nodes


class StageProgress(RichProgressBar):
    """One bar that names the stage and shows the held-out loss."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the held-out loss alone, under a short name."""
        value = trainer.callback_metrics.get(f"{getattr(pl_module, 'stage', '')}/held_out_loss")
        return {} if value is None else {"held-out": f"{float(value):.1f}"}


def fit_stage(
    cfg: Any,
    module: StageModule,
    data: SectionsDataModule,
    stage: Any,
    folder: Path,
    loggers: list[Any],
    watching: Sequence[Callback] = (),
) -> None:
    """Train one stage in ``folder``, going on from its last checkpoint if there is one; ends with the best weights.

    Callbacks ``watching`` are called besides those of a stage's own.

    Raises
    ------
    ConfigError
        When the machine has not got the devices asked for.
    KeyboardInterrupt
        When the user stops; the last finished epoch is kept.
    """
    data.steps_per_epoch = stage.steps_per_epoch
    validate = cfg.data.held_out > 0
    best = ModelCheckpoint(
        folder,
        filename="best",
        monitor=module.monitor if validate else None,
        save_last=True,
        save_top_k=1,
        enable_version_counter=False,
        save_on_train_epoch_end=True,  # after early stopping has counted, so that a resumed run counts on
    )
    callbacks: list[Callback] = [best, *watching]
    if validate:
        callbacks.append(EarlyStopping(module.monitor, patience=stage.patience))
    if stage.averaging:
        callbacks.append(EMAWeightAveraging(decay=stage.averaging))
    if cfg.trainer.progress:
        callbacks.append(StageProgress())
    trainer = make_trainer(cfg, stage, callbacks, loggers, folder, validate)
    if cfg.trainer.compile:
        module.compile_layers()
    last = folder / "last.ckpt"
    resume = last if last.is_file() else None
    if resume:
        log.info("%s: going on from %s", module.stage, resume)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        try:
            trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C
            raise (KeyboardInterrupt if trainer.interrupted else stop) from None
    state = torch.load(best.best_model_path or last, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    module.cpu().eval()
    data.forget()


def make_trainer(
    cfg: Any, stage: Any, callbacks: list[Callback], loggers: list[Any], folder: Path, validate: bool
) -> pl.Trainer:
    """Return the trainer of a stage; raise `ConfigError` when the machine has not got the devices asked for."""
    try:
        return pl.Trainer(
            accelerator=cfg.trainer.accelerator,
            devices=cfg.trainer.devices,
            num_nodes=cfg.trainer.num_nodes,
            strategy=cfg.trainer.strategy,
            precision=cfg.trainer.precision,
            gradient_clip_val=cfg.trainer.gradient_clip,
            max_epochs=stage.max_epochs,
            limit_val_batches=1.0 if validate else 0,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,  # the data module shares tiles out itself
            log_every_n_steps=stage.steps_per_epoch,
            callbacks=callbacks,
            logger=loggers,
            enable_progress_bar=cfg.trainer.progress,
            enable_model_summary=False,
            default_root_dir=folder,
        )
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"trainer.accelerator={cfg.trainer.accelerator}, devices={cfg.trainer.devices}, "
            f"strategy={cfg.trainer.strategy} cannot run here: {error} Use trainer=cpu, or fewer devices."
        ) from error
