"""From observed profiles and the spot graph to the latent state q(z | X, A)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, softplus
from torch_geometric.nn import TransformerConv

from soscope.nn.gaussian import Latent
from soscope.nn.views import ProfileView


class GraphEncoder(nn.Module):
    """Three graph-transformer layers (Shi et al. 2021, arXiv:2009.03509), as in Li et al. 2024.

    Parameters
    ----------
    views
        What is seen of each modality; their columns are laid side by side.
    n_hidden, n_latent, n_heads
        Width of the hidden layers, of z, and attention heads (which share the width).

    Notes
    -----
    Each layer adds a learned map of the spot itself to the attention over neighbours, so isolated spots are fine. A hidden
    spot enters as zeros (the mean profile) and a flag.
    """

    def __init__(
        self, views: Mapping[str, ProfileView], n_hidden: int = 128, n_latent: int = 128, n_heads: int = 1
    ) -> None:
        super().__init__()
        self.views = nn.ModuleDict(views)
        n_in = sum(view.n_columns for view in views.values()) + 1
        width = n_hidden // n_heads

        def layer(n: int, out: int, heads: int) -> TransformerConv:
            return TransformerConv(n, out, heads=heads, edge_dim=1)

        self.first = layer(n_in, width, n_heads)
        self.second = layer(width * n_heads, width, n_heads)
        self.third = layer(width * n_heads, 2 * n_latent, 1)

    def forward(
        self,
        profiles: Mapping[str, Tensor],
        library_size: Mapping[str, Tensor],
        edges: Tensor,
        weight: Tensor,
        visible: Tensor,
    ) -> Latent:
        """Return q(z | X, A).

        Parameters
        ----------
        profiles, library_size
            Per modality ``(n_spots, n_features)`` and ``(n_spots,)``.
        edges, weight
            Directed spot neighbours ``(2, n_edges)`` and their weights.
        visible
            Spots whose own profile may be seen, boolean ``(n_spots,)``.
        """
        seen = [view(profiles[name], library_size[name]) for name, view in self.views.items()]
        shown = visible.to(weight.dtype)[:, None]
        h = torch.cat([torch.cat(seen, 1) * shown, 1 - shown], 1)
        edge_features = weight[:, None]
        h = elu(self.first(h, edges, edge_features))
        h = elu(self.second(h, edges, edge_features))
        mean, scale = self.third(h, edges, edge_features).to(weight.dtype).chunk(2, 1)
        return Latent(mean, softplus(scale) + 1e-4)
