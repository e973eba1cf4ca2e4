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

EXACT_UP_TO = 1024
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
        Of the ends of every edge and of rows with themselves, ``(n_entries,)``; where there is one modality, their weighted sum.
    sampled
        Of the sampled rows and columns, ``(n_sampled, n_sampled)``.
    """

    edges: Tensor
    sampled: Tensor

    def __add__(self, other: Products) -> Products:
        return Products(self.edges + other.edges, self.sampled + other.sampled)


def with_diagonal(graph: SparseMatrix, core: Tensor, counted: Tensor | None = None) -> SparseMatrix:
    """Return what the edges of a step are: those from core rows, with their weights, and ones on the diagonal.

    Parameters
    ----------
    graph
        Without self-loops, ``(n, n)``.
    core
        Rows that count, boolean ``(n,)``.
    counted
        Rows an edge may lead to; all by default.
    """
    kept = core[graph.row] if counted is None else core[graph.row] & counted[graph.col]
    own = core.nonzero()[:, 0]
    row, col = torch.cat([graph.row[kept], own]), torch.cat([graph.col[kept], own])
    return SparseMatrix(row, col, torch.cat([graph.weight[kept], graph.weight.new_ones(len(own))]), graph.shape)


class SampledPairs:
    """The cross-entropy of a graph, its all-pairs part estimated without bias from pairs sampled for this step.

    Parameters
    ----------
    edges
        From `with_diagonal`.
    rows
        Rows that count, ``(n_core,)``: the first members of pairs.
    counted
        Rows whose vectors are not taken as zero, boolean ``(n,)``.
    n_total
        Rows of the whole section.
    n_pairs
        Number of sampled pairs: a random square of rows against columns.
    draw
        ``draw(n)`` gives uniforms ``(n, 2)``.
    n_modalities
        Sets of vectors there are. With one, log odds are the inner products themselves, so that only their sum is needed.
    """

    def __init__(
        self,
        edges: SparseMatrix,
        rows: Tensor,
        counted: Tensor,
        n_total: int,
        n_pairs: int,
        draw: PairDraw,
        n_modalities: int = 1,
    ) -> None:
        self.edges, self.n_rows, self.n_total, self.single = edges, len(rows), n_total, n_modalities == 1
        self.i, self.j = draw_pairs(rows, len(counted), n_pairs, draw)
        self.counted = counted[self.j, None]

    def products(self, vectors: Tensor) -> Products:
        """Return the products of some columns of one modality's vectors, ``(n, width)``."""
        if self.single:
            edges, ends = self.edges.quadratic(vectors, torch.cat([self.i, self.j]))
            first, second = ends.split([len(self.i), len(self.j)])
        else:
            edges = (vectors[self.edges.row] * vectors[self.edges.col]).sum(-1)
            first, second = vectors[self.i], vectors[self.j]
        return Products(edges, first @ (second * self.counted).T)

    def __call__(self, products: Sequence[Products]) -> Tensor:
        """Return the cross-entropy, from the products of every modality."""
        everywhere = _unlinked([p.sampled for p in products]).mean() * (self.n_rows * self.n_total)
        if self.single:
            return (everywhere - products[0].edges) / self.n_total**2
        odds = _log_expm1(_unlinked([p.edges for p in products]))
        return (everywhere - (self.edges.weight * odds).sum()) / self.n_total**2


def draw_pairs(rows: Tensor, n: int, n_pairs: int, draw: PairDraw) -> tuple[Tensor, Tensor]:
    """Draw as many of ``rows`` and of all ``n`` rows, so that at least ``n_pairs`` pairs are looked at."""
    uniform = draw(math.isqrt(n_pairs - 1) + 1)
    i = rows[(uniform[:, 0] * len(rows)).long().clamp(max=len(rows) - 1)]
    return i, (uniform[:, 1] * n).long().clamp(max=n - 1)


def pairs_to_sample(n: int, n_pairs: int | None) -> int:
    """Return how many pairs of ``n`` rows are sampled under a setting; 0 for the exact sum."""
    if n_pairs is None:
        return 0 if n <= EXACT_UP_TO else DEFAULT_PAIRS
    return n_pairs


def graph_cross_entropy(
    vectors: Sequence[Tensor],
    edges: SparseMatrix,
    rows: Tensor,
    n_total: int,
    n_pairs: int | None = None,
    draw: PairDraw | None = None,
    block: int = 1024,
) -> Tensor:
    """Return the cross-entropy of a weighted graph given one set of vectors per modality.

    Parameters
    ----------
    vectors
        One tensor per modality, shape ``(n, width)``.
    edges
        From `with_diagonal`: an edge belongs to its source.
    rows
        Rows that count, ``(n_core,)``; a pair belongs to its first member.
    n_total
        Rows of the whole section, of which ``vectors`` may be a part; sums are scaled to it.
    n_pairs
        ``None`` chooses by size, 0 is exact, more is the number of sampled pairs.
    draw
        ``draw(n)`` gives uniforms ``(n, 2)``; needed when sampling.
    block
        Rows per block of the exact sum; memory is ``n * block``.
    """
    n = len(vectors[0])
    sampled = pairs_to_sample(n, n_pairs)
    if sampled:
        counted = torch.ones(n, dtype=torch.bool, device=rows.device)
        term = SampledPairs(edges, rows, counted, n_total, sampled, _drawing(draw), len(vectors))
        return term([term.products(v) for v in vectors])
    everywhere = _exact_sum(_unlinked, vectors, rows, block) * (n_total / n)
    return (everywhere - _linked(vectors, edges)) / n_total**2


def _drawing(draw: PairDraw | None) -> PairDraw:
    if draw is None:
        raise ValueError("sampled pairs need a source of random numbers: pass draw=")
    return draw


def _unlinked(products: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, map(softplus, products))


def _linked(vectors: Sequence[Tensor], edges: SparseMatrix) -> Tensor:
    """Return the sum over edges and the diagonal of weight times log odds."""
    if len(vectors) == 1:  # log odds are s_ij itself, so the sum is a quadratic form
        return edges.quadratic(vectors[0])[0]
    odds = _unlinked([(v[edges.row] * v[edges.col]).sum(-1) for v in vectors])
    return (edges.weight * _log_expm1(odds)).sum()


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
    i, j = draw_pairs(rows, n, n_pairs, _drawing(draw))
    return cost([v[i] @ v[j].T for v in vectors]).mean() * (rows.numel() * n)


def _exact_sum(cost: PairCost, vectors: Sequence[Tensor], rows: Tensor, block: int) -> Tensor:
    def one(rows: Tensor, *vectors: Tensor) -> Tensor:
        return cost([v[rows] @ v.T for v in vectors]).sum()

    total = vectors[0].new_zeros(())
    for part in rows.split(block):
        total = total + checkpoint(one, part, *vectors, use_reentrant=False)
    return total


def _log_expm1(x: Tensor) -> Tensor:
    """Return ``log(exp(x) - 1)`` for ``x > 0`` without overflow."""
    return x + torch.log(-torch.expm1(-x.clamp(min=1e-12)))
