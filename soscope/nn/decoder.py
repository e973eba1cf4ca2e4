"""From the latent state (and the image) to likelihood parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, linear

from soscope.nn.sparse import SparseMatrix

Drop = Callable[[Tensor, str], Tensor]


class Heads(nn.Module):
    """One linear map per modality from a hidden state to ``(n, n_features, n_parameters)``, starting at zero."""

    def __init__(self, n_hidden: int, sizes: Mapping[str, tuple[int, int]]) -> None:
        super().__init__()
        self.sizes = dict(sizes)
        self.maps = nn.ModuleDict({name: nn.Linear(n_hidden, g * p) for name, (g, p) in self.sizes.items()})
        for layer in self.maps.values():
            nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, h: Tensor, modality: str, columns: slice = slice(None)) -> Tensor:
        """Return unconstrained parameters of some features of a modality, ``(n, n_columns, n_parameters)``."""
        layer, (n_features, n_parameters) = self.maps[modality], self.sizes[modality]
        start, stop, _ = columns.indices(n_features)
        rows = slice(start * n_parameters, stop * n_parameters)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        raw = linear(h, weight[rows], layer.bias[rows]).to(weight.dtype)  # type: ignore[index]
        return raw.reshape(len(h), stop - start, n_parameters)


class SpotDecoder(nn.Module):
    """Two-layer perceptron from z to spot profiles, used in pretraining: ``heads`` of what ``hidden`` returns.

    ``hidden`` takes z and the section's covariates side by side, ``(n_spots, n_latent + n_covariates)``.
    """

    def __init__(
        self, n_latent: int, n_hidden: int, sizes: Mapping[str, tuple[int, int]], n_covariates: int = 0
    ) -> None:
        super().__init__()
        first = nn.Linear(n_latent + n_covariates, n_hidden)
        self.hidden = nn.Sequential(first, nn.ELU(), nn.Linear(n_hidden, n_hidden), nn.ELU())
        self.heads = Heads(n_hidden, sizes)


class ResidualBlock(nn.Module):
    """``h + W2 elu(W1 elu(h))``, the second map starting at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Return the updated hidden state."""
        return h + self.second(elu(self.first(elu(h))))


class SubspotDecoder(nn.Module):
    """``omega_m = f(y_m, z at m)``: one linear map of [z, y], two residual blocks (`hidden`), one head per modality (``heads``).

    Parameters
    ----------
    n_latent, n_image, n_hidden
        Widths of z, of the image features (0 when there is no image) and of the hidden layers.
    sizes
        ``(n_features, n_parameters)`` per modality.
    n_covariates
        Numbers known of the section.

    Notes
    -----
    The first map is linear, so its z part is computed once per spot and then interpolated to subspots.
    """

    def __init__(
        self,
        n_latent: int,
        n_image: int,
        n_hidden: int,
        sizes: Mapping[str, tuple[int, int]],
        n_covariates: int = 0,
    ) -> None:
        super().__init__()
        self.n_image = n_image
        self.from_z = nn.Linear(n_latent, n_hidden)
        self.from_image = nn.Linear(n_image, n_hidden, bias=False) if n_image else None
        self.from_covariates = nn.Linear(n_covariates, n_hidden, bias=False) if n_covariates else None
        self.blocks = nn.Sequential(ResidualBlock(n_hidden), ResidualBlock(n_hidden))
        self.heads = Heads(n_hidden, sizes)

    def hidden(
        self, z: Tensor, image_features: Tensor, at: SparseMatrix, covariates: Tensor, drop: Drop | None = None
    ) -> Tensor:
        """Return what the heads take, ``(n_subspots, n_hidden)``.

        Parameters
        ----------
        z
            Latent state of spots, ``(n_spots, n_latent)``.
        image_features
            Features of subspots, ``(n_subspots, n_image)``.
        at
            How z continues from spots to subspots: weights ``(n_subspots, n_spots)`` whose rows add up to one, or are empty.
        covariates
            Of the section, ``(n_covariates,)``.
        drop
            ``drop(values, stream)`` thins image features and the last hidden layer out in training.
        """
        if drop is not None:
            image_features = drop(image_features, "drop_image")
        h = at @ (z @ self.from_z.weight.T) + self.from_z.bias
        if self.from_image is not None:
            h = h + self.from_image(image_features)
        if self.from_covariates is not None:
            h = h + self.from_covariates(covariates)
        h = self.blocks(h)
        return h if drop is None else drop(h, "drop_hidden")


class FieldDecoder(nn.Module):
    """From kriged components of subspots back to stabilised levels per modality; nothing here is trained.

    Parameters
    ----------
    centre, spread
        Mean and deviation of every column, ``(n_columns,)``: the features of all modalities side by side.
    loadings
        ``(n_components, n_columns)``.
    widths
        Number of features per modality.
    """

    centre: Tensor
    spread: Tensor
    loadings: Tensor

    def __init__(self, centre: Tensor, spread: Tensor, loadings: Tensor, widths: Mapping[str, int]) -> None:
        super().__init__()
        ends = itertools.accumulate(widths.values())
        self.spans = {m: slice(end - n, end) for (m, n), end in zip(widths.items(), ends, strict=True)}
        self.register_buffer("centre", centre)
        self.register_buffer("spread", spread)
        self.register_buffer("loadings", loadings)

    def forward(self, field: Tensor, modality: str, columns: slice = slice(None)) -> Tensor:
        """Return stabilised levels of some features of subspots from their components ``(n_subspots, n_components)``."""
        span = self._span(modality, columns)
        return torch.addmm(self.centre[span], field, self.loadings[:, span] * self.spread[span])

    def middle(self, modality: str, columns: slice = slice(None)) -> Tensor:
        """Return the stabilised levels where all components are zero, ``(n_columns,)``."""
        return self.centre[self._span(modality, columns)]

    def _span(self, modality: str, columns: slice) -> slice:
        whole = self.spans[modality]
        start, stop, _ = columns.indices(whole.stop - whole.start)
        return slice(whole.start + start, whole.start + stop)
