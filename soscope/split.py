"""The result of splitting spots into subspots, the same type for the model and for every baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from scipy import sparse

from soscope.matrices import Matrix, to_dense
from soscope.nn.parent import Parent

Cdf: TypeAlias = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass
class Split:
    """Profiles of subspots with their uncertainty.

    Attributes
    ----------
    mean
        Expected profile, ``(n_subspots, n_features)``; sparse for counts (zero wherever the spot is).
    sd
        Standard deviation in the units of ``mean``, same shape; ``None`` when the method states none.
    quantiles
        Quantile level to values of the same shape, such as ``{0.05: ..., 0.95: ...}``.
    draws
        Posterior draws, each of the same shape; empty when none were asked for.
    cdf
        From values of the same shape to the probabilities of less than, and of at most, each; ``None`` when the method
        states no distribution.
    """

    mean: Matrix
    sd: Matrix | None = None
    quantiles: dict[float, Matrix] = field(default_factory=dict)
    draws: list[Matrix] = field(default_factory=list)
    cdf: Cdf | None = None

    def __post_init__(self) -> None:
        others = {"sd": self.sd, **{f"quantile {q}": v for q, v in self.quantiles.items()}}
        others |= {f"draw {i}": v for i, v in enumerate(self.draws)}
        for name, value in others.items():
            if value is not None and value.shape != self.mean.shape:
                raise ValueError(f"{name} has shape {value.shape}, the mean {self.mean.shape}")

    @classmethod
    def stack_features(cls, parts: list[Split]) -> Split:
        """Join splits of different features of the same subspots."""
        first = parts[0]

        def join(pick: list[Matrix]) -> Matrix:
            return sparse.hstack(pick, format="csr") if sparse.issparse(pick[0]) else np.concatenate(pick, 1)

        return cls(
            mean=join([p.mean for p in parts]),
            sd=None if first.sd is None else join([p.sd for p in parts if p.sd is not None]),
            quantiles={q: join([p.quantiles[q] for p in parts]) for q in first.quantiles},
            draws=[join([p.draws[i] for p in parts]) for i in range(len(first.draws))],
            cdf=_stack_cdfs(parts),
        )

    def rows(self, chosen: np.ndarray) -> Split:
        """Return the split of some subspots, without its draws and distribution function."""
        sd = None if self.sd is None else self.sd[chosen]
        return Split(self.mean[chosen], sd, {q: v[chosen] for q, v in self.quantiles.items()})

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return mean, deviation and quantiles as plain arrays by name; draws and distribution function are left out."""
        named = {"mean": self.mean, **({} if self.sd is None else {"sd": self.sd})}
        named |= {f"quantile_{level}": v for level, v in self.quantiles.items()}
        plain: dict[str, np.ndarray] = {}
        for name, value in named.items():
            if isinstance(value, sparse.csr_matrix):
                parts = {"data": value.data, "indices": value.indices, "indptr": value.indptr, "shape": value.shape}
                plain |= {f"{name}:{part}": np.asarray(array) for part, array in parts.items()}
            else:
                plain[name] = value
        return plain

    @classmethod
    def from_arrays(cls, plain: dict[str, np.ndarray]) -> Split:
        """Return what `to_arrays` came from."""
        values: dict[str, Matrix] = {name: array for name, array in plain.items() if ":" not in name}
        for name in {key.partition(":")[0] for key in plain if ":" in key}:
            data, indices, indptr, shape = (plain[f"{name}:{p}"] for p in ("data", "indices", "indptr", "shape"))
            values[name] = sparse.csr_matrix((data, indices, indptr), shape=tuple(shape))
        levels = {n: float(n.removeprefix("quantile_")) for n in values if n.startswith("quantile_")}
        return cls(values["mean"], values.get("sd"), {levels[n]: values[n] for n in sorted(levels)})


def _stack_cdfs(parts: list[Split]) -> Cdf | None:
    ends = np.cumsum([p.mean.shape[1] for p in parts])[:-1]
    functions = [p.cdf for p in parts if p.cdf is not None]
    if len(functions) < len(parts):
        return None

    def cdf(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sides = [f(v) for f, v in zip(functions, np.split(value, ends, axis=1), strict=True)]
        return np.concatenate([below for below, _ in sides], 1), np.concatenate([at for _, at in sides], 1)

    return cdf


def conservation_error(split: Split, observed: Matrix, parent: Parent, average: bool = False) -> float:
    """Return the largest of `conservation_errors` over features."""
    return float(np.max(conservation_errors(split, observed, parent, average), initial=0.0))


def conservation_errors(split: Split, observed: Matrix, parent: Parent, average: bool = False) -> np.ndarray:
    """Return the largest relative difference between a spot's value and what its subspots' means add up to.

    Parameters
    ----------
    split
        Means of subspots.
    observed
        Profiles of spots, ``(n_spots, n_features)``.
    parent
        Spot of each subspot. Spots without subspots are left out.
    average
        Whether a spot is the average of its subspots, not their sum.

    Returns
    -------
    Per feature, ``(n_features,)``, relative to ``max(1, |observed|)``.
    """
    index, count = parent.index.cpu().numpy(), parent.n_per_spot.cpu().numpy()
    inside, has = index >= 0, count > 0
    weight = 1 / count[index[inside]] if average else np.ones(inside.sum())
    shape = (parent.n_spots, len(index))
    total = to_dense(sparse.csr_matrix((weight, (index[inside], np.flatnonzero(inside))), shape) @ split.mean)[has]
    truth = to_dense(observed, np.float64)[has]
    return np.max(np.abs(total - truth) / np.maximum(1.0, np.abs(truth)), axis=0, initial=0.0)
