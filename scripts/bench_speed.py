"""Time and memory of one pass over a section, by size: ours, the released program's arithmetic, and the bare layers.

    python scripts/bench_speed.py OUT [--sizes 2583 10500 42000 168000] [--repeats 5] [--rounds 2] [--threads 2]

All cases are measured in turn, and again in every round, so that a machine that slows down slows all of them; times are medians
over rounds. Writes OUT/bench_speed.csv (stage, n_subspots, method, seconds_per_pass, peak_mb) and OUT/bench_speed.png, and
prints ratios, growth exponents and the relative standard error of the sampled pairs. `docs/scale.md` says what is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from bench_common import STAGES, Epochs, G, K, config, loaded
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, dropout, relu, softplus
from torch_geometric.nn import TransformerConv

from soscope.build import build_finetune, build_pretrain
from soscope.cost import measured
from soscope.finetune import SpatialVAE
from soscope.loggers import make_loggers
from soscope.nn.graph_terms import DEFAULT_PAIRS, draw_pairs
from soscope.simulate import simulated_section
from soscope.training import make_trainer

SIZES = (2583, 10500, 42000, 168000)
N_RELEASED_IMAGE = 2048
DENSE_UP_TO = 11_000
console = Console()


def ours(stage: str, n_subspots: int, repeats: int, folder: Path) -> list[float]:
    """Time passes of the trainer as `soscope train` sets it up: loss with graph terms, averaging of weights, logging."""
    cfg = config(stage, repeats + 1)
    data = loaded(n_subspots, cfg, folder)
    module = (build_pretrain if stage == "pretrain" else build_finetune)(cfg, data)
    n_tiles = len(data.tiles)
    data.steps_per_epoch = max(n_tiles, min(cfg[stage].steps_per_epoch, 10 * n_tiles))
    epochs = Epochs()
    trainer = make_trainer(cfg, cfg[stage], [epochs], make_loggers(cfg, folder), folder, False)
    trainer.fit(module, datamodule=data)
    n_steps = max(data.steps_per_epoch, n_tiles)
    return [s * n_tiles / n_steps for s in epochs.seconds[1:]]


def timed(step: Callable[[], Tensor], parameters: list[nn.Parameter], repeats: int) -> list[float]:
    """Time forward, backward and optimiser, after one that is not counted."""
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        step().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def bare(stage: str, n_subspots: int, repeats: int, folder: Path) -> list[float]:
    """Time our layers and likelihood on the whole section: no graph terms, no keyed noise, no logging, no data handling."""
    cfg = config(stage, 1)
    data = loaded(n_subspots, cfg, folder)
    module = (build_pretrain if stage == "pretrain" else build_finetune)(cfg, data)
    tile = data.result_tiles.cutters[0]()  # type: ignore[union-attr]
    x, likelihood, rate = tile.profiles["rna"], module.likelihood("rna"), cfg.objective.dropout
    visible = torch.ones(tile.n_core, dtype=torch.bool)
    weight = tile.spot_weight[tile.neighbours.order]

    def step() -> Tensor:
        latent = module.encoder(
            tile.profiles, tile.library_size, tile.neighbours, weight, visible, module.covariates(tile)
        )
        z = latent.mean + latent.scale * torch.randn_like(latent.mean)
        if isinstance(module, SpatialVAE):
            hidden = module.decoder.hidden(z, dropout(tile.image_features, rate), tile.at, module.covariates(tile))
            raw = module.decoder.heads(dropout(hidden, rate), "rna")
            field = likelihood.location_of(module.field_decoder(tile.field, "rna"))
            raw = torch.lerp(field, raw[..., 0], 0.3)[..., None]
            p = likelihood.aggregate(likelihood.parameters_of(raw), tile.parent)
        else:
            p = likelihood.parameters_of(module.decoder.heads(module.decoder.hidden(z), "rna"))  # type: ignore[union-attr,operator]
        return (latent.kl().sum() - likelihood.log_prob(x, p).sum()) / len(x)

    return timed(step, [p for p in module.parameters() if p.requires_grad], repeats)


class Dense(nn.Module):
    """The released program's negative binomial stages as it computes them: all pairs in a dense matrix."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            [TransformerConv(G, 128), TransformerConv(128, 128), TransformerConv(128, 256)]
        )
        self.first = nn.Linear(128 + (N_RELEASED_IMAGE if stage == "finetune" else 0), 128)
        self.blocks = nn.ModuleList([nn.ModuleList([nn.Linear(128, 128), nn.Linear(128, 128)]) for _ in range(2)])
        self.head = nn.Linear(128, 2 * G)

    def latent(self, x: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and scale of z."""
        h = relu(self.convolutions[1](relu(self.convolutions[0](x, edges)), edges))
        mean, scale = self.convolutions[2](h, edges).chunk(2, 1)
        return mean, softplus(scale) + 1e-7

    def decode(self, h: Tensor) -> Tensor:
        """Return the mean: total count times the exponential of the logits."""
        h = self.first(h)
        for block in self.blocks:
            h = h + relu(block[1](relu(block[0](h))))  # type: ignore[index]
        logits, count = self.head(h).chunk(2, 1)
        return softplus(count) * logits.clamp(max=20).exp()


def dense(stage: str, n_subspots: int, repeats: int, folder: Path) -> list[float]:
    """Time the released arithmetic: pair probabilities of all M x M (N x N) pairs against a dense graph."""
    section = simulated_section(n_subspots // K, K, G, N_RELEASED_IMAGE if stage == "finetune" else 0, seed=0)
    n, m = section.n_spots, section.n_subspots
    x = torch.from_numpy(section.modalities["rna"].dense(np.arange(n)))
    edges = torch.from_numpy(section.spot_graph.edges)
    edges = torch.cat([edges, torch.arange(n).expand(2, n)], 1)
    graph = section.subspot_graph.to_matrix(m) if stage == "finetune" else section.spot_graph.to_matrix(n)
    weight = torch.from_numpy(graph.toarray().astype(np.float32))
    weight.fill_diagonal_(1)
    y = torch.from_numpy(section.image_features)
    model = Dense(stage)

    def step() -> Tensor:
        mean, scale = model.latent(x, edges)
        z = mean + scale * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + scale**2 - 1).sum(1).mean() - scale.log().sum(1).mean()
        if stage == "finetune":
            mu = model.decode(torch.cat([z.repeat_interleave(K, 0) / K, (2 - 1 / K) * y], 1))
            e = mu - x.repeat_interleave(K, 0) / K
            fit = (mu.reshape(n, K, G).sum(1) - x).square().mean()
        else:
            e, fit = z, (model.decode(z) - x).square().mean()
        return fit + kl + binary_cross_entropy(torch.sigmoid(e @ e.T), weight)

    return timed(step, list(model.parameters()), repeats)


def relative_error(n_subspots: int, folder: Path, draws: int = 200) -> float:
    """Return the relative standard error of the sampled all-pairs sum of the finetune stage at its default number of pairs."""
    cfg = config("finetune", 1)
    data = loaded(n_subspots, cfg, folder)
    module = build_finetune(cfg, data)
    tile = data.tiles[0]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = module.encode(tile, ~tile.held_out).mean
        p, likelihood = module.decode(tile, z, 0)["rna"], module.likelihood("rna")
        e = (likelihood.mean(p) - likelihood.copy_down(tile.profiles["rna"], tile.within)) / likelihood.feature_sd
        values = []
        for _ in range(draws):
            i, j = draw_pairs(
                torch.arange(len(e)), len(e), DEFAULT_PAIRS, lambda n: torch.rand(n, 2, generator=generator)
            )
            values.append(float(softplus(e[i] @ e[j].T).mean()))
    return statistics.stdev(values) / statistics.mean(values)


METHODS = {"ours": ours, "bare": bare, "dense": dense}


def one(stage: str, n_subspots: int, method: str, repeats: int, threads: int, folder: Path) -> None:
    """Measure one case in this process and print it as JSON."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    with measured() as cost:
        seconds = METHODS[method](stage, n_subspots, repeats, folder)
    print(json.dumps({"seconds": seconds, "peak_mb": cost.peak_mb}))


def cases(sizes: list[int]) -> list[tuple[str, int, str]]:
    """Return what is measured: `dense` only as far as its memory goes."""
    return [(s, n, m) for s in STAGES for n in sizes for m in METHODS if m != "dense" or n <= DENSE_UP_TO]


def measure(out: Path, sizes: list[int], repeats: int, rounds: int, threads: int) -> pd.DataFrame:
    """Measure every case in a process of its own, in every round."""
    seconds: dict[tuple[str, int, str], list[float]] = {case: [] for case in cases(sizes)}
    peaks = dict.fromkeys(seconds, 0.0)
    for turn in range(rounds):
        for case in seconds:
            stage, n, method = case
            words = ["--one", stage, str(n), method, "--repeats", str(repeats), "--threads", str(threads)]
            done = subprocess.run([sys.executable, __file__, str(out), *words], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{stage} {n} {method} failed:\n{done.stderr[-3000:]}")
            found = json.loads(done.stdout.strip().splitlines()[-1])
            seconds[case] += found["seconds"]
            peaks[case] = max(peaks[case], found["peak_mb"])
            median = statistics.median(found["seconds"])
            console.print(f"{turn + 1}/{rounds} {stage:9} {n:8,} {method:6} {median:8.3f} s {peaks[case]:7.0f} MB")
    rows = [(s, n // K * K, m, statistics.median(t), peaks[s, n, m]) for (s, n, m), t in seconds.items()]
    return pd.DataFrame(rows, columns=["stage", "n_subspots", "method", "seconds_per_pass", "peak_mb"])


def say(table: pd.DataFrame) -> None:
    """Print ratios and growth exponents."""
    for stage, part in table.groupby("stage", sort=False):
        wide = part.pivot_table(index="n_subspots", columns="method", values="seconds_per_pass")
        wide["dense / ours"], wide["ours / bare"] = (
            wide.get("dense", np.nan) / wide["ours"],
            wide["ours"] / wide["bare"],
        )
        console.print(f"[bold]{stage}[/bold]", wide.round(3).to_string(), sep="\n")
        large = wide.loc[wide.index >= DENSE_UP_TO - 1000]
        large = large if len(large) > 1 else wide
        if len(large) > 1:
            power = np.polyfit(np.log(large.index.to_numpy(float)), np.log(large["ours"]), 1)[0]
            console.print(f"  ours grows as M^{power:.2f} from {large.index[0]:,} to {large.index[-1]:,}")


def draw(table: pd.DataFrame, file: Path) -> None:
    """Draw seconds and memory against size, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), constrained_layout=True)
    for axis, stage in zip(axes, STAGES, strict=False):
        for method, part in table.query("stage == @stage").groupby("method", sort=False):
            axis.loglog(part["n_subspots"], part["seconds_per_pass"], "o-", label=method)
        axis.set(title=f"{stage}: seconds per pass", xlabel="subspots")
    for method, part in table.query("stage == 'finetune'").groupby("method", sort=False):
        axes[2].loglog(part["n_subspots"], part["peak_mb"], "o-", label=method)
    axes[2].set(title="finetune: peak memory of the process, MB", xlabel="subspots")
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.savefig(file, dpi=130)


def main() -> None:
    """Parse, measure, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    if words.one:
        one(words.one[0], int(words.one[1]), words.one[2], words.repeats, words.threads, words.out)
        return
    table = measure(words.out, words.sizes, words.repeats, words.rounds, words.threads)
    table.to_csv(words.out / "bench_speed.csv", index=False)
    draw(table, words.out / "bench_speed.png")
    say(table)
    torch.set_num_threads(words.threads)
    error = relative_error(min(words.sizes, key=lambda n: abs(n - 10_500)), words.out)
    console.print(f"sampled pairs: relative standard error {error:.2%} with {DEFAULT_PAIRS:,} pairs")
    console.print(f"{words.out / 'bench_speed.csv'}\n{words.out / 'bench_speed.png'}")


if __name__ == "__main__":
    main()
