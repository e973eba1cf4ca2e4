"""What kriging of the leading components says of every subspot: the part of the latent state that needs no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from soscope.data.section import Section
from soscope.kernels import Places
from soscope.kriging import AreaKriging
from soscope.likelihoods import Likelihood


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
        """Take the components of ``levels``, ``(n_spots, n_columns)``."""
        centre, spread = levels.mean(0), levels.std(0)
        spread = np.where(spread > 1e-9, spread, 1.0)
        right = np.linalg.svd((levels - centre) / spread, full_matrices=False)[2]
        return cls(centre, spread, right[:n_components])

    def scores(self, levels: np.ndarray) -> np.ndarray:
        """Return the scores of spots, ``(n_spots, n_components)``."""
        return (levels - self.centre) / self.spread @ self.loadings.T


def stabilised_levels(section: Section, likelihoods: Mapping[str, Likelihood]) -> np.ndarray:
    """Return the level of a subspot in every spot with noise of even size, modalities side by side, ``(n_spots, n_columns)``."""
    n = np.bincount(section.parent[section.parent >= 0], minlength=section.n_spots)
    per_spot = torch.from_numpy(np.maximum(n, 1)).float()[:, None]
    parts = []
    for modality, likelihood in likelihoods.items():
        x = torch.from_numpy(section.modalities[modality].dense(np.arange(section.n_spots)))
        parts.append(likelihood.stabilise(x, per_spot).double().numpy())
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
    """
    scored = []
    for section, image, level, unseen in zip(sections, features, levels, hidden, strict=True):
        observed = np.flatnonzero(np.isin(np.arange(section.n_spots), section.parent))
        position = np.full(section.n_spots + 1, -1)
        position[observed] = np.arange(len(observed))
        pitch = section.pitch_um
        places = Places(
            section.subspot_xy_um / pitch,
            image,
            position[section.parent],
            section.xy_um[observed] / pitch,
            section.image_blocks,
        )
        without, whole = AreaKriging(places, local=True).both(components.scores(level[observed]), ~unseen[observed])
        scored.append((without.astype(np.float32), whole.astype(np.float32)))
    return scored
