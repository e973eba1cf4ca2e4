"""What kriging of the leading components says of every subspot: the part of the latent state that needs no training."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import eigh

from soscope.arrays import new_array
from soscope.data.section import Section
from soscope.kernels import Places
from soscope.kriging import AreaKriging
from soscope.likelihoods import Likelihood
from soscope.matrices import numbered
from soscope.rows import BLOCK, ComputedRows, Rows, averaged, blocks, joined

LARGEST_SIDE = 6000
"""Spots or columns, whichever are fewer, of which components are taken."""


@dataclass
class Components:
    """Leading components of the standardised, variance-stabilised profiles of spots, over all modalities together.

    Attributes
    ----------
    centre, spread
        Mean and deviation of every column, ``(n_columns,)``.
    loadings
        ``(n_components, n_columns)``.
    """

    centre: np.ndarray
    spread: np.ndarray
    loadings: np.ndarray

    @classmethod
    def fit(cls, levels: Rows, n_components: int) -> Components:
        """Take the components of ``levels``, ``(n_spots, n_columns)``; of very many spots and columns, of evenly spaced spots."""
        total = square = np.zeros(levels.shape[1])
        for block in blocks(levels):
            total = total + block.sum(0, dtype=np.float64)
            square = square + (block.astype(np.float64) ** 2).sum(0)
        centre = total / levels.shape[0]
        spread = np.sqrt(np.maximum(square / levels.shape[0] - centre**2, 0))
        spread = np.where(spread > 1e-9 * np.maximum(np.abs(centre), 1), spread, 1.0)
        if min(levels.shape) > LARGEST_SIDE:
            levels = levels[:: -(-levels.shape[0] // LARGEST_SIDE)]
        return cls(centre, spread, leading_directions(levels, centre, spread, min(n_components, *levels.shape)))

    def scores(self, levels: Rows) -> np.ndarray:
        """Return the scores of spots, ``(n_spots, n_components)``."""
        inverse = self.loadings.T / self.spread[:, None]
        return np.concatenate([block @ inverse for block in blocks(levels)]) - self.centre @ inverse


def leading_directions(levels: Rows, centre: np.ndarray, spread: np.ndarray, n: int) -> np.ndarray:
    """Return the leading principal directions of standardised columns, ``(n, n_columns)``, in double precision.

    They are eigenvectors of the cross-products over the shorter side, added up block by block of the longer.
    """
    n_spots, n_columns = levels.shape
    if n_columns <= n_spots:
        products = sum((z.T @ z for z in ((b - centre) / spread for b in blocks(levels))), np.zeros((n_columns,) * 2))
        return np.ascontiguousarray(_leading_vectors(products, n)[1].T)
    whole = levels[:]
    step = max(BLOCK // n_spots, 1)
    parts = [slice(i, i + step) for i in range(0, n_columns, step)]

    def standardised() -> Iterator[np.ndarray]:
        return ((whole[:, part] - centre[part]) / spread[part] for part in parts)

    values, vectors = _leading_vectors(sum((z @ z.T for z in standardised()), np.zeros((n_spots,) * 2)), n)
    root = np.sqrt(np.maximum(values, 1e-300))[:, None]
    return np.concatenate([z.T @ vectors for z in standardised()]).T / root


def _leading_vectors(products: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ``n`` largest eigenvalues of a symmetric matrix, and their vectors in columns."""
    size = len(products)
    if not n:
        return np.zeros(0), np.zeros((size, 0))
    values, vectors = eigh(products, subset_by_index=[size - n, size - 1])
    return values[::-1], vectors[:, ::-1]


def stabilised_levels(section: Section, likelihoods: Mapping[str, Likelihood]) -> Rows:
    """Return the level of a subspot in every spot with noise of even size, modalities side by side, ``(n_spots, n_columns)``.

    Rows are computed when they are taken: a table of many features stays sparse.
    """
    n = np.bincount(section.parent[section.parent >= 0], minlength=section.n_spots)
    per_spot = torch.from_numpy(np.maximum(n, 1)).float()[:, None]

    def level(rows: np.ndarray) -> np.ndarray:
        x = {m: torch.from_numpy(section.modalities[m].dense(rows)) for m in likelihoods}
        return np.concatenate([v.stabilise(x[m], per_spot[rows]).numpy() for m, v in likelihoods.items()], 1)

    n_columns = sum(len(section.modalities[m].features) for m in likelihoods)
    return ComputedRows((section.n_spots, n_columns), level)


def smooth_over_neighbours(section: Section, width: float) -> Rows:
    """Average image features with those of neighbouring subspots, Gaussian weights of ``width`` subspot pitches.

    Single patches vary more than what they stand for: the average of a patch and its neighbours says more about expression.
    Returns ``(n_subspots, n_image)``; with ``width = 0`` the features as they are. Of features that are not in memory, averages
    are computed when they are taken.
    """
    features = section.image_features
    if width <= 0 or not features.shape[1]:
        return features
    edges, n = section.subspot_graph.edges, section.n_subspots
    weight = np.full(edges.shape[1], np.exp(-0.5 / width**2))
    near = sparse.csr_matrix((weight, (edges[0], edges[1])), shape=(n, n)) + sparse.identity(n)
    smooth = ComputedRows(features.shape, partial(averaged, features, near.astype(np.float32)))
    return smooth[:] if isinstance(features, np.ndarray) else smooth


def krige_components(
    sections: Sequence[Section],
    features: Sequence[Rows],
    levels: Sequence[Rows],
    components: Components,
    hidden: Sequence[np.ndarray],
    kept_in: Path | None = None,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the scores of every subspot of every section, ``(n_subspots, n_components)``, without and with hidden spots.

    Parameters
    ----------
    sections, features, levels
        Sections, their (smoothed) image features and stabilised levels.
    components
        What the scores are of.
    hidden
        Spots of which the first of each pair may know nothing, boolean ``(n_spots,)`` per section.
    kept_in
        Folder of earlier results, found by a hash of all that goes in; nothing is kept without one.
    """
    scored = []
    for section, image, level, unseen in zip(sections, features, levels, hidden, strict=True):
        observed = observed_spots(section)
        places = section_places(section, image, observed)
        scored.append(_kept(places, components.scores(joined([level], [observed])), ~unseen[observed], kept_in))
    return scored


def observed_spots(section: Section) -> np.ndarray:
    """Return the spots that have subspots."""
    return np.flatnonzero(np.isin(np.arange(section.n_spots), section.parent))


def section_places(section: Section, image: Rows, observed: np.ndarray) -> Places:
    """Return where the field of a section is, with these image features, seen through ``observed`` spots."""
    return Places(
        section.subspot_xy_um / section.pitch_um,
        image,
        numbered(observed, section.n_spots)[section.parent],
        section.xy_um[observed] / section.pitch_um,
        section.image_blocks,
    )


def _kept(places: Places, scores: np.ndarray, known: np.ndarray, folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Krige, or read what was kriged from the same before."""
    if folder is None:
        without, whole = AreaKriging(places, local=True).both(scores, known)
        return without, whole
    digest = hashlib.blake2b(digest_size=8)
    for part in itertools.chain(
        blocks(places.image), [places.xy, places.spot, places.spot_xy, *places.blocks, scores, known]
    ):
        digest.update(np.ascontiguousarray(part).data)
    file = folder / f"field-{digest.hexdigest()}.npy"
    if not file.is_file():
        with new_array(file, (2, len(places.spot), scores.shape[1])) as field:
            AreaKriging(places, local=True).both(scores, known, field)
    without, whole = np.load(file, mmap_mode="r")
    return without, whole
