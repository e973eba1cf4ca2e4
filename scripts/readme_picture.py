"""Copy the README's picture out of a finished demo run: python scripts/readme_picture.py RUN_FOLDER.

The picture is the report's own map of one feature, so it shows what anyone gets who runs `make demo`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pandas as pd

from soscope.folder import RunFolder

TARGET = Path(__file__).parents[1] / "docs" / "images" / "demo.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished `data=demo` run")
    folder = RunFolder(parser.parse_args().run)
    scores = pd.read_csv(folder.comparison_file).query("method == 'soscope'").set_index("feature")["pearson"]
    drawn = {f: folder.pictures / f"demo_rna_{f}.png" for f in scores.index}
    drawn = {f: file for f, file in drawn.items() if file.is_file()}
    middle = scores[list(drawn)].sort_values().index[len(drawn) // 2]
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(drawn[middle], TARGET)
    print(f"{middle}, the middle one of {len(drawn)} drawn by its correlation with the truth -> {TARGET}")


if __name__ == "__main__":
    main()
