"""What two processes make of a section's tiles: time of a step against one process on half of them, and the losses.

    python scripts/bench_devices.py OUT [--subspots 84000] [--tile-spots 1500] [--repeats 8] [--rounds 3]

A simulated section (K 7, 60 features). One process takes all tiles in turn; two share them under DDP, a thread each.
A step takes one tile a process: as long, at best, for two as for one, on twice the tiles. Measured in turn, medians over rounds;
losses are those of the same epochs. Writes OUT/bench_devices.csv (stage, devices, epoch, seconds_per_step, loss).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from bench_common import STAGES, Epochs, config, loaded
from rich.console import Console

from soscope.build import build_finetune, build_pretrain
from soscope.training import make_trainer

DEVICES = (1, 2)
console = Console()


class Losses(pl.Callback):
    """Notes the training loss of every epoch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the mean over all processes."""
        self.values.append(float(trainer.callback_metrics[f"{getattr(pl_module, 'stage', '')}/train_loss"]))


def one(words: argparse.Namespace, stage: str, n_devices: int) -> None:
    """Train some epochs of one pass of one process each, in this process or, started by Lightning, in two; print JSON."""
    torch.set_num_threads(1)
    devices = [f"trainer.devices={n_devices}", "trainer.strategy=ddp"] if n_devices > 1 else []
    cfg = config(stage, words.repeats + 1, f"data.tile_spots={words.tile_spots}", *devices)
    data = loaded(words.subspots, cfg, words.out)
    module = (build_pretrain if stage == "pretrain" else build_finetune)(cfg, data)
    data.steps_per_epoch = len(data.tiles)
    epochs, losses = Epochs(), Losses()
    trainer = make_trainer(cfg, cfg[stage], [losses, epochs], [], words.out, False)
    trainer.fit(module, datamodule=data)
    if trainer.is_global_zero:
        seconds = [s / data.steps_per_epoch for s in epochs.seconds]
        print(json.dumps({"seconds": seconds, "losses": losses.values}))


def measure(words: argparse.Namespace) -> pd.DataFrame:
    """Measure every case in processes of its own, in every round; the first epoch is a warm-up of time, not of losses."""
    rows = []
    for _ in range(words.rounds):
        for stage in STAGES:
            for n in DEVICES:
                again = [*sys.argv[1:], "--one", stage, str(n)]
                done = subprocess.run([sys.executable, __file__, *again], capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(f"{stage} on {n} processes failed:\n{done.stderr[-3000:]}")
                found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
                pairs = zip(found["seconds"], found["losses"], strict=True)
                rows += [(stage, n, epoch, s, loss) for epoch, (s, loss) in enumerate(pairs)]
    return pd.DataFrame(rows, columns=["stage", "devices", "epoch", "seconds_per_step", "loss"])


def say(table: pd.DataFrame) -> None:
    """Print the ratio of steps, and the losses of both by epoch."""
    for stage, part in table.groupby("stage", sort=False):
        seconds = part.query("epoch > 0").groupby("devices")["seconds_per_step"].median()
        console.print(
            f"[bold]{stage}[/bold]: a step of one process {seconds[1]:.3f} s, of two {seconds[2]:.3f} s: "
            f"{seconds[2] / seconds[1]:.2f} times as long, on twice the tiles"
        )
        console.print(part.pivot_table(index="epoch", columns="devices", values="loss").round(3).to_string())


def main() -> None:
    """Parse, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in (("subspots", 84_000), ("tile-spots", 1500), ("repeats", 8), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    if words.one:
        one(words, words.one[0], int(words.one[1]))
        return
    table = measure(words)
    table.to_csv(words.out / "bench_devices.csv", index=False)
    say(table)


if __name__ == "__main__":
    main()
