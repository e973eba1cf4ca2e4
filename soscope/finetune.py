"""Stage 2: the spatial VAE that divides spots into subspots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor

from soscope.data.tiles import LARGEST_KEPT, Tile
from soscope.likelihoods import Likelihood
from soscope.likelihoods.base import Params
from soscope.nn.decoder import FieldDecoder, SubspotDecoder
from soscope.nn.encoder import GraphEncoder
from soscope.nn.graph_terms import Products, SampledPairs, graph_cross_entropy, pairs_to_sample, with_diagonal
from soscope.nn.noise import keyed_dropout, keyed_uniform
from soscope.nn.sparse import SparseMatrix
from soscope.stage_module import StageModule, TrainingSettings


class SpatialVAE(StageModule):
    """The likelihood of each spot with its subspots summed out exactly, beta KL, and the image term.

    The image term compares residuals ``e_m = xhat_m - x_n / K_n``, each feature divided by its standard deviation over
    spots, with the similarity graph of subspots.
    """

    strength: Tensor

    pairs_subspots = True

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
        self._owner = object()  # of what this module keeps with tiles
        self.register_buffer("strength", torch.ones(()))

    def hidden(self, tile: Tile, z: Tensor, step: int | None = None) -> Tensor:
        """Return the network's last hidden layer of subspots."""
        s = self.settings

        def drop(values: Tensor, stream: str) -> Tensor:
            return keyed_dropout(values, s.seed, step or 0, stream, tile.subspot_keys, s.dropout)

        dropped = None if step is None else drop
        return self.decoder.hidden(z, tile.image_features, tile.at, self.covariates(tile), dropped)

    def decode_columns(
        self, tile: Tile, hidden: Tensor, modality: str, columns: slice, step: int | None = None
    ) -> Params:
        """Return likelihood parameters of subspots, on a path between the kriged field and the network."""
        likelihood = self.likelihood(modality).part(columns)
        raw = self.decoder.heads(hidden, modality, columns)
        if tile.field.shape[1]:
            field = self._field(tile, modality, columns)
            location = torch.lerp(field, raw[..., 0], self._network_share(tile, step))
            if step is None:
                middle = likelihood.location_of(self.field_decoder.middle(modality, columns))
                location = torch.lerp(middle, location, self.strength)
            raw = location[..., None] if raw.shape[-1] == 1 else torch.cat([location[..., None], raw[..., 1:]], -1)
        return likelihood.parameters_of(raw)

    def _field(self, tile: Tile, modality: str, columns: slice) -> Tensor:
        """Return the location parameter that the kriged field alone would give, ``(n_subspots, n_columns)``."""
        likelihood = self.likelihood(modality).part(columns)
        return self._constant(
            tile,
            ("field", modality, columns.start),
            lambda: likelihood.location_of(self.field_decoder(tile.field, modality, columns)),
        )

    def _equal_parts(self, tile: Tile, modality: str, columns: slice) -> Tensor:
        """Return minus the spots' equal parts in deviations over spots, ``(n_subspots, n_columns)``."""
        likelihood = self.likelihood(modality).part(columns)
        return self._constant(
            tile,
            ("equal_parts", modality, columns.start),
            lambda: -likelihood.copy_down(tile.profiles[modality][:, columns], tile.within) / likelihood.feature_sd,
        )

    def _constant(self, tile: Tile, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        """Return what training does not change, kept with the tile unless all tiles of the section would keep too much."""
        n_features = sum(self.likelihood(m).n_features for m in self.likelihoods)
        if self.training and tile.n_section_subspots * n_features <= LARGEST_KEPT:
            return tile.once((self._owner, *key), make)
        with torch.no_grad():
            return make()

    def _network_share(self, tile: Tile, step: int | None) -> Tensor:
        """Return how far along the path each subspot stands, ``(n_subspots, 1)``: in training a uniform draw per spot."""
        s = self.settings
        if step is None:
            return tile.image_features.new_full((len(tile.subspot_keys), 1), s.network_share)
        return tile.within.gather(keyed_uniform(s.seed, step, "path", tile.keys, 1)).to(tile.image_features.dtype)

    def evaluate(self, tile: Tile, z: Tensor, step: int | None, with_graph: bool) -> tuple[Tensor, Tensor | None]:
        """Return the log probability of core spots given the sum over their subspots, and the image term.

        That is the cross-entropy of residuals' inner products against the subspot graph.
        """
        hidden = self.hidden(tile, z, step)
        pairs = self._pairs(tile) if with_graph else None

        def one(modality: str, columns: slice) -> tuple[Tensor, ...]:
            p = self.decode_columns(tile, hidden, modality, columns, step)
            likelihood = self.likelihood(modality).part(columns)
            total = likelihood.aggregate(p, tile.parent)
            log_prob = likelihood.log_prob(tile.core_profiles(modality)[:, columns], total).sum(1)
            if not with_graph:
                return (log_prob,)
            equal = self._equal_parts(tile, modality, columns)
            e = torch.addcmul(equal, likelihood.mean(p), 1 / likelihood.feature_sd)
            if pairs is None:
                return log_prob, e
            found = pairs.products(e)
            return log_prob, found.edges, found.sampled

        blocks = self.in_blocks(len(hidden), one)
        log_prob = reduce(add, [b[0] for modality in blocks for b in modality])
        log_prob = torch.where(tile.parent.n_per_spot > 0, log_prob, torch.zeros_like(log_prob))
        if not with_graph:
            return log_prob, None
        if pairs is not None:
            return log_prob, pairs([reduce(add, [Products(*b[1:]) for b in modality]) for modality in blocks])
        counted, rows, edges = self._graph(tile)
        residuals = [torch.cat([b[1] for b in modality], 1) * counted[:, None] for modality in blocks]
        return log_prob, graph_cross_entropy(residuals, edges, rows, tile.n_section_subspots, 0)

    def _pairs(self, tile: Tile) -> SampledPairs | None:
        """Return the pairs of this step, or ``None`` where the sum over all is exact."""
        n_pairs = pairs_to_sample(len(tile.subspot_keys), self.settings.n_pairs)
        if not n_pairs:
            return None
        counted, rows, edges = self._graph(tile)
        draw, n_modalities = lambda n: self.pair_draw(tile, n), len(self.likelihoods)  # noqa: E731
        return SampledPairs(edges, rows, counted, tile.n_section_subspots, n_pairs, draw, n_modalities)

    def _graph(self, tile: Tile) -> tuple[Tensor, Tensor, SparseMatrix]:
        """Return which subspots have a residual (those of spots that are trained on), which of them count, and their edges."""

        def make() -> tuple[Tensor, Tensor, SparseMatrix]:
            counted = tile.within.assigned & ~tile.within.gather(tile.held_out)
            core = tile.subspot_core & counted
            return counted, core.nonzero()[:, 0], with_diagonal(tile.subspot_graph, core, counted)

        return tile.once("subspot_edges", make)

    @torch.no_grad()
    def calibrate(self, tiles: Sequence[Tile]) -> None:
        """Set ``strength`` so that spots vary as much as the field says: a network stopped early varies less.

        The slope of the field's spot means on the result's, centred per feature and pooled over features.
        """
        if not len(self.field_decoder.loadings):
            return
        totals: dict[int, Tensor] = {}
        for tile in tiles:
            totals[tile.section] = totals.get(tile.section, 0) + self._moments(tile)
        shared = square = 0.0
        for n, wanted, result, product, squared in (t.unbind(0) for t in totals.values()):
            shared += float((product - wanted * result / n).sum())
            square += float((squared - result**2 / n).sum())
        self.strength.fill_(shared / square if square > 0 else 1.0)

    def _moments(self, tile: Tile) -> Tensor:
        """Return sums over a tile's trained spots, ``(5, n_features)``: ones, field, result, product, result squared."""
        hidden = self.hidden(tile, self.encode(tile, ~tile.held_out).mean)
        trained = ~tile.held_out[: tile.n_core]

        def one(modality: str, columns: slice) -> tuple[Tensor]:
            field = self._field(tile, modality, columns)
            network = self.decoder.heads(hidden, modality, columns)[..., 0]
            wanted, network = (tile.parent.mean(v)[trained].double() for v in (field, network))
            result = wanted + self.settings.network_share * (network - wanted)
            return (torch.stack([torch.ones_like(wanted), wanted, result, result * wanted, result**2]).sum(1),)

        return torch.cat([b[0] for modality in self.in_blocks(len(hidden), one) for b in modality], 1)
