"""The two LightningModules of the published program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from soscope.data.tiles import Tile
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
    """Numbers of a stage; ``scale``, ``gamma`` and ``optimizer`` as in `soscope.released.settings.ReleasedStage`."""

    scale: float = 1.0
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
        decoded = self.decode(tile, z, step)
        share = tile.core.to(z.dtype) / tile.n_section_spots
        terms = {
            "reconstruction": -(self.spot_log_prob(tile, decoded) * share).sum(),
            "kl": (sampled_kl(latent, z) * share).sum(),
        }
        if s.graph_weight:
            terms["graph"] = self.graph_term(tile, z, decoded)
        total = terms["reconstruction"] + s.beta.at(step) * terms["kl"]
        terms["loss"] = s.gamma.at(step) * (total + s.graph_weight * terms.get("graph", z.new_zeros(())))
        return terms

    def training_step(self, tile: Tile, batch_idx: int) -> Tensor:
        """Take one tile; the loss is not divided by the number of features, there being no clipping it has to fit."""
        return super().training_step(tile, batch_idx) * sum(x.shape[1] for x in tile.profiles.values())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the demo's optimizer over all parameters."""
        return OPTIMIZERS[self.settings.optimizer](self.parameters(), lr=self.settings.learning_rate)


class ReleasedVGAE(ReleasedModule, GraphAutoencoder):
    """Stage 1: -log p(x | z) + cross-entropy of sigmoid(z z^T) against the spot graph + beta KL."""

    def graph_term(self, tile: Tile, z: Tensor, decoded: dict[str, dict[str, Tensor]]) -> Tensor:
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

    def __init__(
        self,
        encoder: ReleasedEncoder,
        decoder: ReleasedSubspotDecoder,
        likelihoods: Mapping[str, ReleasedLikelihood],
        settings: ReleasedSettings,
    ) -> None:
        super().__init__("finetune", encoder, likelihoods, settings)
        self.decoder = decoder

    def decode(self, tile: Tile, z: Tensor, step: int | None = None) -> dict[str, dict[str, Tensor]]:
        """Return parameters of subspots; in training ``mu`` is what enters the loss, for real values a sample."""
        decoded = {}
        for m, raw in self.decoder(z, tile.image_features, tile.parent).items():
            likelihood: ReleasedLikelihood = self.likelihoods[m]  # type: ignore[assignment]
            p = likelihood.parameters_of(raw)
            decoded[m] = p if step is None else likelihood.drawn(p, self._normal(tile, step, m))
        return decoded

    def _normal(self, tile: Tile, step: int, modality: str) -> Any:
        offset = list(self.likelihoods).index(modality) << 32  # another range of ids for every modality
        return lambda width: keyed_normal(self.settings.seed, step, "subspot", tile.subspot_keys + offset, width)

    def spot_log_prob(self, tile: Tile, decoded: dict[str, dict[str, Tensor]]) -> Tensor:
        """Return minus the squared error of each spot, averaged over features, by ``scale``; no likelihood is taken."""
        cost = torch.zeros_like(tile.core, dtype=tile.image_features.dtype)
        for m, p in decoded.items():
            total = self.likelihoods[m].aggregate(p, tile.parent)["mu"]  # type: ignore[operator]
            cost = cost + (total - tile.profiles[m]).square().mean(1)
        return torch.where(tile.parent.n_per_spot > 0, -cost / self.settings.scale, torch.zeros_like(cost))

    def graph_term(self, tile: Tile, z: Tensor, decoded: dict[str, dict[str, Tensor]]) -> Tensor:
        """Return the cross-entropy of raw residuals' inner products against the subspot graph."""
        counted = tile.parent.assigned
        residuals = []
        for m, p in decoded.items():
            likelihood: ReleasedLikelihood = self.likelihoods[m]  # type: ignore[assignment]
            e = likelihood.mean(p) - likelihood.copy_down(tile.profiles[m], tile.parent)
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
