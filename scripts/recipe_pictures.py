"""Copy a recipe's picture out of a finished run, and say how long the run took.

    python scripts/recipe_pictures.py RECIPE RUN_FOLDER

The picture is the report's own map of its first feature, in ``docs/images/recipe_RECIPE.png``, with fewer colours where it
would be larger than 200 kB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from soscope.folder import RunFolder

TARGET = Path(__file__).parents[1] / "docs" / "images"
LARGEST = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of the page, such as slide-dna")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    words = parser.parse_args()
    folder = RunFolder(words.run)
    maps = [f for f in folder.pictures.glob("*.png") if f.name != "losses.png" and "_soscope_" not in f.name]
    drawn = min(maps, key=lambda file: file.name)
    target = TARGET / f"recipe_{words.recipe.replace('-', '_')}.png"
    TARGET.mkdir(parents=True, exist_ok=True)
    picture = Image.open(drawn)
    picture.save(target, optimize=True)
    if target.stat().st_size > LARGEST:
        picture.convert("RGB").quantize(128).save(target, optimize=True)
    seconds = {stage: done["seconds"] for stage, done in folder.marks().items()}
    print(f"{drawn.name} -> {target} ({target.stat().st_size / 1e3:.0f} kB)")
    print(", ".join(f"{stage} {t:.0f} s" for stage, t in seconds.items()), f"= {sum(seconds.values()):.0f} s")


if __name__ == "__main__":
    main()
