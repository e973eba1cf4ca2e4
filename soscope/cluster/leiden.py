"""Leiden on enhanced profiles, its resolution by a criterion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.spatial import cKDTree
from sklearn.neighbors import kneighbors_graph

from soscope.cluster.base import UNKNOWN, ClusterMethod, Found, NoClustersError, Source, drawn, numbered_by_size
from soscope.cluster.criteria import CRITERIA, Trial, choose
from soscope.cluster.profiles import profile_scores
from soscope.schema import ClusterConfig

VOTERS = 5
"""Nearest subspots whose majority the others follow."""
VOTES_OF_BLOCK = 2**16


class Leiden(ClusterMethod):
    """Communities of the graph of nearest neighbours between enhanced profiles, found by scanpy.

    The graph has an edge where one of two subspots is among the other's ``cluster.n_neighbours`` nearest. Many subspots are
    represented by ``cluster.fit_on`` of them, drawn at random; the others, and those under no spot, follow their nearest.
    """

    column = "soscope_leiden"
    setting = "resolution"

    def score_name(self, settings: ClusterConfig) -> str:
        """Name the criterion; higher is better."""
        return str(settings.criterion)

    def __call__(self, source: Source, settings: ClusterConfig, seed: int) -> Found:
        """Try all resolutions, and divide by the one the criterion chooses."""
        scores, known = profile_scores(source, settings.n_components, seed)
        usable = np.flatnonzero(known & (source.parent >= 0))
        rows = drawn(usable, settings.fit_on, np.random.default_rng(seed))
        _check_size(len(rows), settings.n_neighbours)
        resolutions = sorted(settings.resolutions)

        def divide(chosen: np.ndarray, seed: int) -> list[np.ndarray]:
            return communities(scores[rows[chosen]], resolutions, settings.n_neighbours, seed)

        partitions = divide(np.arange(len(rows)), seed)
        trial = Trial(scores[rows], source.parent[rows], partitions, divide, seed, source.progress)
        score, error = CRITERIA[settings.criterion](trial)
        n_clusters = np.array([len(np.unique(p)) for p in partitions])
        best = choose(n_clusters, score, error)
        tried = pd.DataFrame({"tried": resolutions, "n_clusters": n_clusters, "score": score, "error": error})
        labels = _assigned(scores, known, rows, partitions[best])
        return Found(numbered_by_size(labels), tried.assign(chosen=tried.index == best))


def _check_size(n_rows: int, n_neighbours: int) -> None:
    least = 2 * (n_neighbours + 1)  # so that four fifths of the spots still have as many neighbours
    if n_rows < least:
        raise NoClustersError(
            f"{n_rows:,} subspots with counts are too few for {n_neighbours} neighbours each: {least} are needed. Lower "
            "cluster.n_neighbours"
        )


def communities(scores: np.ndarray, resolutions: Sequence[float], n_neighbours: int, seed: int) -> list[np.ndarray]:
    """Divide rows by Leiden, at several resolutions of one graph; an array of labels each."""
    import scanpy as sc  # late: it takes seconds to import

    n = len(scores)
    near = kneighbors_graph(scores, min(n_neighbours, n - 1), include_self=False)
    graph = sparse.csr_matrix(near.maximum(near.T))
    found = []
    for resolution in resolutions:
        table = AnnData(obs=pd.DataFrame(index=[str(i) for i in range(n)]))
        sc.tl.leiden(
            table,
            resolution=resolution,
            adjacency=graph,
            flavor="igraph",
            n_iterations=2,
            directed=False,
            random_state=seed,
        )
        found.append(table.obs["leiden"].cat.codes.to_numpy(np.int64))
    return found


def _assigned(scores: np.ndarray, known: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return labels of all subspots: those of the divided rows, of the others by the majority of their nearest."""
    everyone = np.full(len(scores), UNKNOWN)
    everyone[rows] = labels
    others = np.flatnonzero(known & (everyone == UNKNOWN))
    if not len(others):
        return everyone
    tree, n_voters = cKDTree(scores[rows]), min(VOTERS, len(rows))
    for start in range(0, len(others), VOTES_OF_BLOCK):
        block = others[start : start + VOTES_OF_BLOCK]
        nearest = tree.query(scores[block], list(range(1, n_voters + 1)))[1]
        votes = (labels[nearest][:, :, None] == np.arange(labels.max() + 1)).sum(1)
        everyone[block] = votes.argmax(1)
    return everyone
