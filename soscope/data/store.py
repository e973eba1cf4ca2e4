"""Tiles of all sections, cut when first taken and kept while they fit in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from torch.utils.data import Dataset

from soscope.data.cutter import TileCutter
from soscope.data.tiles import Tile


class TileStore(Dataset[Tile], Sequence[Tile]):
    """Tiles of all sections.

    Parameters
    ----------
    cutters
        One per section.
    cores
        Per section the core spots of its tiles.
    memory_gb
        Tiles are kept up to this size, those not used for longest being dropped first.
    """

    def __init__(self, cutters: Sequence[TileCutter], cores: Sequence[Sequence[np.ndarray]], memory_gb: float) -> None:
        self.cutters = list(cutters)
        self.parts = [(i, core, len(group)) for i, group in enumerate(cores) for core in group]
        self.limit = memory_gb * 1e9
        self.clear()

    def clear(self) -> None:
        """Drop all tiles that are kept; they are cut anew when they are taken."""
        self._kept: OrderedDict[int, tuple[Tile, int]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Tile:  # type: ignore[override]
        if not 0 <= index < len(self.parts):
            raise IndexError(index)
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index][0]
        section, core, n_tiles = self.parts[index]
        tile = self.cutters[section](core, n_tiles)
        size = tile.n_bytes()
        self._kept[index] = tile, size
        self._size += size
        while self._size > self.limit and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1][1]
        return tile
