"""Time and memory of a whole run, stage by stage, from an input folder to the result.

    python scripts/bench_end_to_end.py OUT --simulate 250000 4 200 64 pretrain.max_epochs=1 finetune.max_epochs=1
    python scripts/bench_end_to_end.py OUT --visium 5000 18000 pretrain.max_epochs=2 finetune.max_epochs=2
    python scripts/bench_end_to_end.py OUT data=visium data.path=FOLDER platform=visium

`--simulate SPOTS K FEATURES IMAGE_COMPONENTS` writes a folder of the released program's format into OUT first, on a square
lattice with K a square number, and runs on that; `--visium SPOTS FEATURES` a Space Ranger folder with sparse counts, whose spots
are divided by seven. Other words are settings of `soscope train`. Writes OUT/bench_end_to_end.csv (stage, seconds, peak_mb).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from soscope.simulate import simulated_section
from soscope.simulated_folders import write_released, write_space_ranger

DEPTH = 8000.0
"""Mean counts of a spot of a simulated Space Ranger folder."""
console = Console()


def released_input(folder: Path, n_spots: int, k: int, n_features: int, n_image: int) -> list[str]:
    """Write a simulated section on a square lattice unless it is there; return what `soscope train` needs to run on it."""
    if math.isqrt(k) ** 2 != k:
        raise SystemExit(f"--simulate: K={k} must be a square number.")
    if not (folder / "reordered_position_with_center.csv").is_file():
        write_released(folder, simulated_section(n_spots, k, n_features, n_image, "square"))
    reader = ["data=soscope", f"data.path={folder}", "data.options.counts=true"]
    return [*reader, "platform=dbit", "image=none", "image.n_components=4096"]


def visium_input(folder: Path, n_spots: int, n_features: int) -> list[str]:
    """The same as a Space Ranger folder, with sparse counts; image features are colours."""
    if not (folder / "spatial" / "tissue_hires_image.png").is_file():
        write_space_ranger(folder, simulated_section(n_spots, 7, n_features, depth=DEPTH))
    return ["data=visium", f"data.path={folder}", "platform=visium", "image=color", "data.features=all"]


def main() -> None:
    """Simulate if asked to, run, and tell what every stage took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--simulate", type=int, nargs=4, metavar=("SPOTS", "K", "FEATURES", "IMAGE_COMPONENTS"))
    parser.add_argument("--visium", type=int, nargs=2, metavar=("SPOTS", "FEATURES"))
    words, settings = parser.parse_known_args()
    words.out.mkdir(parents=True, exist_ok=True)
    if words.simulate:
        settings = [*released_input(words.out / "input", *words.simulate), *settings]
    if words.visium:
        settings = [*visium_input(words.out / "input", *words.visium), *settings]
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
