"""Cross-entropy between a graph and the pair probabilities a set of vectors implies, over all pairs.

The dense definition averages over all ``n * n`` ordered pairs, the diagonal having weight one (Li et al. 2024, the image
term of the objective). It splits into a sum over all pairs that knows nothing of the graph and a sum over edges:

    [ sum_ij S_ij  -  sum_(i,j) W_ij log(expm1(S_ij)) ] / n^2,      S_ij = sum_k softplus(e_ki . e_kj)

where ``k`` runs over modalities. With one modality ``log(expm1(softplus(s))) = s``; with two the pair probability is
``p1 + p2 - p1 p2``. Only the first sum touches all pairs; it is exact in blocks, or estimated from sampled pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.utils.checkpoint import checkpoint

from soscope.nn.sparse import SparseMatrix

EXACT_UP_TO = 2048
"""Rows up to which the all-pairs sum is exact under ``n_pairs=None``."""
DEFAULT_PAIRS = 512 * 512
"""Sampled ordered pairs above that: 512 random rows against 512 random columns."""

PairDraw = Callable[[int], Tensor]
PairCost = Callable[[Sequence[Tensor]], Tensor]
"""From the inner products of pairs, one tensor per modality, to the cost of each pair if there is no edge."""


def graph_cross_entropy(
    vectors: Sequence[Tensor],
    graph: SparseMatrix,
    *,
    core: Tensor | None = None,
    n_total: int | None = None,
    n_pairs: int | None = None,
    draw: PairDraw | None = None,
    block: int = 1024,
) -> Tensor:
    """Return the cross-entropy of a weighted graph given one set of vectors per modality.

    Parameters
    ----------
    vectors
        One tensor per modality, shape ``(n, width)``.
    graph
        Weights in [0, 1] of directed edges, without self-loops, ``(n, n)``.
    core
        Rows that count, boolean ``(n,)``; an edge belongs to its source, a pair to its first member. All by default.
    n_total
        Rows of the whole section when ``vectors`` is a part of it; sums are scaled to it. Default ``n``.
    n_pairs
        ``None`` chooses by size, 0 is exact, more is the number of sampled pairs.
    draw
        ``draw(n)`` gives uniforms ``(n, 2)``; needed when sampling.
    block
        Rows per block of the exact sum; memory is ``n * block``.
    """
    n = vectors[0].shape[0]
    total = n if n_total is None else n_total
    if core is None:
        core = torch.ones(n, dtype=torch.bool, device=vectors[0].device)
    rows = core.nonzero()[:, 0]
    everywhere = all_pairs(_unlinked, vectors, rows, n_pairs, draw, block) * (total / n)
    return (everywhere - _linked(vectors, graph.rows(core), rows)) / total**2


def _unlinked(products: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, map(softplus, products))


def _linked(vectors: Sequence[Tensor], graph: SparseMatrix, rows: Tensor) -> Tensor:
    """Return the sum over edges and the diagonal of weight times log odds."""
    if len(vectors) == 1:  # log odds are s_ij itself, so the sum is a quadratic form
        v = vectors[0]
        return (v * (graph @ v)).sum() + v[rows].square().sum()
    edges = _log_expm1(_pair_cost(vectors, graph.row, graph.col))
    return (graph.weight * edges).sum() + _log_expm1(_pair_cost(vectors, rows, rows)).sum()


def all_pairs(
    cost: PairCost,
    vectors: Sequence[Tensor],
    rows: Tensor,
    n_pairs: int | None,
    draw: PairDraw | None,
    block: int = 1024,
) -> Tensor:
    """Return the sum of ``cost`` over pairs of a chosen row and any row: exact, or the unbiased estimate from sampled ones.

    The other arguments are those of `graph_cross_entropy`.
    """
    n = vectors[0].shape[0]
    if n_pairs is None:
        n_pairs = 0 if n <= EXACT_UP_TO else DEFAULT_PAIRS
    if n_pairs == 0:
        return _exact_sum(cost, vectors, rows, block)
    if draw is None:
        raise ValueError("sampled pairs need a source of random numbers: pass draw=")
    uniform = draw(math.isqrt(n_pairs - 1) + 1)
    i = rows[(uniform[:, 0] * rows.numel()).long().clamp(max=rows.numel() - 1)]
    j = (uniform[:, 1] * n).long().clamp(max=n - 1)
    return cost([v[i] @ v[j].T for v in vectors]).mean() * (rows.numel() * n)


def _exact_sum(cost: PairCost, vectors: Sequence[Tensor], rows: Tensor, block: int) -> Tensor:
    def one(rows: Tensor, *vectors: Tensor) -> Tensor:
        return cost([v[rows] @ v.T for v in vectors]).sum()

    total = vectors[0].new_zeros(())
    for part in rows.split(block):
        total = total + checkpoint(one, part, *vectors, use_reentrant=False)
    return total


def _pair_cost(vectors: Sequence[Tensor], i: Tensor, j: Tensor) -> Tensor:
    return torch.stack([softplus((v[i] * v[j]).sum(-1)) for v in vectors]).sum(0)


def _log_expm1(x: Tensor) -> Tensor:
    """Return ``log(exp(x) - 1)`` for ``x > 0`` without overflow."""
    return x + torch.log(-torch.expm1(-x.clamp(min=1e-12)))
