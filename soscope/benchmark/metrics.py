"""How right a split is, given the true subspot profiles."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torchmetrics.functional import pearson_corrcoef

from soscope.matrices import Matrix, to_dense


def pearson(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return Pearson's r of each feature across subspots, ``(n_features,)``; 0 where either side is constant."""
    varies = (predicted.std(0) > 1e-12) & (truth.std(0) > 1e-12)
    r = np.zeros(truth.shape[1])
    if varies.any():
        a, b = (torch.as_tensor(np.asarray(v[:, varies], dtype=np.float64)) for v in (predicted, truth))
        r[varies] = np.atleast_1d(pearson_corrcoef(a, b).numpy())
    return r


def within_spot_pearson(predicted: np.ndarray, truth: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Return Pearson's r of each feature after both sides' spot means are taken off: zero for equal division."""
    return pearson(_within(predicted, parent), _within(truth, parent))


def normalised_mse(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the mean squared error of each feature divided by the truth's variance."""
    variance = truth.var(0)
    return ((predicted - truth) ** 2).mean(0) / np.where(variance > 0, variance, 1)


def score(predicted: Matrix, truth: Matrix, parent: np.ndarray) -> dict[str, np.ndarray]:
    """Return every metric per feature; subspots under no spot are left out."""
    inside = parent >= 0
    p, t = (to_dense(m, np.float64)[inside] for m in (predicted, truth))
    return {
        "pearson": pearson(p, t),
        "within_spot_r": within_spot_pearson(p, t, parent[inside]),
        "nmse": normalised_mse(p, t),
    }


def _within(values: np.ndarray, parent: np.ndarray) -> np.ndarray:
    spots, index = np.unique(parent, return_inverse=True)
    which = sparse.csr_matrix((np.ones(len(index)), (index, np.arange(len(index)))), shape=(len(spots), len(index)))
    mean = (which @ values) / np.bincount(index)[:, None]
    return values - mean[index]
