"""What a Gaussian process over subspots is made of: places, and correlations over distance and image features."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

RANGES = (2.0, 3.0, 4.0)
"""Ranges of the covariance over distance that are tried, in pitches."""
IMAGE_SHARES = (0.05, 0.15, 0.35, 0.6, 0.85)
"""Parts of the variance that image features may explain."""
LOCAL = (0.0, 0.5, 1.0)
"""Parts of what the image explains that may hold only near by, where the field is asked to look for that."""
LOCAL_RANGE, LOCAL_WIDTH = 4.0, 1.5
"""Range in pitches and image width of that part."""
IMAGE_WIDTH = 10.0
"""Squared width of the image kernel over the median squared distance of two subspots: wide, so nearly linear."""
BLOCK = 64
"""Subspots whose covariances with all others are held at a time."""


def matern32(distance: Tensor, length: float) -> Tensor:
    """Return the Matern-3/2 correlation at a distance."""
    scaled = distance * (3**0.5 / length)
    return torch.exp(-scaled).mul_(scaled.add_(1))


@dataclass
class Places:
    """Where the field is, and how it is seen.

    Attributes
    ----------
    xy
        Centres of subspots in pitches, ``(n_subspots, 2)``.
    image
        Features of subspots, ``(n_subspots, n_image)``.
    spot
        Observation each subspot belongs to, ``(n_subspots,)``; -1 for those no observation tells of.
    spot_xy
        Centres of the observed spots in pitches, ``(n_observed, 2)``.
    """

    xy: np.ndarray
    image: np.ndarray
    spot: np.ndarray
    spot_xy: np.ndarray

    def only(self, chosen: np.ndarray) -> Places:
        """Return the observations ``chosen`` and their subspots."""
        number = np.full(len(self.spot_xy) + 1, -1)
        number[chosen] = np.arange(len(chosen))
        spot = number[self.spot]
        inside = spot >= 0
        return Places(self.xy[inside], self.image[inside], spot[inside], self.spot_xy[chosen])

    def average(self) -> sparse.csr_matrix:
        """Return what averages subspots over their observation, ``(n_observed, n_subspots)``."""
        inside = np.flatnonzero(self.spot >= 0)
        count = np.bincount(self.spot[inside], minlength=len(self.spot_xy))
        weight = (1 / count[self.spot[inside]]).astype(np.float32)
        return sparse.csr_matrix((weight, (self.spot[inside], inside)), (len(self.spot_xy), len(self.spot)))


class Kernels:
    """Correlations the field may be made of: over distance at several ranges, then over image features if there are any.

    Parameters
    ----------
    places
        Subspots of the whole section, from which the width of the image kernel is taken.
    local
        Whether there is also a correlation of subspots that look alike and are near each other: effects of what the image
        shows that change over the tissue.
    """

    def __init__(self, places: Places, local: bool = False) -> None:
        few = torch.as_tensor(places.image[:: max(1, len(places.image) // 1000)], dtype=torch.float32)
        self.with_image = bool(places.image.shape[1])
        median = float(torch.pdist(few).square_().median()) if self.with_image and len(few) > 1 else 0.0
        self.width = max(median, 1e-12)
        shares = IMAGE_SHARES if self.with_image else (0.0,)
        parts = LOCAL if local and self.with_image else (0.0,)
        self.grid = list(itertools.product(range(len(RANGES)), shares, parts))
        self.scale = np.ones(len(RANGES) + self.with_image * len(parts[:2]))

    def weights(self, length: int, share: float, local: float = 0.0) -> np.ndarray:
        """Return each kernel's weight: ``share`` of the variance is the image's, part of it ``local``; the rest one range's."""
        distance = np.eye(len(RANGES))[length] * (1 - share)
        return np.r_[distance, share * (1 - local), share * local][: len(self.scale)]

    def to_spots(
        self, at: Places, seen: Places, used: np.ndarray | None = None
    ) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Go through blocks of subspots ``at`` with their covariances to averages over ``seen``, each ``(n_block, n_observed)``.

        Kernels that are not ``used`` come as zeros.
        """
        average = seen.average()
        wanted = np.ones(len(self.scale), dtype=bool) if used is None else used
        xy, image = (torch.as_tensor(v, dtype=torch.float32) for v in (seen.xy, seen.image))
        for start in range(0, len(at.xy), BLOCK):
            rows = slice(start, start + BLOCK)
            here_xy, here_image = (torch.as_tensor(v[rows], dtype=torch.float32) for v in (at.xy, at.image))
            kernels = self._kernels(here_xy, here_image, xy, image, wanted)
            yield rows, [s * (average @ k.T).T for s, k in zip(self.scale, kernels, strict=True)]

    def between_spots(self, seen: Places, used: np.ndarray | None = None) -> list[np.ndarray]:
        """Return the covariances of averages over spots, each ``(n_observed, n_observed)``."""
        average = seen.average()
        sums = [np.zeros((average.shape[0],) * 2) for _ in self.scale]
        for rows, blocks in self.to_spots(seen, seen, used):
            weight = average[:, rows]
            hit = np.flatnonzero(np.diff(weight.indptr))
            for total, block in zip(sums, blocks, strict=True):
                total[hit] += weight[hit] @ block
        return sums

    def normalise(self, between_spots: list[np.ndarray]) -> None:
        """Scale every kernel so that these averages over spots vary by 1 about their common mean."""
        for i, covariance in enumerate(between_spots):
            variance = covariance.diagonal().mean() - covariance.mean()
            self.scale[i] = 1 / variance if variance > 1e-9 else 1.0
            covariance *= self.scale[i]

    def _kernels(
        self, xy: Tensor, image: Tensor, all_xy: Tensor, all_image: Tensor, used: np.ndarray
    ) -> list[np.ndarray]:
        distance = torch.cdist(xy, all_xy, compute_mode="donot_use_mm_for_euclid_dist")
        nothing = torch.zeros_like(distance)
        kernels = [matern32(distance, r) if u else nothing for r, u in zip(RANGES, used, strict=False)]
        if self.with_image:
            apart = torch.cdist(image, all_image).square_().div_(-2 * self.width)
            kernels.append((apart / IMAGE_WIDTH).exp_())
            if len(used) > len(kernels):
                kernels.append((apart / LOCAL_WIDTH).exp_() * matern32(distance, LOCAL_RANGE))
        return [k.numpy() for k in kernels]
