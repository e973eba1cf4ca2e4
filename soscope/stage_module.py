"""What both LightningModules share: hidden spots, keyed noise, the loss's frame, logging."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from soscope.data.tiles import LARGEST_BLOCK, Tile
from soscope.likelihoods import Likelihood
from soscope.likelihoods.base import Params
from soscope.nn.gaussian import Latent
from soscope.nn.graph_terms import pairs_to_sample
from soscope.nn.noise import keyed_mask, keyed_normal, keyed_uniform
from soscope.nn.schedule import Exponential

log = logging.getLogger("soscope")


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
    n_covariates
        Sections a model tells apart by a covariate each; 0 where it does not.
    known_sections
        Whether the sections are those it was trained on; others have no covariate of their own.
    """

    seed: int = 0
    mask_share: float = 0.5
    beta: Exponential = field(default_factory=Exponential)
    graph_weight: float = 1.0
    n_pairs: int | None = None
    learning_rate: float = 1e-3
    dropout: float = 0.65
    network_share: float = 0.3
    n_covariates: int = 0
    known_sections: bool = True
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

    pairs_subspots: ClassVar[bool] = False
    """Whether the graph term pairs subspots, not spots."""

    def __init__(
        self, stage: str, encoder: nn.Module, likelihoods: Mapping[str, Likelihood], settings: TrainingSettings
    ) -> None:
        super().__init__()
        self.stage, self.settings = stage, settings
        self.widening: dict[str, float] = {}
        self.encoder = encoder
        self.likelihoods = nn.ModuleDict(likelihoods)
        self._held_out_loss = [torch.zeros(()), torch.zeros(())]

    @property
    def monitor(self) -> str:
        """Return the name of the held-out loss."""
        return f"{self.stage}/held_out_loss"

    @abstractmethod
    def hidden(self, tile: Tile, z: Tensor, step: int | None = None) -> Any:
        """Return what features are decoded from; a ``step`` means training, with that step's dropout."""

    @abstractmethod
    def decode_columns(self, tile: Tile, hidden: Any, modality: str, columns: slice, step: int | None = None) -> Params:
        """Return likelihood parameters of some features of a modality."""

    @abstractmethod
    def evaluate(self, tile: Tile, z: Tensor, step: int | None, with_graph: bool) -> tuple[Tensor, Tensor | None]:
        """Return the summed log probability of each core spot's profiles, ``(n_core,)``, and the graph term.

        The term is this tile's part of the cross-entropy over all pairs, without what belongs to held-out spots.
        """

    def likelihood(self, modality: str) -> Likelihood:
        """Return a modality's likelihood."""
        return self.likelihoods[modality]  # type: ignore[return-value]

    def decode(self, tile: Tile, z: Tensor, step: int | None = None) -> dict[str, Params]:
        """Return likelihood parameters of all features per modality."""
        hidden = self.hidden(tile, z, step)
        return {m: self.decode_columns(tile, hidden, m, slice(None), step) for m in self.likelihoods}

    def in_blocks(
        self, n_rows: int, evaluate: Callable[[str, slice], tuple[Tensor, ...]]
    ) -> list[list[tuple[Tensor, ...]]]:
        """Return what ``evaluate`` gives for each modality's blocks of features; several blocks are computed again in backward.

        Parameters
        ----------
        n_rows
            Rows that are decoded, so that a block has at most `LARGEST_BLOCK` entries.
        evaluate
            From a modality and columns to tensors.
        """
        width = max(LARGEST_BLOCK // max(n_rows, 1), 1)
        found = []
        for m in self.likelihoods:
            n = self.likelihood(m).n_features
            blocks = [slice(i, min(i + width, n)) for i in range(0, n, width)]
            if len(blocks) == 1:
                found.append([evaluate(m, slice(None))])
            else:
                found.append([checkpoint(evaluate, m, b, use_reentrant=False) for b in blocks])
        return found

    def encode(self, tile: Tile, visible: Tensor) -> Latent:
        """Return q(z | X, A) with only the ``visible`` spots' profiles shown.

        Edges that touch a hidden spot get the median's weight: the similarity of profiles would tell of what is hidden.
        """
        known = visible[tile.spot_edges].all(0)
        weight = torch.where(known, tile.spot_weight, torch.full_like(tile.spot_weight, self.settings.median_weight))
        neighbours = tile.neighbours
        return self.encoder(
            tile.profiles, tile.library_size, neighbours, weight[neighbours.order], visible, self.covariates(tile)
        )

    def covariates(self, tile: Tile) -> Tensor:
        """Return what is known of a tile's section beside its profiles, ``(n_covariates,)``.

        One for the section and zero for the others, less their mean, so that an unseen section, all zeros, is an average one.
        """
        n = self.settings.n_covariates
        row = tile.spot_weight.new_zeros(n)
        if n and self.settings.known_sections:
            row = row - 1 / n
            row[tile.section] += 1
        return row

    def losses(self, tile: Tile, step: int) -> dict[str, Tensor]:
        """Return this tile's part of each term; over the tiles of a section the parts add up (pairs: in expectation).

        Reconstruction and KL are sums over core spots that are not held out, divided by the section's number of spots.
        """
        s, n = self.settings, tile.n_core
        held = tile.held_out
        masked = keyed_mask(s.seed, step, "mask", tile.keys, s.mask_share)
        latent = self.encode(tile, ~(held | masked))
        z = latent.sample(keyed_normal(s.seed, step, "z", tile.keys, latent.mean.shape[1]))
        log_prob, graph = self.evaluate(tile, z, step, s.graph_weight > 0)
        counts = (~held[:n]).to(z.dtype) / tile.n_section_spots
        terms = {"reconstruction": -(log_prob * counts).sum(), "kl": (latent.kl()[:n] * counts).sum()}
        terms["loss"] = terms["reconstruction"] + s.beta.at(step) * terms["kl"]
        if graph is not None:
            terms["graph"] = graph
            terms["loss"] = terms["loss"] + s.graph_weight * graph
        return terms

    def compile_layers(self) -> None:
        """Have torch compile the decoders' hidden layers when they first run; weights keep their names."""
        for part in self.modules():
            if isinstance(part, nn.Sequential):
                part.compile(dynamic=True)

    def calibrate(self, tiles: Sequence[Tile]) -> None:  # noqa: B027
        """Set what can only be known after training, from all tiles; nothing by default."""

    def training_step(self, tile: Tile, batch_idx: int) -> Tensor:
        """Take one tile, which stands for its section: the loss is multiplied by the section's number of tiles.

        It is divided by the number of features, so that the clipping threshold fits any panel.
        """
        if self.global_step == 0 and self.settings.graph_weight > 0 and self.global_rank == 0:
            self._say_pairs(tile)
        terms = {name: value * tile.n_section_tiles for name, value in self.losses(tile, self.global_step).items()}
        for name, value in terms.items():
            self.log(
                f"{self.stage}/train_{name}", value.detach(), on_step=False, on_epoch=True, batch_size=1, sync_dist=True
            )
        return terms["loss"] / sum(x.shape[1] for x in tile.profiles.values())

    def _say_pairs(self, tile: Tile) -> None:
        """Tell how the sum over all pairs is taken."""
        n, kind = (len(tile.subspot_keys), "subspots") if self.pairs_subspots else (len(tile.keys), "spots")
        sampled = pairs_to_sample(n, self.settings.n_pairs)
        how = f"{sampled:,} sampled at a step (graph.n_pairs=0 takes all)" if sampled else "all taken"
        log.info("%s: pairs of %s %s of a tile: %s", self.stage, f"{n:,}", kind, how)

    def on_validation_epoch_start(self) -> None:
        """Start a new sum over tiles."""
        self._held_out_loss = [torch.zeros((), device=self.device), torch.zeros((), device=self.device)]

    def validation_step(self, tile: Tile, batch_idx: int) -> None:
        """Score held-out spots from what lies around them: minus the log probability at the mean of z."""
        chosen = tile.held_out[: tile.n_core]
        if not bool(chosen.any()):
            return
        log_prob, _ = self.evaluate(tile, self.encode(tile, ~tile.held_out).mean, None, False)
        self._held_out_loss[0] -= (log_prob * chosen).sum()
        self._held_out_loss[1] += chosen.sum()

    def on_validation_epoch_end(self) -> None:
        """Log the mean over the held-out spots of all tiles, whichever process had them."""
        total = self.trainer.strategy.reduce(torch.stack(self._held_out_loss), reduce_op="sum")
        self.log(self.monitor, total[0] / total[1].clamp(min=1), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all parameters."""
        return torch.optim.Adam(self.parameters(), lr=self.settings.learning_rate)

    def pair_draw(self, tile: Tile, n_pairs: int) -> Tensor:
        """Draw ``(n_pairs, 2)`` uniforms for this tile at this step."""
        keys = torch.arange(n_pairs, device=tile.keys.device) + tile.keys[:1]
        return keyed_uniform(self.settings.seed, self.global_step, "pairs", keys, 2)
