"""Constant sparse matrices that multiply dense ones."""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class SparseMatrix:
    """A constant matrix in compressed rows, and its transpose for the backward pass.

    Parameters
    ----------
    row, col, weight
        One entry per non-zero, each ``(n_entries,)``.
    shape
        ``(n_rows, n_columns)``.
    """

    def __init__(self, row: Tensor, col: Tensor, weight: Tensor, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._csr = _compressed(row, col, weight, shape)
        self._transposed = _compressed(col, row, weight, shape[::-1])

    @property
    def row(self) -> Tensor:
        """Row of every entry, in order."""
        starts = self._csr.crow_indices().long()
        return torch.arange(self.shape[0], device=starts.device).repeat_interleave(starts.diff())

    @property
    def col(self) -> Tensor:
        """Column of every entry."""
        return self._csr.col_indices().long()

    @property
    def weight(self) -> Tensor:
        """Value of every entry."""
        return self._csr.values()

    def to(self, device: torch.device | str) -> SparseMatrix:
        """Return a copy on another device."""
        return SparseMatrix(self.row.to(device), self.col.to(device), self.weight.to(device), self.shape)

    def double(self) -> SparseMatrix:
        """Return a copy in double precision."""
        return SparseMatrix(self.row, self.col, self.weight.double(), self.shape)

    def n_bytes(self) -> int:
        """Return the memory both forms take."""
        parts = (Tensor.crow_indices, Tensor.col_indices, Tensor.values)
        tensors = [part(m) for part in parts for m in (self._csr, self._transposed)]
        return sum(t.numel() * t.element_size() for t in tensors)

    @cached_property
    def is_symmetric(self) -> bool:
        """Tell whether the matrix equals its transpose."""
        if self.shape[0] != self.shape[1]:
            return False
        here, there = self._csr, self._transposed
        parts = (Tensor.crow_indices, Tensor.col_indices, Tensor.values)
        return all(torch.equal(part(here), part(there)) for part in parts)

    def quadratic(self, values: Tensor, picked: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ``sum_ij A_ij v_i . v_j`` of rows ``(n, width)``, and the rows ``picked``, in one pass each way."""
        nothing = torch.empty(0, dtype=torch.long, device=values.device)
        with torch.autocast(values.device.type, enabled=False):
            return _Quadratic.apply(values, self, nothing if picked is None else picked)

    def rows(self, chosen: Tensor) -> SparseMatrix:
        """Return the matrix with only the chosen rows (boolean) filled."""
        if bool(chosen.all()):
            return self
        keep = chosen[self.row]
        return SparseMatrix(self.row[keep], self.col[keep], self.weight[keep], self.shape)

    def __matmul__(self, values: Tensor) -> Tensor:
        """Multiply ``(n_columns, width)`` to ``(n_rows, width)``, in the matrix's precision."""
        with torch.autocast(values.device.type, enabled=False):  # sparse products have no half precision
            return _Product.apply(values.to(self.weight.dtype), self._csr, self._transposed)


class _Product(torch.autograd.Function):
    """``A x`` with gradient ``A^T g``; torch's own backward builds the transpose anew at every step."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transposed @ gradients[0].contiguous(), None, None


class _Quadratic(torch.autograd.Function):
    """``v . A v`` with gradient ``A v + A^T v``, of which a symmetric matrix has both from the forward pass, and some rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, matrix: SparseMatrix, picked: Tensor) -> tuple[Tensor, Tensor]:
        product = matrix._csr @ values
        ctx.matrix = matrix
        ctx.save_for_backward(values, product, picked)
        return torch.dot(product.reshape(-1), values.reshape(-1)), values[picked]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        values, product, picked = ctx.saved_tensors
        if ctx.matrix.is_symmetric:
            gradient = product * (2 * gradients[0])
        else:
            gradient = (product + ctx.matrix._transposed @ values).mul_(gradients[0])
        return gradient.index_add_(0, picked, gradients[1]), None, None


def compressed_rows(row: Tensor, col: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the order of entries by rows, where each row starts among them, and their columns, in what MKL takes: 32 bits."""
    order = torch.argsort(row * shape[1] + col)
    ends = torch.cumsum(torch.bincount(row, minlength=shape[0]), 0)
    return order, torch.cat([ends.new_zeros(1), ends]).int(), col[order].int()


def compressed(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return a matrix in compressed rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


def _compressed(row: Tensor, col: Tensor, weight: Tensor, shape: tuple[int, int]) -> Tensor:
    order, starts, columns = compressed_rows(row, col, shape)
    return compressed(starts, columns, weight[order], shape)
