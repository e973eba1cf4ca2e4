"""Stage 1: a variational graph autoencoder of spots, whose encoder the second stage starts from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from soscope.data.tiles import Tile
from soscope.likelihoods import Likelihood
from soscope.nn.decoder import SpotDecoder
from soscope.nn.encoder import GraphEncoder
from soscope.nn.graph_terms import graph_cross_entropy
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

    def decode(self, tile: Tile, z: Tensor, step: int | None = None) -> dict[str, dict[str, Tensor]]:
        """Return likelihood parameters of spots."""
        return {m: self.likelihoods[m].parameters_of(raw) for m, raw in self.decoder(z).items()}  # type: ignore[operator]

    def spot_log_prob(self, tile: Tile, decoded: dict[str, dict[str, Tensor]]) -> Tensor:
        """Return the log probability of spots, summed over features and modalities."""
        parts = [self.likelihoods[m].log_prob(tile.profiles[m], p).sum(1) for m, p in decoded.items()]  # type: ignore[operator]
        return sum(parts[1:], parts[0])

    def graph_term(self, tile: Tile, z: Tensor, decoded: dict[str, dict[str, Tensor]]) -> Tensor:
        """Return the cross-entropy of sigmoid(z z^T) against the spot graph."""
        return graph_cross_entropy(
            [z * ~tile.held_out[:, None]],
            tile.spot_graph,
            core=tile.core & ~tile.held_out,
            n_total=tile.n_section_spots,
            n_pairs=self.settings.n_pairs,
            draw=lambda n: self.pair_draw(tile, n),
        )
