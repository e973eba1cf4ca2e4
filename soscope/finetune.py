"""Stage 2: the spatial VAE that divides spots into subspots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from soscope.data.tiles import Tile
from soscope.likelihoods import Likelihood
from soscope.nn.decoder import FieldDecoder, SubspotDecoder
from soscope.nn.encoder import GraphEncoder
from soscope.nn.graph_terms import graph_cross_entropy
from soscope.nn.noise import keyed_dropout, keyed_uniform
from soscope.stage_module import StageModule, TrainingSettings


class SpatialVAE(StageModule):
    """The likelihood of each spot with its subspots summed out exactly, beta KL, and the image term.

    The image term compares residuals ``e_m = xhat_m - x_n / K_n``, each feature divided by its standard deviation over
    spots, with the similarity graph of subspots.
    """

    strength: Tensor

    def __init__(
        self,
        encoder: GraphEncoder,
        decoder: SubspotDecoder,
        field_decoder: FieldDecoder,
        likelihoods: Mapping[str, Likelihood],
        settings: TrainingSettings,
    ) -> None:
        super().__init__("finetune", encoder, likelihoods, settings)
        self.decoder, self.field_decoder = decoder, field_decoder
        self.register_buffer("strength", torch.ones(()))

    def decode(self, tile: Tile, z: Tensor, step: int | None = None) -> dict[str, dict[str, Tensor]]:
        """Return likelihood parameters of subspots, on a path between the kriged field and the network."""
        raw = self._network(tile, z, step)
        if tile.field.shape[1]:
            share = self._network_share(tile, step)
            for m, field in self._field(tile).items():
                location = field + share * (raw[m][..., 0] - field)
                if step is None:
                    location = field.mean(0) + self.strength * (location - field.mean(0))
                raw[m] = torch.cat([location[..., None], raw[m][..., 1:]], -1)
        return {m: self.likelihoods[m].parameters_of(r) for m, r in raw.items()}  # type: ignore[operator]

    def _field(self, tile: Tile) -> dict[str, Tensor]:
        """Return the location parameter that the kriged field alone would give, ``(n_subspots, n_features)`` per modality."""
        levels = self.field_decoder(tile.field)
        return {m: self.likelihoods[m].location_of(level) for m, level in levels.items()}  # type: ignore[operator]

    @torch.no_grad()
    def calibrate(self, tiles: Sequence[Tile]) -> None:
        """Set ``strength`` so that spots vary as much as the field says: a network stopped early varies less.

        The slope of the field's spot means on the result's, centred per feature and pooled over features.
        """
        if not tiles[0].field.shape[1]:
            return
        shared = square = 0.0
        for tile in tiles:
            latent = self.encode(tile, ~tile.held_out)
            raw, share = self._network(tile, latent.mean, None), self.settings.network_share
            n = tile.parent.n_per_spot.clamp(min=1)[:, None]
            for m, field in self._field(tile).items():
                ends = [tile.parent.sum(v) / n for v in (field, raw[m][..., 0])]
                wanted, network = (v - v.mean(0) for v in (e[tile.core & ~tile.held_out] for e in ends))
                result = wanted + share * (network - wanted)
                shared += float((result * wanted).sum())
                square += float(result.square().sum())
        self.strength.fill_(shared / square if square > 0 else 1.0)

    def _network_share(self, tile: Tile, step: int | None) -> Tensor:
        """Return how far along the path each subspot stands, ``(n_subspots, 1)``: in training a uniform draw per spot."""
        s = self.settings
        if step is None:
            return torch.full((len(tile.subspot_keys), 1), s.network_share)
        return tile.parent.gather(keyed_uniform(s.seed, step, "path", tile.keys, 1))

    def _network(self, tile: Tile, z: Tensor, step: int | None) -> dict[str, Tensor]:
        s = self.settings

        def drop(values: Tensor, stream: str) -> Tensor:
            return keyed_dropout(values, s.seed, step or 0, stream, tile.subspot_keys, s.dropout)

        return self.decoder(z, tile.image_features, tile.at, None if step is None else drop)

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
