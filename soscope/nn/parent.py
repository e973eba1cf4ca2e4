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
    n_per_spot
        Number of subspots of every spot, where some of them are not among these, ``(n_spots,)``.

    Notes
    -----
    Sums are index reductions. Where the first spots have the same number of subspots in contiguous rows, a reshape does the
    same faster for them; on a regular section these are all.
    """

    def __init__(self, index: Tensor, n_spots: int, n_per_spot: Tensor | None = None) -> None:
        if index.numel() and (int(index.min()) < -1 or int(index.max()) >= n_spots):
            raise ValueError(f"parent must lie in [-1, {n_spots}), found {int(index.min())} to {int(index.max())}")
        self.index = index
        self.n_spots = n_spots
        self.assigned = index >= 0
        counted = torch.bincount(index[self.assigned], minlength=n_spots)
        self.n_per_spot = counted if n_per_spot is None else n_per_spot
        self._regular, self._k = _regular_start(index, counted)
        self._rest = torch.where(self.assigned, index, n_spots)[self._regular * self._k :]

    def to(self, device: torch.device | str) -> Parent:
        """Return a copy on another device."""
        moved = object.__new__(Parent)
        for name, value in self.__dict__.items():
            setattr(moved, name, value.to(device) if isinstance(value, Tensor) else value)
        return moved

    def sum(self, values: Tensor) -> Tensor:
        """Add subspot rows up to spots, ``(n_subspots, ...) -> (n_spots, ...)`` (Eq. 1 of Li et al. 2024)."""
        n, k = self._regular, self._k
        first = values[: n * k].reshape(n, k, *values.shape[1:]).sum(1)
        if not len(self._rest) and n == self.n_spots:
            return first
        out = torch.cat([first, values.new_zeros(self.n_spots + 1 - n, *values.shape[1:])])
        return out.index_add(0, self._rest, values[n * k :])[:-1]

    def mean(self, values: Tensor) -> Tensor:
        """Average subspot rows over their spot; zero for a spot without subspots."""
        count = self.n_per_spot.clamp(min=1).to(values.dtype)
        return self.sum(values) / count.reshape(-1, *[1] * (values.dim() - 1))

    def gather(self, values: Tensor) -> Tensor:
        """Copy spot rows down to their subspots, ``(n_spots, ...) -> (n_subspots, ...)``; zero under no spot."""
        first = values[: self._regular].repeat_interleave(self._k, 0)
        if not len(self._rest):
            return first
        padded = torch.cat([values, values.new_zeros(1, *values.shape[1:])])
        return torch.cat([first, padded[self._rest]])


def _regular_start(index: Tensor, counted: Tensor) -> tuple[int, int]:
    """Return how many spots at the beginning have the same number of subspots in contiguous rows, and that number."""
    k = int(counted[0]) if len(counted) else 0
    if not k:
        return 0, 1
    n = min(len(index) // k, len(counted))
    rows = torch.arange(n, device=index.device).repeat_interleave(k)
    same = ((rows == index[: n * k]) & (counted[rows] == k)).reshape(n, k).all(1)
    return int(same.long().cumprod(0).sum()), k
