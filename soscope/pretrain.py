"""Stage 1: a variational graph autoencoder of spots, whose encoder the second stage starts from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from soscope.data.tiles import Tile
from soscope.likelihoods import Likelihood
from soscope.likelihoods.base import Params
from soscope.nn.decoder import SpotDecoder
from soscope.nn.encoder import GraphEncoder
from soscope.nn.graph_terms import graph_cross_entropy, with_diagonal
from soscope.stage_module import StageModule, TrainingSettings


class GraphAutoencoder(StageModule):
    """VGAE: -log p(x | z) + cross-entropy of sigmoid(z z^T) against the spot graph + beta KL (Li et al. 2024)."""

    def __init__(
        self,
        encoder: GraphEncoder,
        decoder: SpotDecoder,
        likelihoods: Mapping[str, Likelihood],
        settings: TrainingSettings,
    ) -> None:
        super().__init__("pretrain", encoder, likelihoods, settings)
        self.decoder = decoder

    def hidden(self, tile: Tile, z: Tensor, step: int | None = None) -> Any:
        """Return the last hidden layer of core spots."""
        z = z[: tile.n_core]
        return self.decoder.hidden(torch.cat([z, self.covariates(tile).expand(len(z), -1)], 1))

    def decode_columns(self, tile: Tile, hidden: Any, modality: str, columns: slice, step: int | None = None) -> Params:
        """Return likelihood parameters of core spots."""
        return self.likelihood(modality).part(columns).parameters_of(self.decoder.heads(hidden, modality, columns))

    def evaluate(self, tile: Tile, z: Tensor, step: int | None, with_graph: bool) -> tuple[Tensor, Tensor | None]:
        """Return the log probability of core spots, and the cross-entropy of sigmoid(z z^T) against the spot graph."""
        hidden = self.hidden(tile, z, step)

        def one(modality: str, columns: slice) -> tuple[Tensor]:
            p = self.decode_columns(tile, hidden, modality, columns, step)
            likelihood = self.likelihood(modality).part(columns)
            return (likelihood.log_prob(tile.core_profiles(modality)[:, columns], p).sum(1),)

        parts = [log_prob for blocks in self.in_blocks(tile.n_core, one) for (log_prob,) in blocks]
        return sum(parts[1:], parts[0]), self.graph_term(tile, z) if with_graph else None

    def graph_term(self, tile: Tile, z: Tensor) -> Tensor:
        """Return the cross-entropy of sigmoid(z z^T) against the spot graph."""
        seen = ~tile.held_out
        rows = tile.core & seen
        edges = tile.once("spot_edges", lambda: with_diagonal(tile.spot_graph, rows, seen))
        n_pairs, draw = self.settings.n_pairs, lambda n: self.pair_draw(tile, n)
        return graph_cross_entropy(
            [z * seen[:, None]], edges, rows.nonzero()[:, 0], tile.n_section_spots, n_pairs, draw
        )
