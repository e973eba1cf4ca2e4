"""What tests of tiles share: double precision."""

from __future__ import annotations

import torch

from soscope.data.tiles import Tile
from soscope.nn.sparse import SparseMatrix


def as_double(tile: Tile) -> Tile:
    def up(value: object) -> object:
        if isinstance(value, dict):
            return {k: up(v) for k, v in value.items()}
        if isinstance(value, SparseMatrix):
            return value.double()
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return Tile(**{k: up(v) for k, v in vars(tile).items()})
