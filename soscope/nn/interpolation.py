"""How a quantity known at spots continues to subspots."""

from __future__ import annotations

import torch
from torch import Tensor


class Interpolation:
    """Weighted means over nearby spots, stored as edges.

    Parameters
    ----------
    subspot, spot, weight
        One entry per pair, each ``(n_pairs,)``; the weights of a subspot add up to one, or there are none.
    n_subspots
        Number of rows of the result.

    Notes
    -----
    A subspot without any entry (far from every spot) gets zero: the prior mean of z.
    """

    def __init__(self, subspot: Tensor, spot: Tensor, weight: Tensor, n_subspots: int) -> None:
        self.subspot, self.spot, self.weight, self.n_subspots = subspot, spot, weight, n_subspots

    def to(self, device: torch.device | str) -> Interpolation:
        """Return a copy on another device."""
        return Interpolation(self.subspot.to(device), self.spot.to(device), self.weight.to(device), self.n_subspots)

    def __call__(self, values: Tensor) -> Tensor:
        """Continue ``(n_spots, width)`` to ``(n_subspots, width)``."""
        n_spots = values.shape[0]
        index = torch.stack([self.subspot, self.spot])
        size = (self.n_subspots, n_spots)
        matrix = torch.sparse_coo_tensor(index, self.weight.to(values.dtype), size, check_invariants=False)
        return torch.sparse.mm(matrix, values)
