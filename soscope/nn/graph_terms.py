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
from dataclasses import dataclass
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


@dataclass
class Products:
    """Inner products of one modality's vectors where a step looks at them; those of blocks of columns add up.

    Attributes
    ----------
    edges
        Of the ends of every edge from a core row, then of every core row with itself, ``(n_edges + n_core,)``; where there is
        one modality, their weighted sum.
    sampled
        Of the sampled rows and columns, ``(n_sampled, n_sampled)``.
    """

    edges: Tensor
    sampled: Tensor

    def __add__(self, other: Products) -> Products:
        return Products(self.edges + other.edges, self.sampled + other.sampled)


class SampledPairs:
    """The cross-entropy of a graph, its all-pairs part estimated without bias from pairs sampled for this step.

    Parameters
    ----------
    graph, core, n_total
        As for `graph_cross_entropy`.
    n_pairs
        Number of sampled pairs: a random square of rows against columns.
    draw
        ``draw(n)`` gives uniforms ``(n, 2)``.
    n_modalities
        Sets of vectors there are. With one, log odds are the inner products themselves, so that only their sum is needed.
    """

    def __init__(
        self, graph: SparseMatrix, core: Tensor, n_total: int, n_pairs: int, draw: PairDraw, n_modalities: int = 1
    ) -> None:
        self.graph, self.n, self.n_total, self.single = graph, len(core), n_total, n_modalities == 1
        self.rows = core.nonzero()[:, 0]
        self.core = core[:, None]
        uniform = draw(math.isqrt(n_pairs - 1) + 1)
        n_rows = self.rows.numel()
        self.i = self.rows[(uniform[:, 0] * n_rows).long().clamp(max=n_rows - 1)]
        self.j = (uniform[:, 1] * self.n).long().clamp(max=self.n - 1)
        if not self.single:
            kept = core[graph.row]
            self.edges = graph.row[kept], graph.col[kept], graph.weight[kept]

    def products(self, vectors: Tensor) -> Products:
        """Return the products of some columns of one modality's vectors, ``(n, width)``."""
        sampled = vectors[self.i] @ vectors[self.j].T
        own = vectors * self.core
        if self.single:
            return Products((own * (self.graph @ vectors + vectors)).sum(), sampled)
        i, j, _ = self.edges
        return Products(torch.cat([(vectors[i] * vectors[j]).sum(-1), vectors[self.rows].square().sum(-1)]), sampled)

    def __call__(self, products: Sequence[Products]) -> Tensor:
        """Return the cross-entropy, from the products of every modality."""
        everywhere = _unlinked([p.sampled for p in products]).mean() * (self.rows.numel() * self.n_total)
        if self.single:
            return (everywhere - products[0].edges) / self.n_total**2
        odds = _log_expm1(_unlinked([p.edges for p in products]))
        weight = torch.cat([self.edges[2], torch.ones_like(self.rows, dtype=odds.dtype)])
        return (everywhere - (weight * odds).sum()) / self.n_total**2


def pairs_to_sample(n: int, n_pairs: int | None) -> int:
    """Return how many pairs of ``n`` rows are sampled under a setting; 0 for the exact sum."""
    if n_pairs is None:
        return 0 if n <= EXACT_UP_TO else DEFAULT_PAIRS
    return n_pairs


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
    sampled = pairs_to_sample(n, n_pairs)
    if sampled:
        term = SampledPairs(graph, core, total, sampled, _drawing(draw), len(vectors))
        return term([term.products(v) for v in vectors])
    rows = core.nonzero()[:, 0]
    everywhere = _exact_sum(_unlinked, vectors, rows, block) * (total / n)
    return (everywhere - _linked(vectors, graph, core, rows)) / total**2


def _drawing(draw: PairDraw | None) -> PairDraw:
    if draw is None:
        raise ValueError("sampled pairs need a source of random numbers: pass draw=")
    return draw


def _unlinked(products: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, map(softplus, products))


def _linked(vectors: Sequence[Tensor], graph: SparseMatrix, core: Tensor, rows: Tensor) -> Tensor:
    """Return the sum over edges and the diagonal of weight times log odds."""
    if len(vectors) == 1:  # log odds are s_ij itself, so the sum is a quadratic form
        v = vectors[0]
        return (v * core[:, None] * (graph @ v + v)).sum()
    kept = core[graph.row]
    edges = _log_expm1(_pair_cost(vectors, graph.row[kept], graph.col[kept]))
    return (graph.weight[kept] * edges).sum() + _log_expm1(_pair_cost(vectors, rows, rows)).sum()


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
    n_pairs = pairs_to_sample(n, n_pairs)
    if n_pairs == 0:
        return _exact_sum(cost, vectors, rows, block)
    uniform = _drawing(draw)(math.isqrt(n_pairs - 1) + 1)
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
