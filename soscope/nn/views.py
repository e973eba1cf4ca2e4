"""What the encoder sees of an observed profile."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class ProfileView(nn.Module, ABC):
    """Standardised columns computed from observed profiles; the statistics travel with the encoder as buffers."""

    location: Tensor
    spread: Tensor

    def __init__(self, n_features: int, n_columns: int) -> None:
        super().__init__()
        self.n_features, self.n_columns = n_features, n_columns
        self.register_buffer("location", torch.zeros(n_columns))
        self.register_buffer("spread", torch.ones(n_columns))

    @abstractmethod
    def columns(self, x: Tensor, library_size: Tensor) -> Tensor:
        """Return the columns before standardising, ``(n_spots, n_columns)``."""

    def fit(self, x: Tensor, library_size: Tensor) -> None:
        """Learn the statistics from observed spots."""
        columns = self.columns(x, library_size)
        self.location.copy_(columns.mean(0))
        sd = columns.std(0) if len(columns) > 1 else torch.ones_like(self.spread)
        self.spread.copy_(torch.where(sd > 1e-6, sd, torch.ones_like(sd)))

    def forward(self, x: Tensor, library_size: Tensor) -> Tensor:
        """Return standardised columns, clipped at 10 deviations."""
        return ((self.columns(x, library_size) - self.location) / self.spread).clamp(-10, 10)


class CountView(ProfileView):
    """log1p of library-size-normalised counts, and the log library size (the released program fed raw counts)."""

    target: Tensor

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, n_features + 1)
        self.register_buffer("target", torch.ones(()))

    def fit(self, x: Tensor, library_size: Tensor) -> None:
        """Normalise to the median library size of spots that have any counts."""
        some = library_size[library_size > 0]
        self.target.copy_(some.median() if some.numel() else torch.ones(()))
        super().fit(x, library_size)

    def columns(self, x: Tensor, library_size: Tensor) -> Tensor:
        """Return ``n_features`` normalised columns and one of log library size; a spot without counts gives zeros."""
        normalised = torch.log1p(x / library_size.clamp(min=1)[:, None] * self.target)
        return torch.cat([normalised, torch.log1p(library_size)[:, None]], 1)


class RealView(ProfileView):
    """The values themselves."""

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, n_features)

    def columns(self, x: Tensor, library_size: Tensor) -> Tensor:
        """Return ``x``."""
        return x
