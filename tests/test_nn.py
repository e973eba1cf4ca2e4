"""Sums over subspots, keyed noise, graph terms, KL: each against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy
from torch_geometric.nn import TransformerConv

from soscope.nn.attention import GraphAttention, Neighbours
from soscope.nn.gaussian import Latent
from soscope.nn.graph_terms import graph_cross_entropy, with_diagonal
from soscope.nn.noise import keyed_dropout, keyed_mask, keyed_normal, keyed_uniform, spot_keys
from soscope.nn.parent import Parent
from soscope.nn.schedule import Exponential
from soscope.nn.sparse import SparseMatrix


def test_parent_sums_with_and_without_the_fast_path() -> None:
    values = torch.randn(12, 3)
    regular = torch.arange(4).repeat_interleave(3)
    shuffled = regular[torch.tensor([3, 1, 2, 0, 4, 5, 6, 9, 8, 7, 10, 11])]
    for index in (regular, shuffled):
        parent = Parent(index, 4)
        expected = torch.stack([values[index == n].sum(0) for n in range(4)])
        torch.testing.assert_close(parent.sum(values), expected)
        torch.testing.assert_close(parent.mean(values), expected / 3)
        torch.testing.assert_close(parent.gather(expected), expected[index])


def test_parent_leaves_out_subspots_under_no_spot() -> None:
    parent = Parent(torch.tensor([0, -1, 2, 2]), 4)
    torch.testing.assert_close(parent.sum(torch.ones(4, 1)), torch.tensor([[1.0], [0], [2], [0]]))
    assert parent.gather(torch.full((4, 1), 7.0))[1] == 0
    with pytest.raises(ValueError, match="parent must lie"):
        Parent(torch.tensor([0, 4]), 4)


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_that_of_torch_geometric(heads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    edges = torch.tensor(
        [[2, 1, 3, 4, 1, 0, 2], [3, 0, 2, 0, 3, 2, 1]]
    )  # from source to target; none leads to the last
    ours = GraphAttention(3, 4, heads).double()
    theirs = TransformerConv(3, 4, heads=heads, edge_dim=1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    weight = torch.rand(7, dtype=torch.float64, generator=generator)
    toward = torch.randn(5, 4 * heads, dtype=torch.float64, generator=generator)
    neighbours = Neighbours(edges, 5)
    found = []
    for layer in (ours, theirs):
        at, number = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = layer(at, neighbours, number[neighbours.order]) if layer is ours else layer(at, edges, number[:, None])
        found.append([out, *torch.autograd.grad((out * toward).sum(), [at, number, *layer.parameters()])])
    for mine, reference in zip(*found, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-11)


def test_noise_depends_on_the_key_and_not_on_order_or_company() -> None:
    keys = spot_keys("liver", ["a", "b", "c", "d"])
    alone = spot_keys("liver", ["c"])
    whole = keyed_normal(3, 17, "z", keys, 5)
    torch.testing.assert_close(whole[2:3], keyed_normal(3, 17, "z", alone, 5))
    for other in (
        keyed_normal(4, 17, "z", keys, 5),
        keyed_normal(3, 18, "z", keys, 5),
        keyed_normal(3, 17, "mask", keys, 5),
    ):
        assert not torch.isclose(whole, other).any()


def test_noise_has_the_distribution_it_claims() -> None:
    keys = spot_keys("s", map(str, range(2000)))
    uniform = keyed_uniform(0, 0, "z", keys, 50)
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert stats.kstest(uniform.ravel().numpy(), "uniform").pvalue > 1e-3
    normal = keyed_normal(0, 1, "z", keys, 50)
    assert torch.isfinite(normal).all()
    assert stats.kstest(normal.ravel().numpy(), "norm").pvalue > 1e-3
    assert abs(np.corrcoef(normal.numpy().T) - np.eye(50)).max() < 0.12
    assert keyed_mask(0, 0, "mask", keys, 0.3).float().mean() == pytest.approx(0.3, abs=0.04)


def dense_definition(vectors: list[torch.Tensor], graph: SparseMatrix) -> torch.Tensor:
    n = len(vectors[0])
    target = torch.eye(n, dtype=torch.float64)
    target[graph.row, graph.col] = graph.weight
    none = torch.ones(n, n, dtype=torch.float64)
    for v in vectors:
        none = none * (1 - torch.sigmoid(v @ v.T))
    return binary_cross_entropy(1 - none, target)


@pytest.fixture
def graph() -> SparseMatrix:
    i = torch.arange(29)
    edges = torch.cat([torch.stack([i, i + 1]), torch.stack([i + 1, i])], 1)
    weight = torch.rand(58, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return SparseMatrix(edges[0], edges[1], weight, (30, 30))


def whole_cross_entropy(vectors: list[torch.Tensor], graph: SparseMatrix, **how: Any) -> torch.Tensor:
    rows = torch.arange(len(vectors[0]))
    return graph_cross_entropy(vectors, with_diagonal(graph, rows >= 0), rows, len(rows), **how)


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
def test_blockwise_graph_term_and_gradient_equal_the_dense_definition(n_modalities: int, graph: SparseMatrix) -> None:
    vectors = [torch.randn(30, 4, dtype=torch.float64, requires_grad=True) for _ in range(n_modalities)]
    dense = dense_definition(vectors, graph)
    ours = whole_cross_entropy(vectors, graph, block=7)
    torch.testing.assert_close(ours, dense)
    for a, b in zip(torch.autograd.grad(ours, vectors), torch.autograd.grad(dense, vectors), strict=True):
        torch.testing.assert_close(a, b)


def test_sampled_graph_term_is_unbiased(graph: SparseMatrix) -> None:
    vectors = [torch.randn(30, 4, dtype=torch.float64)]
    exact = whole_cross_entropy(vectors, graph)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack(
        [
            whole_cross_entropy(vectors, graph, n_pairs=200, draw=lambda n: torch.rand(n, 2, generator=generator))
            for _ in range(400)
        ]
    )
    assert abs(draws.mean() - exact) < 4 * draws.std() / 20
    assert draws.std() > 0


def test_graph_term_survives_extreme_vectors(graph: SparseMatrix) -> None:
    for size in (0.0, 1e-6, 40.0):
        v = (torch.randn(30, 4) * size).requires_grad_()
        loss = whole_cross_entropy([v], SparseMatrix(graph.row, graph.col, graph.weight.float(), graph.shape))
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(v.grad).all()


def test_sparse_product_and_gradient_equal_the_dense_ones() -> None:
    row, col = torch.tensor([2, 0, 0, 3]), torch.tensor([1, 2, 0, 1])
    weight = torch.tensor([1.0, 2, 3, 4])
    matrix = SparseMatrix(row, col, weight, (5, 3))
    dense = torch.zeros(5, 3)
    dense[row, col] = weight
    torch.testing.assert_close(matrix.weight, dense[matrix.row, matrix.col])
    x, weights = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4)
    torch.testing.assert_close(matrix @ x, dense @ x)
    ours, theirs = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (matrix @ x, dense @ x))
    torch.testing.assert_close(ours, theirs)
    chosen = torch.tensor([True, False, True, True, True])
    torch.testing.assert_close(matrix.rows(chosen) @ x, (dense * chosen[:, None]) @ x)


def test_dropout_keeps_the_mean_and_follows_the_key() -> None:
    keys = spot_keys("s", map(str, range(3000)))
    values = torch.ones(3000, 30)
    dropped = keyed_dropout(values, 0, 1, "drop_hidden", keys, 0.3)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert dropped.mean(0) == pytest.approx(np.ones(30), abs=0.08)
    torch.testing.assert_close(dropped[5:9], keyed_dropout(values[5:9], 0, 1, "drop_hidden", keys[5:9], 0.3))
    assert keyed_dropout(values, 0, 1, "drop_hidden", keys, 0.0) is values


def test_kl_equals_torch() -> None:
    mean, scale = torch.randn(6, 5), torch.rand(6, 5) + 0.1
    expected = kl_divergence(Normal(mean, scale), Normal(0, 1)).sum(1)
    torch.testing.assert_close(Latent(mean, scale).kl(), expected)


def test_exponential_schedule() -> None:
    at = [Exponential(1e-2, 1.0, 100, delay=10).at(s) for s in (0, 10, 60, 110, 500)]
    assert at == pytest.approx([1e-2, 1e-2, 1e-1, 1.0, 1.0])
    assert Exponential(0.0, 1.0, 10).at(5) == pytest.approx(0.5)
