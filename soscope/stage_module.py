"""What both LightningModules share: hidden spots, keyed noise, the loss's frame, logging."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from soscope.data.tiles import Tile
from soscope.likelihoods import Likelihood
from soscope.nn.gaussian import Latent
from soscope.nn.noise import keyed_mask, keyed_normal, keyed_uniform
from soscope.nn.schedule import Exponential


@dataclass
class TrainingSettings:
    """Numbers of a training stage.

    Attributes
    ----------
    seed
        Root of all randomness.
    mask_share
        Share of the other spots hidden from their own encoder input at each step, so that the decoder must use what lies
        around a spot and its image.
    beta
        Weight of the KL over steps.
    graph_weight
        Weight of the cross-entropy over pairs.
    n_pairs
        Pairs of that term: ``None`` by size, 0 exact, otherwise sampled.
    learning_rate
        Adam's.
    median_weight
        Weight of the median edge of the spot graph, one over its scale.
    dropout
        Share of image features and hidden units dropped per subspot and step.
    network_share
        Part of the decoder's network in a result, the rest being the kriged field's.
    """

    seed: int = 0
    mask_share: float = 0.5
    beta: Exponential = field(default_factory=Exponential)
    graph_weight: float = 1.0
    n_pairs: int | None = None
    learning_rate: float = 1e-3
    dropout: float = 0.65
    network_share: float = 0.3
    median_weight: float = 0.2


class StageModule(pl.LightningModule, ABC):
    """An encoder, likelihoods and what a subclass decodes.

    Parameters
    ----------
    stage
        Name under which losses are logged.
    encoder
        From profiles to q(z | X, A).
    likelihoods
        One per modality.
    settings
        Numbers of this stage.

    Notes
    -----
    ``widening``, an attribute, says per modality how many times as large subspots' variances are in the conditional posterior,
    where its intervals were found too narrow or too wide; it plays no part in training.
    """

    def __init__(
        self, stage: str, encoder: nn.Module, likelihoods: Mapping[str, Likelihood], settings: TrainingSettings
    ) -> None:
        super().__init__()
        self.stage, self.settings = stage, settings
        self.widening: dict[str, float] = {}
        self.encoder = encoder
        self.likelihoods = nn.ModuleDict(likelihoods)

    @property
    def monitor(self) -> str:
        """Return the name of the held-out loss."""
        return f"{self.stage}/held_out_loss"

    @abstractmethod
    def decode(self, tile: Tile, z: Tensor, step: int | None = None) -> dict[str, dict[str, Tensor]]:
        """Return likelihood parameters per modality; a ``step`` means training, with that step's dropout."""

    @abstractmethod
    def spot_log_prob(self, tile: Tile, decoded: dict[str, dict[str, Tensor]]) -> Tensor:
        """Return the summed log probability of each spot's profiles, ``(n_spots,)``."""

    @abstractmethod
    def graph_term(self, tile: Tile, z: Tensor, decoded: dict[str, dict[str, Tensor]]) -> Tensor:
        """Return this tile's part of the cross-entropy over all pairs, without what belongs to held-out spots."""

    def encode(self, tile: Tile, visible: Tensor) -> Latent:
        """Return q(z | X, A) with only the ``visible`` spots' profiles shown.

        Edges that touch a hidden spot get the median's weight: the similarity of profiles would tell of what is hidden.
        """
        known = visible[tile.spot_edges].all(0)
        weight = torch.where(known, tile.spot_weight, torch.full_like(tile.spot_weight, self.settings.median_weight))
        return self.encoder(tile.profiles, tile.library_size, tile.spot_edges, weight, visible)

    def losses(self, tile: Tile, step: int) -> dict[str, Tensor]:
        """Return this tile's part of each term; over the tiles of a section the parts add up (pairs: in expectation).

        Reconstruction and KL are sums over core spots that are not held out, divided by the section's number of spots.
        """
        s = self.settings
        held = tile.held_out
        masked = keyed_mask(s.seed, step, "mask", tile.keys, s.mask_share)
        latent = self.encode(tile, ~(held | masked))
        z = latent.sample(keyed_normal(s.seed, step, "z", tile.keys, latent.mean.shape[1]))
        decoded = self.decode(tile, z, step)
        counts = (tile.core & ~held).to(z.dtype) / tile.n_section_spots
        terms = {
            "reconstruction": -(self.spot_log_prob(tile, decoded) * counts).sum(),
            "kl": (latent.kl() * counts).sum(),
        }
        if s.graph_weight:
            terms["graph"] = self.graph_term(tile, z, decoded)
        beta = s.beta.at(step)
        terms["loss"] = (
            terms["reconstruction"] + beta * terms["kl"] + s.graph_weight * terms.get("graph", z.new_zeros(()))
        )
        return terms

    def calibrate(self, tiles: Sequence[Tile]) -> None:  # noqa: B027
        """Set what can only be known after training, from whole tiles; nothing by default."""

    def training_step(self, tile: Tile, batch_idx: int) -> Tensor:
        """Take one tile; the loss is divided by the number of features, so that the clipping threshold fits any panel."""
        terms = self.losses(tile, self.global_step)
        for name, value in terms.items():
            self.log(
                f"{self.stage}/train_{name}", value.detach(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True
            )
        return terms["loss"] / sum(x.shape[1] for x in tile.profiles.values())

    def validation_step(self, tile: Tile, batch_idx: int) -> None:
        """Score held-out spots from what lies around them: minus the mean log probability at the mean of z."""
        held = tile.held_out
        chosen = held & tile.core
        decoded = self.decode(tile, self.encode(tile, ~held).mean)
        loss = -(self.spot_log_prob(tile, decoded) * chosen).sum() / chosen.sum().clamp(min=1)
        self.log(self.monitor, loss, prog_bar=True, batch_size=max(int(chosen.sum()), 1), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate)

    def pair_draw(self, tile: Tile, n_pairs: int) -> Tensor:
        """Draw ``(n_pairs, 2)`` uniforms for this tile at this step."""
        keys = torch.arange(n_pairs, device=tile.keys.device) + tile.keys[:1]
        return keyed_uniform(self.settings.seed, self.global_step, "pairs", keys, 2)
