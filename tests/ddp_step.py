"""Some steps of the finetune stage on two tiles: python tests/ddp_step.py FILE DEVICES.

With two devices Lightning's DDP takes them, a tile a process; with one they are computed here as the mean over both tiles. Writes
the parameters before and after.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir

from soscope.build import build_finetune
from soscope.conf_files import conf_dir
from soscope.config import register
from soscope.data.module import SectionsDataModule, Tiling
from soscope.simulate import simulated_section
from soscope.stage_module import StageModule
from soscope.training import make_trainer

STEPS, N_FEATURES = 3, 8


def by_hand(cfg: Any, module: StageModule, data: SectionsDataModule) -> None:
    """Take the steps of the mean over both tiles."""
    optimizer = module.configure_optimizers()
    for step in range(STEPS):
        optimizer.zero_grad()
        losses = [module.losses(tile, step)["loss"] * tile.n_section_tiles / N_FEATURES for tile in data.tiles]
        (sum(losses) / len(losses)).backward()  # type: ignore[union-attr]
        torch.nn.utils.clip_grad_norm_(module.parameters(), cfg.trainer.gradient_clip)
        optimizer.step()


def main(file: Path, n_devices: int) -> None:
    """Build, take the steps, and write the parameters."""
    torch.set_num_threads(1)
    register()
    words = [
        "model.n_hidden=16",
        "model.n_latent=8",
        "graph.n_pairs=0",
        "trainer.progress=false",
        "finetune.max_epochs=1",
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [*words, f"trainer.devices={n_devices}", "trainer.strategy=ddp"])
    data = SectionsDataModule([], ["rna"], 1.0, tiling=Tiling(spots=60, n_devices=n_devices))
    data.sections = [simulated_section(120, 7, N_FEATURES, 5)]
    data.cut()
    data.steps_per_epoch = STEPS
    module = build_finetune(cfg, data)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    if n_devices == 1:
        by_hand(cfg, module, data)
    else:
        trainer: pl.Trainer = make_trainer(cfg, cfg.finetune, [], [], file.parent, False)
        trainer.fit(module, datamodule=data)
        if not trainer.is_global_zero:
            return
    torch.save({"before": before, "after": {name: p.detach() for name, p in module.named_parameters()}}, file)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
