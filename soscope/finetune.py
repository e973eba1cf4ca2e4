"""Stage 2: the spatial VAE that divides spots into subspots."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from soscope.data.tiles import Tile
from soscope.likelihoods import Likelihood
from soscope.nn.decoder import SubspotDecoder
from soscope.nn.encoder import GraphEncoder
from soscope.nn.graph_terms import graph_cross_entropy
from soscope.nn.noise import keyed_dropout
from soscope.stage_module import StageModule, TrainingSettings


class SpatialVAE(StageModule):
    """The likelihood of each spot with its subspots summed out exactly, beta KL, and the image term.

    The image term compares residuals ``e_m = xhat_m - x_n / K_n``, each feature divided by its standard deviation over
    spots, with the similarity graph of subspots.
    """

    def __init__(
        self,
        encoder: GraphEncoder,
        decoder: SubspotDecoder,
        likelihoods: Mapping[str, Likelihood],
        settings: TrainingSettings,
    ) -> None:
        super().__init__("finetune", encoder, likelihoods, settings)
        self.decoder = decoder

    def decode(self, tile: Tile, z: Tensor, step: int | None = None) -> dict[str, dict[str, Tensor]]:
        """Return likelihood parameters of subspots."""
        s = self.settings

        def drop(values: Tensor, stream: str) -> Tensor:
            return keyed_dropout(values, s.seed, step or 0, stream, tile.subspot_keys, s.dropout)

        raw = self.decoder(z, tile.image_features, tile.at, None if step is None else drop)
        return {m: self.likelihoods[m].parameters_of(r) for m, r in raw.items()}  # type: ignore[operator]

    def spot_log_prob(self, tile: Tile, decoded: dict[str, dict[str, Tensor]]) -> Tensor:
        """Return the log probability of spots' profiles given the sum over their subspots."""
        total = tile.profiles[next(iter(decoded))].new_zeros(len(tile.keys))
        for m, p in decoded.items():
            likelihood: Likelihood = self.likelihoods[m]  # type: ignore[assignment]
            total = total + likelihood.log_prob(tile.profiles[m], likelihood.aggregate(p, tile.parent)).sum(1)
        return torch.where(tile.parent.n_per_spot > 0, total, torch.zeros_like(total))

    def graph_term(self, tile: Tile, z: Tensor, decoded: dict[str, dict[str, Tensor]]) -> Tensor:
        """Return the cross-entropy of residuals' inner products against the subspot graph."""
        counted = tile.parent.assigned & ~tile.parent.gather(tile.held_out.float()[:, None])[:, 0].bool()
        residuals = []
        for m, p in decoded.items():
            likelihood: Likelihood = self.likelihoods[m]  # type: ignore[assignment]
            e = (likelihood.mean(p) - likelihood.copy_down(tile.profiles[m], tile.parent)) / likelihood.feature_sd
            residuals.append(e * counted[:, None])
        return graph_cross_entropy(
            residuals,
            tile.subspot_graph,
            core=tile.subspot_core & counted,
            n_total=tile.n_section_subspots,
            n_pairs=self.settings.n_pairs,
            draw=lambda n: self.pair_draw(tile, n),
        )
