"""The published cross-entropy over pairs: from probabilities in single precision, with what that does to large products.

It takes ``binary_cross_entropy(sigmoid(s), w)`` where `soscope.nn.graph_terms` takes the same from ``s`` itself. Beyond
``s = 17`` or so the probability is exactly one, the cost of a pair is cut at 100 and its gradient is zero. Raw residuals of
counts are mostly there, so this decides what the published term can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy

from soscope.nn.graph_terms import PairDraw, all_pairs
from soscope.nn.sparse import SparseMatrix


def saturating_cross_entropy(
    vectors: Sequence[Tensor],
    graph: SparseMatrix,
    core: Tensor,
    n_total: int,
    n_pairs: int | None = None,
    draw: PairDraw | None = None,
) -> Tensor:
    """Return the average over all ordered pairs of the cross-entropy between graph and pair probability.

    Arguments are those of `soscope.nn.graph_terms.graph_cross_entropy`, with the graph itself and ``core``, the rows that count,
    boolean ``(n,)``. It is linear in the weights, so it splits in the
    same way into a sum over all pairs as if there were no edges, and what the edges and the diagonal take off it.
    """
    rows = core.nonzero()[:, 0]
    everywhere = all_pairs(_unlinked, vectors, rows, n_pairs, draw) * (n_total / len(core))
    edges = graph.rows(core)
    i, j = torch.cat([edges.row, rows]), torch.cat([edges.col, rows])
    weight = torch.cat([edges.weight, torch.ones_like(rows, dtype=edges.weight.dtype)])
    p = _probability([(v[i] * v[j]).sum(-1) for v in vectors])
    return (everywhere - (_cost(p, torch.zeros_like(p)) - _cost(p, weight)).sum()) / n_total**2


def _probability(products: Sequence[Tensor]) -> Tensor:
    """Return ``sigmoid(s)``; of several modalities that at least one says there is an edge."""
    return reduce(lambda p, q: p + q - p * q, map(torch.sigmoid, products))


def _unlinked(products: Sequence[Tensor]) -> Tensor:
    p = _probability(products)
    return _cost(p, torch.zeros_like(p))


def _cost(p: Tensor, weight: Tensor) -> Tensor:
    return binary_cross_entropy(p, weight, reduction="none")
