"""Copy a recipe's picture out of a finished run, and say how long the run took.

    python scripts/recipe_pictures.py RECIPE RUN_FOLDER [FEATURE]

The picture is the report's own map of a feature, by default the first of its first table. It goes into
``docs/images/recipe_RECIPE.png``, with fewer colours where it would be larger than 200 kB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from soscope.config import section_names
from soscope.contract import enhanced_name, open_tables
from soscope.folder import RunFolder
from soscope.report.page import safe

TARGET = Path(__file__).parents[1] / "docs" / "images"
LARGEST = 200_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="name of the page, such as slide-dna")
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("feature", nargs="?", help="one that the report shows")
    words = parser.parse_args()
    folder = RunFolder(words.run)
    drawn = map_of(folder, words.feature)
    target = TARGET / f"recipe_{words.recipe.replace('-', '_')}.png"
    TARGET.mkdir(parents=True, exist_ok=True)
    picture = Image.open(drawn)
    picture.save(target, optimize=True)
    if target.stat().st_size > LARGEST:
        picture.convert("RGB").quantize(128).save(target, optimize=True)
    seconds = {stage: done["seconds"] for stage, done in folder.marks().items()}
    print(f"{drawn.name} -> {target} ({target.stat().st_size / 1e3:.0f} kB)")
    print(", ".join(f"{stage} {t:.0f} s" for stage, t in seconds.items()), f"= {sum(seconds.values()):.0f} s")


def map_of(folder: RunFolder, feature: str | None) -> Path:
    """Return the report's picture of a feature of the first section."""
    cfg = folder.config()
    section, modalities = section_names(cfg)[0], list(cfg.model.modalities)
    _, tables = open_tables(folder.result(section))
    if feature is None:
        feature = str(tables[enhanced_name(modalities[0])].var_names[0])
    found = [folder.pictures / f"{section}_{m}_{safe(feature)}.png" for m in modalities]
    return next((f for f in found if f.is_file()), found[0])


if __name__ == "__main__":
    main()
