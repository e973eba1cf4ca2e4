"""How a profile arises from decoder output: the one extension point for a new kind of omics.

A new kind is one subclass in this package (or in a module of yours that is imported), one YAML in ``conf/model`` and one row in
``docs/likelihoods.md``. Nothing else asks which likelihood it has.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from soscope.errors import ConfigError
from soscope.matrices import Matrix, to_dense
from soscope.nn.parent import Parent
from soscope.nn.views import ProfileView
from soscope.posteriors import Posterior
from soscope.rows import ComputedRows, Rows, evenly_spaced

Params = dict[str, Tensor]

LARGEST_TABLE = 10**8
"""Entries of the dense table that starting values are taken from."""

LIKELIHOODS: dict[str, type[Likelihood]] = {}


def make_likelihood(name: str, n_features: int, **options: object) -> Likelihood:
    """Build a registered likelihood; an unknown name or option raises `ConfigError` with the choices."""
    if name not in LIKELIHOODS:
        raise ConfigError(f"likelihood '{name}' is unknown. Choose from: {', '.join(sorted(LIKELIHOODS))}.")
    try:
        return LIKELIHOODS[name](n_features, **options)
    except TypeError as error:
        raise ConfigError(f"likelihood '{name}' does not take these options: {error}.") from error


class Likelihood(nn.Module, ABC):
    """How a profile arises from decoder output. A new omics type overrides these, nothing else changes.

    Subclasses register by ``class Mine(Likelihood, name="mine")``.
    """

    n_parameters: ClassVar[int]
    """Decoder outputs per feature."""
    sparse_result: ClassVar[bool]
    """Whether the conditional posterior is zero where the observation is, so that results are stored sparse."""

    base: Tensor
    feature_sd: Tensor

    def __init_subclass__(cls, name: str | None = None, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if name is not None:
            LIKELIHOODS[name] = cls

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.n_features = n_features
        self.adds_up = True  # a spot is the sum of its subspots, not their average
        self.register_buffer("base", torch.zeros(n_features))
        self.register_buffer("feature_sd", torch.ones(n_features))

    @abstractmethod
    def make_view(self) -> ProfileView:
        """Return what the encoder sees of an observation."""

    @abstractmethod
    def fit(self, x: Tensor, n_per_spot: float) -> None:
        """Set data-dependent starting values from observed spots ``(n_spots, n_features)``.

        ``n_per_spot`` is the mean number of subspots of a spot (1 when spots are modelled themselves).
        """

    @abstractmethod
    def check(self, x: Matrix, where: str, spots: list[str], features: list[str]) -> None:
        """Raise `DataError` that names spot and feature for values outside the support."""

    @abstractmethod
    def parameters_of(self, raw: Tensor) -> Params:
        """Turn unconstrained ``(..., n_features, n_parameters)`` into valid parameters of subspots."""

    @abstractmethod
    def aggregate(self, p: Params, parent: Parent) -> Params:
        """Return the parameters of the spots' profiles from those of their subspots, exactly."""

    @abstractmethod
    def log_prob(self, x: Tensor, p: Params) -> Tensor:
        """Return the log probability of each entry, the shape of ``x``."""

    @abstractmethod
    def mean(self, p: Params) -> Tensor:
        """Return the expected profile."""

    @abstractmethod
    def prior(self, p: Params) -> Posterior:
        """Return the distribution of subspots when their spot is not looked at."""

    @abstractmethod
    def given_total(self, x: Tensor, p: Params, parent: Parent) -> Posterior:
        """Return the distribution of subspots given the observed profiles ``x`` of spots; the prior under no spot."""

    @abstractmethod
    def widened(self, p: Params, factor: float) -> Params:
        """Return the parameters of subspots with the same means and variances ``factor`` times as large."""

    @abstractmethod
    def stabilise(self, x: Tensor, n_per_spot: Tensor) -> Tensor:
        """Return the level of a subspot, its equal part of ``x`` ``(n_spots, n_features)``, with noise of even size."""

    @abstractmethod
    def location_of(self, level: Tensor) -> Tensor:
        """Return the first unconstrained parameter of subspots whose stabilised level is ``level``, the same shape."""

    def part(self, columns: slice | np.ndarray) -> Likelihood:
        """Return this likelihood for some of its features, sharing tensors: all it keeps per feature, the first axis, is cut."""
        if isinstance(columns, slice) and columns == slice(None):
            return self
        cut = copy.copy(self)
        cut.__dict__ = dict(self.__dict__) | {"_parameters": {}, "_buffers": {}}
        for name, value in itertools.chain(self.named_parameters(recurse=False), self.named_buffers(recurse=False)):
            cut.__dict__[name] = value[columns] if value.shape[:1] == (self.n_features,) else value
        cut.n_features = len(np.arange(self.n_features)[columns])
        return cut

    def copy_down(self, x: Tensor, parent: Parent) -> Tensor:
        """Give every subspot its equal part of the spot, ``x / K``; zero under no spot."""
        return parent.gather(x / parent.n_per_spot.clamp(min=1).to(x.dtype)[:, None])

    def profile_for_similarity(self, x: Matrix, library_size: np.ndarray) -> Rows:
        """Return the standardised profiles, as the encoder sees them, that weigh the spot graph, ``(n_spots, width)``.

        Rows are computed when they are taken; of very large tables, evenly spaced spots standardise.
        """
        view = self.make_view()
        size = torch.as_tensor(library_size, dtype=torch.float32)

        def dense(rows: np.ndarray) -> tuple[Tensor, Tensor]:
            return torch.as_tensor(to_dense(x[rows], np.float32)), size[rows]

        view.fit(*dense(evenly_spaced(x.shape[0], x.shape[1], LARGEST_TABLE)))
        return ComputedRows((x.shape[0], view.n_columns), lambda rows: view(*dense(rows)).numpy())

    def _fit_feature_sd(self, x: Tensor) -> None:
        sd = x.std(0) if x.shape[0] > 1 else torch.ones_like(self.feature_sd)
        self.feature_sd.copy_(torch.where(sd > 0, sd, torch.ones_like(sd)))
