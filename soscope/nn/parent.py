"""Sums over the subspots of a spot."""

from __future__ import annotations

import torch
from torch import Tensor


class Parent:
    """Which spot every subspot lies in, with the sums and gathers that follow from it.

    Parameters
    ----------
    index
        Spot of each subspot, shape ``(n_subspots,)``; -1 for a subspot under no spot, which is left out of every sum.
    n_spots
        Number of spots; a spot without subspots sums to zero.

    Notes
    -----
    Sums are index reductions. When every spot has the same number of subspots in contiguous rows, a reshape does the
    same faster.
    """

    def __init__(self, index: Tensor, n_spots: int) -> None:
        if index.numel() and (int(index.min()) < -1 or int(index.max()) >= n_spots):
            raise ValueError(f"parent must lie in [-1, {n_spots}), found {int(index.min())} to {int(index.max())}")
        self.index = index
        self.n_spots = n_spots
        self.assigned = index >= 0
        self.n_per_spot = torch.bincount(index[self.assigned], minlength=n_spots)
        self._regular = self._constant_count()
        self._safe = torch.where(self.assigned, index, n_spots)

    def _constant_count(self) -> int | None:
        n = self.index.numel()
        if not n or n % self.n_spots:
            return None
        k = n // self.n_spots
        rows = torch.arange(self.n_spots, device=self.index.device).repeat_interleave(k)
        return k if torch.equal(rows, self.index) else None

    def to(self, device: torch.device | str) -> Parent:
        """Return a copy on another device."""
        moved = object.__new__(Parent)
        for name, value in self.__dict__.items():
            setattr(moved, name, value.to(device) if isinstance(value, Tensor) else value)
        return moved

    def sum(self, values: Tensor) -> Tensor:
        """Add subspot rows up to spots, ``(n_subspots, ...) -> (n_spots, ...)`` (Eq. 1 of Li et al. 2024)."""
        if self._regular:
            return values.reshape(self.n_spots, self._regular, *values.shape[1:]).sum(1)
        out = values.new_zeros(self.n_spots + 1, *values.shape[1:])
        return out.index_add(0, self._safe, values)[:-1]

    def mean(self, values: Tensor) -> Tensor:
        """Average subspot rows over their spot; zero for a spot without subspots."""
        count = self.n_per_spot.clamp(min=1).to(values.dtype)
        return self.sum(values) / count.reshape(-1, *[1] * (values.dim() - 1))

    def gather(self, values: Tensor) -> Tensor:
        """Copy spot rows down to their subspots, ``(n_spots, ...) -> (n_subspots, ...)``; zero under no spot."""
        if self._regular:
            return values.repeat_interleave(self._regular, 0)
        padded = torch.cat([values, values.new_zeros(1, *values.shape[1:])])
        return padded[self._safe]
