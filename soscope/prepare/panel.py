"""Which features are enhanced, and in what form they enter the model."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.decomposition import PCA

from soscope.errors import ConfigError, DataError
from soscope.matrices import to_dense
from soscope.prepare.graphs import neighbour_edges

MIN_CANDIDATES = 1500
FITTED = "fitted"
"""Key in ``uns`` of what a representation has learnt of the sections."""


def choose_features(
    request: object,
    tables: Sequence[AnnData],
    unit_xy: Sequence[np.ndarray],
    radius: float,
    modality: str,
    counted: bool = True,
) -> pd.DataFrame:
    """Choose the features of one modality, the same for all sections.

    Parameters
    ----------
    request
        A number (spatially variable by Moran's I), ``"all"``, a list of names, or a text file with one name a line.
    tables
        Observed counts per section.
    unit_xy, radius
        Spot positions per section in pitches, and the radius within which spots are neighbours.
    modality
        Name of the tables, for messages.
    counted
        Whether the tables hold counts, whose Moran's I is taken of log1p; real values are taken as they are.

    Returns
    -------
    Indexed by feature name, columns ``total`` and ``morans_i``, most variable first for a number.

    Raises
    ------
    DataError
        When sections share no feature, or named features are absent.
    """
    shared = tables[0].var_names
    for table in tables[1:]:
        shared = shared.intersection(table.var_names, sort=False)
    if not len(shared):
        raise DataError(
            f"the sections share no feature of modality '{modality}': their names come from different references."
        )
    total = pd.Series(sum(_column_sums(abs(t[:, shared].X)) for t in tables), index=shared)
    names = _named(request, shared, modality)
    if names is None and request == "all":
        names = shared[(total > 0).to_numpy()].tolist()
    if names is not None:
        return _with_morans(names, total, tables, unit_xy, radius, counted)
    if not isinstance(request, int) or isinstance(request, bool) or request < 1:
        raise ConfigError(
            f"data.features={request!r} is not understood. Give a number, all, a list of names, or a file."
        )
    candidates = total[total > 0].sort_values(ascending=False, kind="stable").index[: max(MIN_CANDIDATES, 3 * request)]
    scored = _with_morans(candidates.tolist(), total, tables, unit_xy, radius, counted)
    return scored.sort_values("morans_i", ascending=False, kind="stable").head(request)


def _named(request: object, shared: pd.Index, modality: str) -> list[str] | None:
    if isinstance(request, str) and request != "all":
        file = Path(request)
        if not file.is_file():
            raise ConfigError(f"data.features='{request}' is neither a number, 'all', a list of names, nor a file.")
        request = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not isinstance(request, list | tuple):
        return None
    names = list(dict.fromkeys(map(str, request)))
    missing = [n for n in names if n not in shared]
    if missing:
        close = difflib.get_close_matches(missing[0], shared.astype(str), n=3)
        hint = f" Did you mean {', '.join(close)}?" if close else ""
        raise DataError(
            f"modality '{modality}': {len(missing)} of {len(names)} features of data.features are not in the data "
            f"(first: '{missing[0]}').{hint}"
        )
    return names


def _with_morans(
    names: list[str],
    total: pd.Series,
    tables: Sequence[AnnData],
    unit_xy: Sequence[np.ndarray],
    radius: float,
    counted: bool,
) -> pd.DataFrame:
    scores = [_morans_i(t[:, names].X, xy, radius, counted) for t, xy in zip(tables, unit_xy, strict=True)]
    return pd.DataFrame({"total": total[names], "morans_i": np.mean(scores, 0)}, index=names)


def _morans_i(x: Any, xy: np.ndarray, radius: float, counted: bool) -> np.ndarray:
    """Moran's I of log1p counts or real values, row-normalised weights between lattice neighbours; 0 where undefined."""
    edges = neighbour_edges(xy, radius)
    if not edges.shape[1]:
        return np.zeros(x.shape[1])
    degree = np.bincount(edges[0], minlength=len(xy))
    graph = sparse.csr_matrix((1.0 / degree[edges[0]], (edges[0], edges[1])), shape=(len(xy), len(xy)))
    values = sparse.csr_matrix(x).astype(np.float64)
    values = (values.log1p() if counted else values).T.tocsr()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*variables were constant")  # they get 0 below
        return np.nan_to_num(np.asarray(sc.metrics.morans_i(graph, values)))


def _column_sums(x: Any) -> np.ndarray:
    return np.asarray(x.sum(0)).ravel()


# What the model sees of the chosen counts -----------------------------------------------------------------------------

Represent = Callable[[Sequence[AnnData], Sequence[np.ndarray], dict[str, Any]], list[AnnData]]


def as_given(tables: Sequence[AnnData], library: Sequence[np.ndarray], options: dict[str, Any]) -> list[AnnData]:
    """Keep the table as it is."""
    return list(tables)


def as_lognorm(tables: Sequence[AnnData], library: Sequence[np.ndarray], options: dict[str, Any]) -> list[AnnData]:
    """log1p of counts normalised to the median library size over all sections, kept in ``uns["fitted"]``; dense."""
    known = options.get(FITTED) or {}
    median = float(known["target"] if known else np.median(np.concatenate([size[size > 0] for size in library])))
    return [
        AnnData(
            X=np.log1p(to_dense(t.X) / np.maximum(size, 1)[:, None] * median).astype(np.float32),
            obs=t.obs,
            var=t.var,
            uns={FITTED: {"target": median}},
        )
        for t, size in zip(tables, library, strict=True)
    ]


def as_components(tables: Sequence[AnnData], library: Sequence[np.ndarray], options: dict[str, Any]) -> list[AnnData]:
    """Leading principal components of the standardised lognorm profiles of all sections together.

    What leads back to features is kept in ``uns["fitted"]``: loadings ``(n_components, n_features)``, features, mean, sd,
    target. Features that a later section lacks count as average there.
    """
    normal = as_lognorm(tables, library, options)
    stacked = np.concatenate([t.X for t in normal])
    known = dict(options.get(FITTED) or {}) or _fit_components(stacked, normal[0], int(options.get("n_components", 20)))
    place = pd.Index(np.asarray(known["features"]).astype(str)).get_indexer(normal[0].var_names)
    mean, sd, loadings = (np.asarray(known[name]) for name in ("mean", "sd", "loadings"))
    scores = ((stacked - mean[place]) / np.where(sd > 0, sd, 1)[place] @ loadings[:, place].T).astype(np.float32)
    rows = np.split(scores, np.cumsum([t.n_obs for t in normal])[:-1])
    var = pd.DataFrame(index=[f"PC{i + 1}" for i in range(len(loadings))])
    return [AnnData(X=part, obs=t.obs, var=var, uns={FITTED: known}) for part, t in zip(rows, normal, strict=True)]


def _fit_components(stacked: np.ndarray, table: AnnData, n: int) -> dict[str, Any]:
    mean, spread = stacked.mean(0), stacked.std(0)
    pca = PCA(min(n, *stacked.shape), svd_solver="full").fit((stacked - mean) / np.where(spread > 0, spread, 1))
    kept = {"loadings": pca.components_, "features": table.var_names.to_numpy(), "mean": mean, "sd": spread}
    return kept | {"target": table.uns[FITTED]["target"]}


@dataclass(frozen=True)
class Representation:
    """How chosen features enter the model, and whether the tables have to hold counts for that."""

    make: Represent
    needs_counts: bool

    @property
    def keeps_units(self) -> bool:
        """Whether profiles stay what was measured, so that those of subspots add up to their spot's."""
        return self.make is as_given


REPRESENTATIONS = {
    "counts": Representation(as_given, True),
    "values": Representation(as_given, False),
    "lognorm": Representation(as_lognorm, True),
    "components": Representation(as_components, True),
}


def representation_of(name: str) -> Representation:
    """Return a registered representation; an unknown name raises `ConfigError` with the choices."""
    if name not in REPRESENTATIONS:
        raise ConfigError(f"representation '{name}' is unknown. Choose from: {', '.join(REPRESENTATIONS)}.")
    return REPRESENTATIONS[name]


def represent(name: str, tables: Sequence[AnnData], library: Sequence[np.ndarray], **options: Any) -> list[AnnData]:
    """Bring the chosen features into the form a likelihood models; an unknown name raises `ConfigError`."""
    return representation_of(name).make(tables, library, options)
