"""What a Gaussian process over subspots is made of: places, and correlations over distance and image features."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from soscope.matrices import Groups
from soscope.rows import Rows

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
        Features of subspots, ``(n_subspots, n_image)``, an array or what is taken row by row.
    spot
        Observation each subspot belongs to, ``(n_subspots,)``; -1 for those no observation tells of.
    spot_xy
        Centres of the observed spots in pitches, ``(n_observed, 2)``.
    blocks
        Columns of ``image`` that belong together, where some may say more than others; none when there is no image.
    """

    xy: np.ndarray
    image: Rows
    spot: np.ndarray
    spot_xy: np.ndarray
    blocks: Sequence[np.ndarray]

    @cached_property
    def subspots(self) -> Groups:
        """Subspots by the observation they belong to."""
        return Groups(self.spot, len(self.spot_xy))

    def only(self, chosen: np.ndarray) -> Places:
        """Return the observations ``chosen`` and their subspots, those of each together, in the order of ``chosen``."""
        inside = self.subspots.rows(chosen)
        spot = np.repeat(np.arange(len(chosen)), self.subspots.sizes(chosen))
        return replace(self, xy=self.xy[inside], image=self.image[inside], spot=spot, spot_xy=self.spot_xy[chosen])

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
        few = places.image[:: max(1, places.image.shape[0] // 1000)]
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
    ) -> Iterator[tuple[slice, list[np.ndarray | None]]]:
        """Go through blocks of subspots ``at`` with the covariances of averages over ``seen`` to them, ``(n_observed, n_block)``.

        Kernels that are not ``used`` come as ``None``.
        """
        average = seen.average()
        for start in range(0, len(at.xy), BLOCK):
            rows = slice(start, start + BLOCK)
            yield rows, self._averaged(average, seen, at.rows(rows), used)

    def between_spots(self, seen: Places, used: np.ndarray | None = None) -> list[np.ndarray]:
        """Return the covariances of averages over spots, each ``(n_observed, n_observed)``; zeros where not ``used``.

        They are symmetric: every block of spots is compared with itself and those after it. ``seen`` is as `Places.only`
        returns it.
        """
        average, n = seen.average(), len(seen.spot_xy)
        first = average.indptr
        sums = [np.zeros((n, n)) for _ in self.scale]
        low = 0
        while low < n:
            high = max(low + 1, int(np.searchsorted(first, first[low] + BLOCK, side="right")) - 1)
            later, rows = slice(first[low], None), slice(first[low], first[high])
            found = self._averaged(average[low:, later], seen.rows(later), seen.rows(rows), used)
            over_rows = average[low:high, rows].T
            for total, block in zip(sums, found, strict=True):
                if block is not None:
                    total[low:, low:high] = block @ over_rows
            low = high
        return [np.tril(total) + np.tril(total, -1).T for total in sums]

    def normalise(self, between_spots: list[np.ndarray]) -> None:
        """Scale every kernel so that these averages over spots vary by 1 about their common mean."""
        for i, covariance in enumerate(between_spots):
            variance = covariance.diagonal().mean() - covariance.mean()
            self.scale[i] = 1 / variance if variance > 1e-9 else 1.0
            covariance *= self.scale[i]

    def _averaged(
        self, average: sparse.csr_matrix, seen: Places, at: Places, used: np.ndarray | None
    ) -> list[np.ndarray | None]:
        """Return the covariances of averages over ``seen`` to subspots ``at`` by every kernel that is used."""
        wanted = np.ones(len(self.scale), dtype=bool) if used is None else used
        kernels = self._kernels(seen, at, wanted)
        return [None if k is None else s * (average @ k.numpy()) for s, k in zip(self.scale, kernels, strict=True)]

    def _kernels(self, here: Places, there: Places, used: np.ndarray) -> list[Tensor | None]:
        """Return every kernel that is used between two sets of subspots."""
        distance = _distance(_single(here.xy), _single(there.xy))
        over_distance = {r: matern32(distance, r) for r, u in zip(RANGES, used, strict=False) if u}
        found = [over_distance.get(r) for r in RANGES]
        if self.views:
            n = len(self.views)
            plain, local = used[len(RANGES) :][:n], used[len(RANGES) + n :]
            apart = self._views_apart(here, there)
            near = over_distance[LOCAL_RANGE] if LOCAL_RANGE in over_distance else matern32(distance, LOCAL_RANGE)
            found += [torch.exp(a / -IMAGE_WIDTH) if u else None for a, u in zip(apart, plain, strict=True)]
            found += [(a / -LOCAL_WIDTH).exp_().mul_(near) if u else None for a, u in zip(apart, local, strict=False)]
        return found

    def _views_apart(self, here: Places, there: Places) -> list[Tensor]:
        """Return half the squared distances of image features in every view, over the median distance of two subspots."""
        apart = [
            _squared_distance(_single(here.image[:][:, block]), _single(there.image[:][:, block])).div_(2 * width)
            for block, width in zip(self.blocks, self.widths, strict=True)
        ]
        return [
            torch.stack([apart[i] for i in view]).mean(0) if len(view) > 1 else apart[view[0]] for view in self.views
        ]


def _distance(here: Tensor, there: Tensor) -> Tensor:
    """Return distances in the plane, ``(n_here, n_there)``, from differences: products would lose the small ones."""
    across, along = here[:, :1] - there[:, 0], here[:, 1:] - there[:, 1]
    return across.square_().addcmul_(along, along).sqrt_()


def _squared_distance(here: Tensor, there: Tensor) -> Tensor:
    """Return squared distances of rows, ``(n_here, n_there)``, from their products."""
    both = torch.addmm(there.square().sum(1), here, there.T, alpha=-2)
    return both.add_(here.square().sum(1)[:, None]).clamp_(min=0)


def _single(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32)


def _median_distance(features: np.ndarray) -> float:
    """Return the median squared distance of two rows."""
    median = float(torch.pdist(_single(features)).square_().median()) if len(features) > 1 else 0.0
    return max(median, 1e-12)
