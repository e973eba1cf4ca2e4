"""Posterior draws of a section: one zarr array per modality, written block by block and draw by draw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

from soscope import contract
from soscope.enhance import FEATURE_BLOCK, Block, Divider, posteriors
from soscope.nn.noise import spot_keys

DIMENSIONS = ("draw", "subspot", "feature")
ROW_BLOCK = 16_384
"""Subspots in a chunk: with a block of features some MB."""


@dataclass(frozen=True)
class Drawing:
    """What is drawn; kept as attributes of the zarr group.

    Attributes
    ----------
    section, modality
        Name of the section and of its table.
    number
        How many draws.
    seed
        With its number, what a draw depends on: more draws begin with the same ones.
    posterior
        ``conditional`` or ``prior``, as for `soscope.enhance.Divider`.
    """

    section: str
    modality: str
    number: int
    seed: int
    posterior: str = "conditional"

    def generator(self, i: int, first_subspot: int, first_feature: int) -> np.random.Generator:
        """Return the random numbers of draw ``i`` of a block of subspots and features."""
        key = int(spot_keys(self.section, [self.modality])[0])
        return np.random.default_rng([self.seed, i, key, first_feature, first_subspot])


class Drawn(NamedTuple):
    """A block of subspots and features to be drawn: rows of the section, where they are in the posterior, and that."""

    rows: np.ndarray
    place: np.ndarray
    block: Block


def write_draws(
    path: Path, blocks: Iterable[Drawn], subspots: list[str], features: list[str], drawing: Drawing
) -> None:
    """Write draws beside ``path``, then rename; in memory is one draw of a block of subspots and features at a time.

    Parameters
    ----------
    path
        Folder of the zarr group.
    blocks
        All blocks of one modality, of consecutive rows each.
    subspots, features
        Names of rows and columns.
    drawing
        How many draws, and of what.
    """
    with contract.beside(path) as new, contract.quiet():
        group = zarr.open_group(new, mode="w", attributes={"format_version": contract.FORMAT_VERSION} | asdict(drawing))
        _write_names(group, subspots, features)
        for rows, place, block in blocks:
            array = _array_in(group, block.posterior.discrete, (drawing.number, len(subspots), len(features)))
            first = int(rows[0])
            for i in range(drawing.number):
                drawn = block.posterior.sample(drawing.generator(i, first, block.columns.start))[place]
                array[i, first : first + len(rows), block.columns] = drawn.cpu().numpy().astype(array.dtype)
        zarr.consolidate_metadata(group.store)


def _write_names(group: zarr.Group, subspots: list[str], features: list[str]) -> None:
    for dimension, names in zip(DIMENSIONS[1:], (subspots, features), strict=True):
        column = group.create_array(dimension, shape=(len(names),), dtype=str, dimension_names=(dimension,))
        column[:] = np.array(names, dtype=object)


def _array_in(group: zarr.Group, discrete: bool, shape: tuple[int, int, int]) -> Any:
    """Return the array the draws go into; it is made when the first block says what kind of values they are."""
    if "draws" in group:
        return group["draws"]
    chunks = (1, min(shape[1], ROW_BLOCK), min(shape[2], FEATURE_BLOCK))
    dtype = "uint32" if discrete else "float32"
    return group.create_array("draws", shape=shape, chunks=chunks, dtype=dtype, dimension_names=DIMENSIONS)


def blocks_to_draw(divider: Divider, modality: str) -> Iterator[Drawn]:
    """Go through the blocks of subspots and features of a modality."""
    for rows in divider.row_blocks(ROW_BLOCK):
        tile, z, place = divider.tile(rows)
        for block in posteriors(divider.model, tile, z, divider.posterior, (modality,)):
            yield Drawn(rows, place, block)
