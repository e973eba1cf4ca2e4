"""Baselines that look at the image alone: ridge regression on spots' mean image features, penalty by leave-one-out error."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import RidgeCV

from soscope.benchmark.observed import Observed
from soscope.benchmark.registry import baseline
from soscope.split import Split

ALPHAS = np.logspace(-1, 5, 25)


@baseline(needs_counts=True, needs_image=True)
def ridge_to_totals(observed: Observed) -> Split:
    """Predict log1p counts per subspot from image features, then restore totals."""
    return observed.with_totals(np.expm1(predict(observed, np.log1p(observed.level[observed.used]))))


@baseline(needs_counts=True, needs_image=True)
def total_counts(observed: Observed) -> Split:
    """Predict log library size from image features and divide every feature by it alike.

    Spots without counts are not learned from.
    """
    library = observed.profiles.library_size[observed.used].astype(np.float64)
    log_library = predict(observed, np.log(np.maximum(library, 1))[:, None], library > 0)
    return observed.with_totals(np.repeat(np.exp(log_library), observed.x.shape[1], 1))


def predict(observed: Observed, values: np.ndarray, learn_from: np.ndarray | None = None) -> np.ndarray:
    """Predict subspots from their image features.

    Parameters
    ----------
    observed
        Image features, standardised over subspots.
    values
        Of the spots that have subspots, ``(n_used, n_targets)``.
    learn_from
        Which of these spots to learn from; all by default. From fewer than three nothing is learned.

    Returns
    -------
    Predicted values, ``(n_subspots, n_targets)``.
    """
    rows = np.ones(len(values), dtype=bool) if learn_from is None else learn_from
    image = observed.section.image_features[:].astype(np.float64)
    if rows.sum() < 3:
        return np.zeros((len(image), values.shape[1]))
    image = (image - image.mean(0)) / _or_one(image.std(0))
    means = (observed.average @ image)[rows]
    return RidgeCV(ALPHAS).fit(means, values[rows]).predict(image).reshape(len(image), -1)


def _or_one(spread: np.ndarray) -> np.ndarray:
    return np.where(spread > 1e-9, spread, 1)
