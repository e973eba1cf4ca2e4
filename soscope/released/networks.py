"""Networks of the published program: raw profiles in, ReLU throughout, a subspot takes its spot's z."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, softplus
from torch_geometric.nn import TransformerConv

from soscope.nn.gaussian import Latent
from soscope.nn.parent import Parent


def with_self_loops(edges: Tensor, n: int) -> Tensor:
    """Append an edge from each of ``n`` nodes to itself to ``(2, n_edges)``."""
    loops = torch.arange(n, device=edges.device)
    return torch.cat([edges, torch.stack([loops, loops])], 1)


class ReleasedEncoder(nn.Module):
    """Three graph-transformer layers over raw profiles; edges have no weights, spots are their own neighbours too.

    Parameters
    ----------
    n_features
        Columns of all modalities together.
    n_hidden, n_latent, n_heads
        Width of the hidden layers, of z, and attention heads (which share the widths).
    """

    def __init__(self, n_features: int, n_hidden: int = 128, n_latent: int = 128, n_heads: int = 1) -> None:
        super().__init__()
        width = n_hidden // n_heads
        self.first = TransformerConv(n_features, width, heads=n_heads)
        self.second = TransformerConv(width * n_heads, width, heads=n_heads)
        self.third = TransformerConv(width * n_heads, 2 * n_latent, heads=1)

    def forward(self, x: Tensor, edges: Tensor) -> Latent:
        """Return q(z | X, A) from raw profiles ``(n_spots, n_features)`` and directed neighbours ``(2, n_edges)``."""
        looped = with_self_loops(edges, len(x))
        h = relu(self.first(x, looped))
        h = relu(self.second(h, looped))
        mean, scale = self.third(h, looped).chunk(2, 1)
        return Latent(mean, softplus(scale) + 1e-7)


class HalvesHead(nn.Module):
    """One linear map per modality to ``(n, n_features, 2)``: the first and the second half of its outputs."""

    def __init__(self, n_hidden: int, n_features: Mapping[str, int]) -> None:
        super().__init__()
        self.maps = nn.ModuleDict({name: nn.Linear(n_hidden, 2 * g) for name, g in n_features.items()})

    def forward(self, h: Tensor) -> dict[str, Tensor]:
        """Return both halves per modality."""
        return {name: torch.stack(layer(h).chunk(2, 1), -1) for name, layer in self.maps.items()}


class ReleasedSpotDecoder(nn.Module):
    """Two-layer perceptron from z to spots, used in pretraining."""

    def __init__(self, n_latent: int, n_hidden: int, n_features: Mapping[str, int]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(n_latent, n_hidden), nn.Linear(n_hidden, n_hidden)
        self.head = HalvesHead(n_hidden, n_features)

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        """Return unconstrained parameters of spots per modality."""
        return self.head(relu(self.second(relu(self.first(z)))))


class ReleasedBlock(nn.Module):
    """``h + relu(W2 relu(W1 h))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Return the updated hidden state."""
        return h + relu(self.second(relu(self.first(h))))


class ReleasedSubspotDecoder(nn.Module):
    """One linear map of ``[z / K, (2 - 1 / K) y]``, two residual blocks, one head per modality."""

    def __init__(self, n_latent: int, n_image: int, n_hidden: int, n_features: Mapping[str, int]) -> None:
        super().__init__()
        self.first = nn.Linear(n_latent + n_image, n_hidden)
        self.blocks = nn.Sequential(ReleasedBlock(n_hidden), ReleasedBlock(n_hidden))
        self.head = HalvesHead(n_hidden, n_features)

    def forward(self, z: Tensor, image_features: Tensor, parent: Parent) -> dict[str, Tensor]:
        """Return unconstrained parameters of subspots per modality.

        Parameters
        ----------
        z
            Latent state of spots, ``(n_spots, n_latent)``.
        image_features
            Features of subspots, ``(n_subspots, n_image)``.
        parent
            Spot of each subspot; one under no spot has z = 0 and the mean K.
        """
        k = subspots_of_spot(parent).to(z.dtype)
        return self.head(self.blocks(self.first(torch.cat([parent.gather(z) / k, (2 - 1 / k) * image_features], 1))))


def subspots_of_spot(parent: Parent) -> Tensor:
    """Return K of every subspot's spot, ``(n_subspots, 1)``; the mean K under no spot."""
    count = parent.n_per_spot.float()
    filled = count[count > 0]
    mean = filled.mean() if filled.numel() else count.new_ones(())
    return torch.where(parent.assigned, parent.gather(count[:, None])[:, 0], mean)[:, None]
