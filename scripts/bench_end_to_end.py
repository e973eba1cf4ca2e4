"""Time and memory of a whole run, stage by stage, from an input folder to the result.

    python scripts/bench_end_to_end.py OUT --simulate 250000 4 200 64 pretrain.max_epochs=1 finetune.max_epochs=1
    python scripts/bench_end_to_end.py OUT data=visium data.path=FOLDER platform=visium

`--simulate SPOTS K FEATURES IMAGE_COMPONENTS` writes a folder of the released program's format into OUT first, on a square
lattice with K a square number, and runs on that. Other words are settings of `soscope train`. Writes
OUT/bench_end_to_end.csv (stage, seconds, peak_mb).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from soscope.simulate import simulated_section

PITCH_PX = 16.0
console = Console()


def write_input(folder: Path, n_spots: int, k: int, n_features: int, n_image: int) -> None:
    """Write a simulated section as the released program's data folder: positions, graphs, means per subspot, features."""
    side = math.isqrt(k)
    if side * side != k:
        raise SystemExit(f"--simulate: K={k} must be a square number.")
    section = simulated_section(n_spots, k, n_features, n_image, "square")
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "label.npy", (section.modalities["rna"].x / k).astype(np.float64))
    np.save(folder / "support_feature.npy", section.image_features)
    for name, graph in (("adj.npy", section.spot_graph), ("sub_adj.npy", section.subspot_graph)):
        np.save(folder / name, np.column_stack([*graph.edges, graph.weight.astype(np.float64)]))
    xy = section.subspot_xy_um / section.pitch_um
    cell = np.rint(xy * side + (side - 1) / 2).astype(np.int64)
    table = pd.DataFrame({"imagecol": xy[:, 0] * PITCH_PX, "imagerow": xy[:, 1] * PITCH_PX})
    table.assign(row=cell[:, 1], col=cell[:, 0]).to_csv(folder / "reordered_position_with_center.csv", index=False)


def settings_of(folder: Path) -> list[str]:
    """Return what makes `soscope train` run on a simulated folder."""
    return [
        "data=soscope",
        f"data.path={folder}",
        "data.options.counts=true",
        "platform=dbit",
        "image=none",
        "image.n_components=4096",
    ]


def main() -> None:
    """Simulate if asked to, run, and tell what every stage took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--simulate", type=int, nargs=4, metavar=("SPOTS", "K", "FEATURES", "IMAGE_COMPONENTS"))
    words, settings = parser.parse_known_args()
    words.out.mkdir(parents=True, exist_ok=True)
    if words.simulate:
        folder = words.out / "input"
        if not (folder / "reordered_position_with_center.csv").is_file():
            write_input(folder, *words.simulate)
        settings = [*settings_of(folder), *settings]
    run = words.out / "run"
    command = [sys.executable, "-m", "soscope", "train", *settings, f"hydra.run.dir={run}"]
    done = subprocess.run(command)
    marks = json.loads((run / "stages.json").read_text()) if (run / "stages.json").is_file() else {}
    rows = [{"stage": s, "seconds": m["seconds"], "peak_mb": m["peak_mb"]} for s, m in marks.items()]
    pd.DataFrame(rows).to_csv(words.out / "bench_end_to_end.csv", index=False)
    table = Table(title="From the input folder to the result")
    for title in ("stage", "seconds", "peak MB"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(row["stage"], f"{row['seconds']:.1f}", f"{row['peak_mb']:,}")
    if rows:
        table.add_row("all", f"{sum(r['seconds'] for r in rows):.1f}", f"{max(r['peak_mb'] for r in rows):,}")
    console.print(table)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
