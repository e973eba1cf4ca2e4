"""The two LightningModules of the published program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from soscope.data.tiles import Tile
from soscope.likelihoods.base import Params
from soscope.nn.gaussian import Latent
from soscope.nn.noise import keyed_normal
from soscope.nn.schedule import Exponential
from soscope.pretrain import GraphAutoencoder
from soscope.released.graph_terms import saturating_cross_entropy
from soscope.released.likelihoods import ReleasedLikelihood
from soscope.released.networks import ReleasedEncoder, ReleasedSubspotDecoder
from soscope.stage_module import StageModule, TrainingSettings

OPTIMIZERS: dict[str, Any] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass
class ReleasedSettings(TrainingSettings):
    """Numbers of a stage; ``scale``, ``scales``, ``gamma`` and ``optimizer`` as in `soscope.demos.ReleasedStage`."""

    scale: float = 1.0
    scales: dict[str, float] = field(default_factory=dict)
    gamma: Exponential = field(default_factory=lambda: Exponential(1.0, 1.0))
    optimizer: str = "adam"


class ReleasedModule(StageModule):
    """What both stages do otherwise than ours: no spot is hidden, KL from one sample, the whole loss times gamma."""

    settings: ReleasedSettings

    def encode(self, tile: Tile, visible: Tensor) -> Latent:
        """Return q(z | X, A) from the raw profiles of all spots, whatever is ``visible``."""
        return self.encoder(torch.cat(list(tile.profiles.values()), 1), tile.spot_edges)

    def losses(self, tile: Tile, step: int) -> dict[str, Tensor]:
        """Return each term: means over the section's spots, and the loss ``gamma (reconstruction + graph + beta KL)``."""
        s = self.settings
        latent = self.encode(tile, torch.ones_like(tile.core))
        z = latent.sample(keyed_normal(s.seed, step, "z", tile.keys, latent.mean.shape[1]))
        log_prob, graph = self.evaluate(tile, z, step, s.graph_weight > 0)
        terms = {
            "reconstruction": -log_prob.sum() / tile.n_section_spots,
            "kl": sampled_kl(latent, z)[: tile.n_core].sum() / tile.n_section_spots,
        }
        total = terms["reconstruction"] + s.beta.at(step) * terms["kl"]
        if graph is not None:
            terms["graph"] = graph
            total = total + s.graph_weight * graph
        terms["loss"] = s.gamma.at(step) * total
        return terms

    def training_step(self, tile: Tile, batch_idx: int) -> Tensor:
        """Take one tile; the loss is not divided by the number of features, there being no clipping it has to fit."""
        return super().training_step(tile, batch_idx) * sum(x.shape[1] for x in tile.profiles.values())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the demo's optimizer over all parameters."""
        return OPTIMIZERS[self.settings.optimizer](self.parameters(), lr=self.settings.learning_rate)


class ReleasedVGAE(ReleasedModule, GraphAutoencoder):
    """Stage 1: -log p(x | z) + cross-entropy of sigmoid(z z^T) against the spot graph + beta KL."""

    def hidden(self, tile: Tile, z: Tensor, step: int | None = None) -> Any:
        """Return unconstrained parameters of core spots."""
        return self.decoder(z[: tile.n_core])

    def decode_columns(self, tile: Tile, hidden: Any, modality: str, columns: slice, step: int | None = None) -> Params:
        """Return parameters of core spots."""
        return self.likelihood(modality).parameters_of(hidden[modality][:, columns])

    def graph_term(self, tile: Tile, z: Tensor) -> Tensor:
        """Return the cross-entropy of sigmoid(z z^T) against the spot graph."""
        return saturating_cross_entropy(
            [z],
            tile.spot_graph,
            tile.core,
            tile.n_section_spots,
            self.settings.n_pairs,
            lambda n: self.pair_draw(tile, n),
        )


class ReleasedSVAE(ReleasedModule):
    """Stage 2: squared error of the summed subspots, the image term on raw residuals, beta KL."""

    pairs_subspots = True

    def __init__(
        self,
        encoder: ReleasedEncoder,
        decoder: ReleasedSubspotDecoder,
        likelihoods: Mapping[str, ReleasedLikelihood],
        settings: ReleasedSettings,
    ) -> None:
        super().__init__("finetune", encoder, likelihoods, settings)
        self.decoder = decoder

    def hidden(self, tile: Tile, z: Tensor, step: int | None = None) -> dict[str, Params]:
        """Return parameters of subspots; in training ``mu`` is what enters the loss, for real values a sample."""
        decoded = {}
        for m, raw in self.decoder(z, tile.image_features, tile.within).items():
            likelihood: ReleasedLikelihood = self.likelihoods[m]  # type: ignore[assignment]
            p = likelihood.parameters_of(raw)
            decoded[m] = p if step is None else likelihood.drawn(p, self._normal(tile, step, m))
        return decoded

    def decode_columns(
        self, tile: Tile, hidden: dict[str, Params], modality: str, columns: slice, step: int | None = None
    ) -> Params:
        """Return the parameters of some features."""
        return {k: v[..., columns] for k, v in hidden[modality].items()}

    def _normal(self, tile: Tile, step: int, modality: str) -> Any:
        offset = list(self.likelihoods).index(modality) << 32  # another range of ids for every modality
        return lambda width: keyed_normal(self.settings.seed, step, "subspot", tile.subspot_keys + offset, width)

    def evaluate(self, tile: Tile, z: Tensor, step: int | None, with_graph: bool) -> tuple[Tensor, Tensor | None]:
        """Return minus the squared error of each core spot, averaged over features, by ``scale``, and the image term.

        No likelihood is taken; the term is the cross-entropy of raw residuals' inner products against the subspot graph.
        """
        decoded = self.hidden(tile, z, step)
        cost = tile.image_features.new_zeros(tile.n_core)
        for m, p in decoded.items():
            total = self.likelihood(m).aggregate(p, tile.parent)["mu"]
            scale = self.settings.scales.get(m, self.settings.scale)
            cost = cost + (total - tile.core_profiles(m)).square().mean(1) / scale
        cost = torch.where(tile.parent.n_per_spot > 0, -cost, torch.zeros_like(cost))
        return cost, self._image_term(tile, decoded) if with_graph else None

    def _image_term(self, tile: Tile, decoded: dict[str, Params]) -> Tensor:
        counted = tile.within.assigned
        residuals = []
        for m, p in decoded.items():
            e = self.likelihood(m).mean(p) - self.likelihood(m).copy_down(tile.profiles[m], tile.within)
            residuals.append(e * counted[:, None])
        return saturating_cross_entropy(
            residuals,
            tile.subspot_graph,
            tile.subspot_core & counted,
            tile.n_section_subspots,
            self.settings.n_pairs,
            lambda n: self.pair_draw(tile, n),
        )


def sampled_kl(latent: Latent, z: Tensor) -> Tensor:
    """Return ``log q(z) - log p(z)`` of each spot at one sample, ``(n_spots,)``."""
    standard = (z - latent.mean) / latent.scale
    return (0.5 * (z.square() - standard.square()) - latent.scale.log()).sum(-1)
