"""What a way to group subspots is given, gives back, and has to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.decomposition import PCA

from soscope.schema import ClusterConfig

UNKNOWN = -1
"""Label of subspots that nothing is known of."""
CONSTANT = 1e-10
"""Components whose variance is below this share of the values' mean square, or of the first component's, hold nothing."""
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Goes through parts of a long task and shows how far it is: the parts, what is done, how many there are."""


class NoClustersError(Exception):
    """There is nothing to be grouped: too few spots, or values that do not vary. The run goes on without."""


@dataclass(frozen=True)
class StoredProfiles:
    """Enhanced profiles of a modality: ``values`` ``(n_subspots, n_features)``, which may lie on disk; counts or real values."""

    values: Any
    counted: bool


@dataclass(frozen=True)
class Source:
    """What of a finished section can be grouped.

    Attributes
    ----------
    latent
        Latent means of spots, ``(n_spots, n_latent)``.
    at
        Weights by which they continue to subspots, ``(n_subspots, n_spots)``.
    parent
        Spot of each subspot, -1 under no spot.
    profiles
        Enhanced profiles, a table per modality.
    progress
        Shows how far long parts are.
    """

    latent: np.ndarray
    at: sparse.csr_matrix
    parent: np.ndarray
    profiles: Sequence[StoredProfiles]
    progress: Progress = lambda parts, what, n_parts: parts


@dataclass(frozen=True)
class Found:
    """Groups of subspots, and what else was tried.

    Attributes
    ----------
    labels
        Group of each subspot from 0, the largest first; `UNKNOWN` where nothing is known, ``(n_subspots,)``.
    tried
        One row per setting: ``tried`` (its value), ``n_clusters``, ``score``, ``error`` (standard error of the score, 0
        where it has none) and ``chosen``.
    """

    labels: np.ndarray
    tried: pd.DataFrame


class ClusterMethod(ABC):
    """A way to group the subspots of a section that settles by itself how many groups there are.

    A new one is a class like this and a row of `soscope.cluster.methods.METHODS`.
    """

    column: ClassVar[str]
    """Column of ``obs`` its labels are kept in."""
    setting: ClassVar[str]
    """What is tried, in words."""

    @abstractmethod
    def score_name(self, settings: ClusterConfig) -> str:
        """Say what ``score`` is."""

    @abstractmethod
    def __call__(self, source: Source, settings: ClusterConfig, seed: int) -> Found:
        """Group the subspots.

        Parameters
        ----------
        source
            Of one section.
        settings
            The settings ``cluster.*``.
        seed
            The same gives the same labels.

        Raises
        ------
        NoClustersError
            When there is nothing to be grouped.
        """


def numbered_by_size(labels: np.ndarray) -> np.ndarray:
    """Number groups from 0, the largest first; `UNKNOWN` stays."""
    known = labels >= 0
    order = np.argsort(-np.bincount(labels[known]), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return np.where(known, rank[np.where(known, labels, 0)], UNKNOWN)


def principal_axes(values: np.ndarray, n_components: int, seed: int, what: str) -> PCA:
    """Return a fitted PCA without the components that hold nothing.

    Parameters
    ----------
    values
        ``(n_rows, n_columns)``.
    n_components
        Components kept, at most.
    seed
        Of the solver.
    what
        What the values are, for the error.
    """
    with np.errstate(invalid="ignore"):  # shares of a variance of zero
        pca = PCA(min(n_components, *values.shape), random_state=seed).fit(values)
    least = CONSTANT * max(float(np.square(values).mean()), float(pca.explained_variance_[0]))
    n_kept = int((pca.explained_variance_ > least).sum())
    if not n_kept:
        raise NoClustersError(f"{what} do not vary")
    pca.components_ = pca.components_[:n_kept]
    pca.explained_variance_ = pca.explained_variance_[:n_kept]
    return pca


def drawn(candidates: np.ndarray, largest: int, rng: np.random.Generator) -> np.ndarray:
    """Return the candidates, or ``largest`` of them drawn at random, in order."""
    return candidates if len(candidates) <= largest else np.sort(rng.choice(candidates, largest, replace=False))
