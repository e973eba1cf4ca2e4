"""How sections are cut into tiles: how large one may be, and which comes when."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from soscope.data.section import Section
from soscope.errors import ConfigError
from soscope.groups import compact_groups

LARGEST_TILE = 24_000
"""Subspots of a tile: a step on more takes longer per subspot, its activations having left the cache."""
WIDTHS_PER_SPOT, WIDTHS_PER_SUBSPOT = 48, 10
"""Activations a training step holds, in widths of the hidden layers: what one more spot, and one more subspot, took, measured."""
FLOATS_PER_PROFILE, FLOATS_PER_DECODED = 4, 6
"""Floats per feature of a spot, and per decoded feature of a subspot."""


def bytes_per_spot(section: Section, n_hidden: int, largest_block: int) -> float:
    """Estimate the memory one more core spot takes in a training step of the second stage, which takes the most.

    Parameters
    ----------
    section
        Sizes are taken from it.
    n_hidden
        Width of the hidden layers.
    largest_block
        Entries decoded at a time; above, features go in blocks and do not count any more.
    """
    n_features = sum(len(p.features) for p in section.modalities.values())
    n_spots = max(section.n_spots, 1)
    subspots = section.n_subspots / n_spots
    decoded = min(n_features, largest_block / max(min(section.n_subspots, LARGEST_TILE), 1))
    spot = n_hidden * WIDTHS_PER_SPOT + FLOATS_PER_PROFILE * n_features
    return 4 * (spot + subspots * (n_hidden * WIDTHS_PER_SUBSPOT + FLOATS_PER_DECODED * decoded))


def choose_tile_spots(
    section: Section, wanted: int | str, memory_gb: float, n_hidden: int, largest_block: int, at_least: int
) -> int:
    """Return how many core spots a tile may have.

    Parameters
    ----------
    section
        What is cut.
    wanted
        A number, or ``auto``: the whole section, or as few equal parts as fit ``memory_gb`` and `LARGEST_TILE`.
    memory_gb, n_hidden, largest_block
        Memory for a step, and what it depends on.
    at_least
        Tiles that are needed, one per device that has no other section to train on.
    """
    if wanted != "auto":
        return int(wanted)
    whole = section.n_spots * bytes_per_spot(section, n_hidden, largest_block)
    n_tiles = max(math.ceil(whole / (memory_gb * 1e9)), math.ceil(section.n_subspots / LARGEST_TILE), at_least)
    return math.ceil(section.n_spots / n_tiles)


def cores_of(section: Section, n_spots: int) -> list[np.ndarray]:
    """Divide the spots of a section into compact groups of at most ``n_spots``."""
    return [np.sort(group) for group in compact_groups(section.xy_um, n_spots)]


def check_devices(n_devices: int, n_tiles: int) -> None:
    """Refuse more devices than tiles."""
    if n_devices > n_tiles:
        raise ConfigError(
            f"{n_devices} devices, but only {n_tiles} tile(s) to share: the other devices would repeat the same work. Use "
            f"trainer.devices={n_tiles}, smaller tiles (data.tile_spots=N), or data.tile_spots=auto, which makes at least one "
            "tile per device."
        )


class TileOrder(Sampler[int]):
    """Which tile a step of an epoch takes: passes over all tiles in a new order each, shared out over devices.

    Parameters
    ----------
    n_tiles, n_steps
        Tiles there are, and steps of an epoch on each device.
    seed
        Of the orders; they do not depend on where a run was resumed.
    rank, world_size
        This device, and how many there are.
    """

    def __init__(self, n_tiles: int, n_steps: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.n_tiles, self.n_steps, self.seed = n_tiles, n_steps, seed
        self.rank, self.world_size, self.epoch = rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_steps

    def __iter__(self) -> Iterator[int]:
        orders: dict[int, Sequence[int]] = {}
        for step in range(self.epoch * self.n_steps, (self.epoch + 1) * self.n_steps):
            turn, place = divmod(step * self.world_size + self.rank, self.n_tiles)
            if turn not in orders:
                orders[turn] = np.random.default_rng([self.seed, turn]).permutation(self.n_tiles).tolist()
            yield orders[turn][place]
