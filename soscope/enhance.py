"""From a trained model to the profiles of subspots."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse

from soscope.data.cutter import TileCutter
from soscope.data.tiles import Tile
from soscope.posteriors import Posterior
from soscope.split import Split
from soscope.stage_module import StageModule

QUANTILES = (0.05, 0.95)
FEATURE_BLOCK = 256
LARGEST_RESULT = 2**20
"""Entries, subspots times features, whose results are in memory at a time: more take longer, as `LARGEST_BLOCK` does."""


class Block(NamedTuple):
    """The posterior of some features of a modality: ``columns`` of its table."""

    modality: str
    columns: slice
    posterior: Posterior


@torch.no_grad()
def latent_means(model: StageModule, tiles: Iterable[Tile], n_spots: Sequence[int]) -> list[np.ndarray]:
    """Return the latent mean of every spot of every section, every spot shown, ``(n_spots, n_latent)`` each.

    Parameters
    ----------
    model
        Trained; runs without dropout.
    tiles
        All tiles of all sections.
    n_spots
        Number of spots of each section.
    """
    model.eval()
    found: list[Any] = [None] * len(n_spots)
    for tile in tiles:
        mean = model.encode(tile, torch.ones_like(tile.core)).mean[: tile.n_core].numpy()
        if found[tile.section] is None:
            found[tile.section] = np.zeros((n_spots[tile.section], mean.shape[1]), dtype=mean.dtype)
        found[tile.section][tile.rows[: tile.n_core].numpy()] = mean
    return found


class Divider:
    """A trained model with a section whose latent means are known: divides spots, some rows of subspots at a time.

    Parameters
    ----------
    model
        Trained.
    cutter
        Of the section.
    latent
        Latent means of its spots, ``(n_spots, n_latent)``.
    posterior
        ``conditional`` on the observed spots, whose subspots then add up to them, or ``prior``: the decoder alone.
    """

    def __init__(self, model: StageModule, cutter: TileCutter, latent: np.ndarray, posterior: str) -> None:
        self.model, self.cutter, self.latent, self.posterior = model, cutter, latent, posterior

    def row_blocks(self, size: int | None = None) -> list[np.ndarray]:
        """Divide subspots into consecutive rows, about ``size`` or as many as fit memory with all features; spots stay whole."""
        n_features = sum(self.model.likelihood(m).n_features for m in self.model.likelihoods)
        parent = self.cutter.section.parent
        size = size or max(LARGEST_RESULT // n_features, 1)
        ends = np.append(np.flatnonzero(np.diff(parent)) + 1, len(parent))
        wanted = np.arange(size, len(parent), size)
        cuts = np.unique(ends[np.searchsorted(ends, wanted)])
        return [rows for rows in np.split(np.arange(len(parent)), cuts) if len(rows)]

    def tile(self, rows: np.ndarray) -> tuple[Tile, torch.Tensor, np.ndarray]:
        """Return what has to be decoded for some subspots, z of its spots, and where the subspots are among its own."""
        tile = self.cutter.for_decoding(rows)
        place = np.searchsorted(tile.subspot_rows.numpy(), rows)
        return tile, torch.from_numpy(self.latent[tile.rows.numpy()]), place

    def split(self, rows: np.ndarray, with_cdf: bool = False) -> dict[str, Split]:
        """Divide the spots of some subspots and return these, a split per modality.

        Parameters
        ----------
        rows
            Subspots of the section.
        with_cdf
            Whether splits keep their distribution function, and with it the tensors it is made of; for all subspots only.
        """
        tile, z, place = self.tile(rows)
        parts: dict[str, list[Split]] = {}
        width = max(FEATURE_BLOCK, LARGEST_RESULT // max(len(rows), 1))
        for modality, _, given in posteriors(self.model, tile, z, self.posterior, width=width):
            as_sparse = self.model.likelihood(modality).sparse_result and self.posterior == "conditional"
            parts.setdefault(modality, []).append(split_of(given, as_sparse, with_cdf))
        whole = {m: Split.stack_features(p) for m, p in parts.items()}
        return whole if len(tile.subspot_keys) == len(rows) else {m: s.rows(place) for m, s in whole.items()}


@torch.no_grad()
def posteriors(
    model: StageModule,
    tile: Tile,
    z: torch.Tensor,
    posterior: str,
    modalities: Collection[str] | None = None,
    width: int = FEATURE_BLOCK,
) -> Iterator[Block]:
    """Go through blocks of features with the distribution of their subspots.

    Parameters
    ----------
    model
        Trained; runs without dropout.
    tile
        Spots and subspots, from `TileCutter.for_decoding` or whole.
    z
        Latent mean of the tile's spots, ``(n_spots, n_latent)``.
    posterior
        As for `Divider`.
    modalities
        Those wanted; all by default.
    width
        Features of a block, at most.
    """
    model.eval()
    hidden = model.hidden(tile, z)
    for modality in model.likelihoods if modalities is None else modalities:
        n = model.likelihood(modality).n_features
        for start in range(0, n, width):
            chosen = slice(start, min(start + width, n))
            likelihood = model.likelihood(modality).part(chosen)
            p = model.decode_columns(tile, hidden, modality, chosen)
            if posterior == "conditional":
                if modality in model.widening:
                    p = likelihood.widened(p, model.widening[modality])
                given = likelihood.given_total(tile.core_profiles(modality)[:, chosen], p, tile.parent)
            else:
                given = likelihood.prior(p)
            yield Block(modality, chosen, given)


def split_of(posterior: Posterior, as_sparse: bool, with_cdf: bool = False) -> Split:
    """Summarise a posterior; the mean stays in double precision so that sums over a spot keep its count."""

    def store(value: torch.Tensor, dtype: type) -> Any:
        array: Any = value.cpu().numpy().astype(dtype)
        return sparse.csr_matrix(array) if as_sparse else array

    return Split(
        mean=store(posterior.mean(), np.float64),
        sd=store(posterior.sd(), np.float32),
        quantiles={q: store(posterior.quantile(q), np.float32) for q in QUANTILES},
        cdf=posterior.below_and_at if with_cdf else None,
    )
