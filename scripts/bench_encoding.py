"""Throughput of image encoding: patches cut from an image and encoded, against the bare network on the same batches.

    python scripts/bench_encoding.py [--encoder efficientnet_lite0] [--patches 2048] [--batch 64] [--repeats 5] [--threads 2]

The image is noise of 2,000 x 2,000 pixels: what it shows costs nothing. Both are measured in turn; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console

from soscope.prepare.encoders import make_encoder
from soscope.prepare.image_features import PatchCutter, encode_patches

SIDE, INPUT_PX, WIDTH_PX = 2000, 96, 120.0


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print patches per second and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="efficientnet_lite0")
    for name, default in (("patches", 2048), ("batch", 64), ("repeats", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)
    xy = rng.uniform(0, SIDE, (words.patches, 2))
    encoder = make_encoder(words.encoder)
    cutter = PatchCutter(image, WIDTH_PX, INPUT_PX)
    batches = [cutter(part) for part in np.array_split(xy, max(1, words.patches // words.batch))]

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                encoder(batch)

    def ours() -> None:
        encode_patches(encoder, image, xy, WIDTH_PX, INPUT_PX, words.batch, None, progress=False)

    bare()
    both = [(seconds_of(ours), seconds_of(bare)) for _ in range(words.repeats)]
    mine, limit = (words.patches / statistics.median(times) for times in zip(*both, strict=True))
    Console().print(f"{words.encoder}: {mine:,.0f} patches/s, the bare network {limit:,.0f}: {mine / limit:.0%}")


if __name__ == "__main__":
    main()
