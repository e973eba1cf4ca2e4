"""What kriging of the leading components says of every subspot: the part of the latent state that needs no training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from scipy.linalg import eigh

from soscope.arrays import save_array
from soscope.data.section import Section
from soscope.kernels import Places
from soscope.kriging import AreaKriging
from soscope.likelihoods import Likelihood
from soscope.matrices import numbered

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
    def fit(cls, levels: np.ndarray, n_components: int) -> Components:
        """Take the components of ``levels``, ``(n_spots, n_columns)``; of very many spots and columns, of evenly spaced spots."""
        centre, spread = levels.mean(0, dtype=np.float64), levels.std(0, dtype=np.float64)
        spread = np.where(spread > 1e-9, spread, 1.0)
        if min(levels.shape) > LARGEST_SIDE:
            levels = levels[:: -(-len(levels) // LARGEST_SIDE)]
        return cls(centre, spread, leading_directions(levels, centre, spread, min(n_components, *levels.shape)))

    def scores(self, levels: np.ndarray) -> np.ndarray:
        """Return the scores of spots, ``(n_spots, n_components)``."""
        inverse = self.loadings.T / self.spread[:, None]
        return np.concatenate([block @ inverse for block in _blocks(levels, 0)]) - self.centre @ inverse


def leading_directions(levels: np.ndarray, centre: np.ndarray, spread: np.ndarray, n: int) -> np.ndarray:
    """Return the leading principal directions of standardised columns, ``(n, n_columns)``, in double precision.

    They are eigenvectors of the cross-products over the shorter side, added up block by block of the longer.
    """
    longer = int(levels.shape[1] > levels.shape[0])
    products = np.zeros((min(levels.shape),) * 2)
    start = 0
    for block in _blocks(levels, longer):
        columns = slice(start, start + block.shape[1]) if longer else slice(None)
        z = (block - centre[columns]) / spread[columns]
        products += z @ z.T if longer else z.T @ z
        start += block.shape[longer]
    size = len(products)
    values, vectors = eigh(products, subset_by_index=[size - n, size - 1]) if n else (np.zeros(0), np.zeros((size, 0)))
    vectors = np.ascontiguousarray(vectors[:, ::-1])
    if not longer:
        return np.ascontiguousarray(vectors.T)
    root = np.sqrt(np.maximum(values[::-1], 1e-300))[:, None]
    scaled = [b.T.astype(np.float64) @ vectors for b in _blocks(levels, 1)]
    return ((np.concatenate(scaled) - np.outer(centre, vectors.sum(0))) / spread[:, None]).T / root


def _blocks(values: np.ndarray, axis: int, size: int = 2**22) -> list[np.ndarray]:
    """Divide an array along an axis into views of about ``size`` entries."""
    n = values.shape[axis]
    step = max(size * n // max(values.size, 1), 1)
    return [values[i : i + step] if axis == 0 else values[:, i : i + step] for i in range(0, n, step)]


def stabilised_levels(section: Section, likelihoods: Mapping[str, Likelihood]) -> np.ndarray:
    """Return the level of a subspot in every spot with noise of even size, modalities side by side, ``(n_spots, n_columns)``."""
    n = np.bincount(section.parent[section.parent >= 0], minlength=section.n_spots)
    per_spot = torch.from_numpy(np.maximum(n, 1)).float()[:, None]
    parts = []
    for modality, likelihood in likelihoods.items():
        x = torch.from_numpy(section.modalities[modality].dense(np.arange(section.n_spots)))
        parts.append(likelihood.stabilise(x, per_spot).numpy())
    return np.concatenate(parts, 1)


def smooth_over_neighbours(section: Section, width: float) -> np.ndarray:
    """Average image features with those of neighbouring subspots, Gaussian weights of ``width`` subspot pitches.

    Single patches vary more than what they stand for: the average of a patch and its neighbours says more about expression.
    Returns ``(n_subspots, n_image)``; with ``width = 0`` the features as they are.
    """
    features = section.image_features
    if width <= 0 or not features.shape[1]:
        return features
    edges, n = section.subspot_graph.edges, section.n_subspots
    weight = np.full(edges.shape[1], np.exp(-0.5 / width**2))
    near = sparse.csr_matrix((weight, (edges[0], edges[1])), shape=(n, n)) + sparse.identity(n)
    return np.asarray((near @ features) / np.asarray(near.sum(1))).astype(np.float32)


def krige_components(
    sections: Sequence[Section],
    features: Sequence[np.ndarray],
    levels: Sequence[np.ndarray],
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
        scored.append(_kept(places, components.scores(level[observed]), ~unseen[observed], kept_in))
    return scored


def observed_spots(section: Section) -> np.ndarray:
    """Return the spots that have subspots."""
    return np.flatnonzero(np.isin(np.arange(section.n_spots), section.parent))


def section_places(section: Section, image: np.ndarray, observed: np.ndarray) -> Places:
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
        return AreaKriging(places, local=True).both(scores, known)
    digest = hashlib.blake2b(digest_size=8)
    for part in (places.xy, places.image, places.spot, places.spot_xy, *places.blocks, scores, known):
        digest.update(np.ascontiguousarray(part).data)
    file = folder / f"field-{digest.hexdigest()}.npy"
    if not file.is_file():
        save_array(file, np.stack(AreaKriging(places, local=True).both(scores, known)))
    without, whole = np.load(file, mmap_mode="r")
    return without, whole
