"""From observed profiles and the spot graph to the latent state q(z | X, A)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, softplus

from soscope.nn.attention import GraphAttention, Neighbours
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
    n_covariates
        Numbers known of the section beside its profiles.

    Notes
    -----
    Each layer adds a learned map of the spot itself to the attention over neighbours, so isolated spots are fine. A hidden
    spot enters as zeros (the mean profile) and a flag.
    """

    def __init__(
        self,
        views: Mapping[str, ProfileView],
        n_hidden: int = 128,
        n_latent: int = 128,
        n_heads: int = 1,
        n_covariates: int = 0,
    ) -> None:
        super().__init__()
        self.views = nn.ModuleDict(views)
        n_in = sum(view.n_columns for view in views.values()) + 1 + n_covariates
        width = n_hidden // n_heads

        self.first = GraphAttention(n_in, width, n_heads)
        self.second = GraphAttention(width * n_heads, width, n_heads)
        self.third = GraphAttention(width * n_heads, 2 * n_latent, 1)

    def forward(
        self,
        profiles: Mapping[str, Tensor],
        library_size: Mapping[str, Tensor],
        neighbours: Neighbours,
        weight: Tensor,
        visible: Tensor,
        covariates: Tensor,
    ) -> Latent:
        """Return q(z | X, A).

        Parameters
        ----------
        profiles, library_size
            Per modality ``(n_spots, n_features)`` and ``(n_spots,)``.
        neighbours, weight
            Directed spot neighbours and their weights, in the order of ``neighbours``.
        visible
            Spots whose own profile may be seen, boolean ``(n_spots,)``.
        covariates
            Of the section, ``(n_covariates,)``.
        """
        seen = [view(profiles[name], library_size[name]) for name, view in self.views.items()]
        shown = visible.to(weight.dtype)[:, None]
        h = torch.cat([torch.cat(seen, 1) * shown, 1 - shown, covariates.expand(len(shown), -1)], 1)
        h = elu(self.first(h, neighbours, weight))
        h = elu(self.second(h, neighbours, weight))
        mean, scale = self.third(h, neighbours, weight).to(weight.dtype).chunk(2, 1)
        return Latent(mean, softplus(scale) + 1e-4)
