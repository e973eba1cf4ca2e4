"""What a Gaussian process over subspots is made of: places, and correlations over distance and image features."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from soscope.matrices import numbered

RANGES = (2.0, 3.0, 4.0)
"""Ranges of the covariance over distance that are tried, in pitches."""
IMAGE_SHARES = (0.05, 0.15, 0.35, 0.6, 0.85)
"""Parts of the variance that image features may explain."""
LOCAL = (0.0, 0.7)
"""Parts of what the image explains that may hold only near by, where the field is asked to look for that."""
LOCAL_RANGE, LOCAL_WIDTH = 4.0, 1.5
"""Range in pitches and image width of that part."""
IMAGE_WIDTH = 10.0
"""Squared width of image kernels over the median squared distance of two subspots: wide, so nearly linear."""
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
    blocks
        Columns of ``image`` that belong together, where some may say more than others; none when there is no image.
    """

    xy: np.ndarray
    image: np.ndarray
    spot: np.ndarray
    spot_xy: np.ndarray
    blocks: Sequence[np.ndarray]

    def only(self, chosen: np.ndarray) -> Places:
        """Return the observations ``chosen`` and their subspots."""
        spot = numbered(chosen, len(self.spot_xy))[self.spot]
        inside = spot >= 0
        return replace(
            self, xy=self.xy[inside], image=self.image[inside], spot=spot[inside], spot_xy=self.spot_xy[chosen]
        )

    def rows(self, chosen: np.ndarray | slice) -> Places:
        """Return the subspots ``chosen``."""
        return replace(self, xy=self.xy[chosen], image=self.image[chosen], spot=self.spot[chosen])

    def average(self) -> sparse.csr_matrix:
        """Return what averages subspots over their observation, ``(n_observed, n_subspots)``."""
        inside = np.flatnonzero(self.spot >= 0)
        count = np.bincount(self.spot[inside], minlength=len(self.spot_xy))
        weight = (1 / count[self.spot[inside]]).astype(np.float32)
        return sparse.csr_matrix((weight, (self.spot[inside], inside)), (len(self.spot_xy), len(self.spot)))


class Point(NamedTuple):
    """A choice of kernels: a range, the image's share, the part of that which holds only near by, and a view of the image."""

    length: int
    share: float
    local: float = 0.0
    view: int = 0


class Kernels:
    """Correlations the field may be made of: over distance at several ranges, then over views of the image.

    A view is one block of image features, or all of them together: an encoder's thousand features may say less than 21 of
    colour, and would drown them in one distance.

    Parameters
    ----------
    places
        Subspots of the whole section, from which the widths of the image kernels are taken.
    local
        Whether there is also a correlation of subspots that look alike and are near each other: effects of what the image
        shows that change over the tissue.
    """

    def __init__(self, places: Places, local: bool = False) -> None:
        few = places.image[:: max(1, len(places.image) // 1000)]
        self.blocks = places.blocks
        self.widths = [_median_distance(few[:, block]) for block in self.blocks]
        each = [(i,) for i in range(len(self.blocks))]
        self.views = each if len(each) < 2 else [*each, tuple(range(len(each)))]
        parts = LOCAL if local and self.views else (0.0,)
        shares = IMAGE_SHARES if self.views else (0.0,)
        points = itertools.product(range(len(RANGES)), shares, parts, range(max(1, len(self.views))))
        self.grid = [Point(*p) for p in points]
        self.scale = np.ones(len(RANGES) + len(self.views) * len(parts))

    def weights(self, point: Point) -> np.ndarray:
        """Return each kernel's weight, ``(n_kernels,)``."""
        distance = np.eye(len(RANGES))[point.length] * (1 - point.share)
        view = np.arange(len(self.views)) == point.view
        image = point.share * np.array([1 - point.local, point.local])
        return np.concatenate([distance, *(view * part for part in image)])[: len(self.scale)]

    def to_spots(
        self, at: Places, seen: Places, used: np.ndarray | None = None
    ) -> Iterator[tuple[slice, list[np.ndarray]]]:
        """Go through blocks of subspots ``at`` with their covariances to averages over ``seen``, each ``(n_block, n_observed)``.

        Kernels that are not ``used`` come as zeros.
        """
        average = seen.average()
        wanted = np.ones(len(self.scale), dtype=bool) if used is None else used
        for start in range(0, len(at.xy), BLOCK):
            rows = slice(start, start + BLOCK)
            kernels = self._kernels(at.rows(rows), seen, wanted)
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

    def _kernels(self, at: Places, seen: Places, used: np.ndarray) -> list[np.ndarray]:
        distance = torch.cdist(_single(at.xy), _single(seen.xy), compute_mode="donot_use_mm_for_euclid_dist")
        nothing = torch.zeros_like(distance)
        kernels = [matern32(distance, r) if u else nothing for r, u in zip(RANGES, used, strict=False)]
        if self.views:
            apart, n = self._views_apart(at, seen), len(self.views)
            plain, local = used[len(RANGES) :][:n], used[len(RANGES) + n :]
            kernels += [(a / -IMAGE_WIDTH).exp_() if u else nothing for a, u in zip(apart, plain, strict=True)]
            near = matern32(distance, LOCAL_RANGE) if local.any() else nothing
            kernels += [
                (a / -LOCAL_WIDTH).exp_().mul_(near) if u else nothing for a, u in zip(apart, local, strict=False)
            ]
        return [k.numpy() for k in kernels]

    def _views_apart(self, at: Places, seen: Places) -> list[Tensor]:
        """Return half the squared distances of image features in every view, over the median distance of two subspots."""
        apart = [
            torch.cdist(_single(at.image[:, block]), _single(seen.image[:, block])).square_().div_(2 * width)
            for block, width in zip(self.blocks, self.widths, strict=True)
        ]
        return [torch.stack([apart[i] for i in view]).mean(0) for view in self.views]


def _single(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


def _median_distance(features: np.ndarray) -> float:
    """Return the median squared distance of two rows."""
    median = float(torch.pdist(_single(features)).square_().median()) if len(features) > 1 else 0.0
    return max(median, 1e-12)
