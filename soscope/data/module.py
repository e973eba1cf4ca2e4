"""LightningDataModule over the tiles of all sections."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from soscope import contract
from soscope.data.field import Components, krige_components, smooth_over_neighbours, stabilised_levels
from soscope.data.section import Section
from soscope.data.tiles import Tile, held_out_spots, make_tile
from soscope.errors import DataError
from soscope.likelihoods import Likelihood


class TileDataset(Dataset[Tile]):
    """Tiles in turn, an epoch being ``n_steps`` steps of one tile each."""

    def __init__(self, tiles: list[Tile], n_steps: int) -> None:
        self.tiles, self.n_steps = tiles, n_steps

    def __len__(self) -> int:
        return self.n_steps

    def __getitem__(self, step: int) -> Tile:
        return self.tiles[step % len(self.tiles)]


class SectionsDataModule(pl.LightningDataModule):
    """Prepared sections as tiles.

    Parameters
    ----------
    paths
        Prepared sections, SpatialData zarr.
    modalities
        Tables the model uses.
    z_width
        Width of the bumps by which z continues to subspots, in pitches.
    held_out, seed
        Share of spots never trained on, and the seed they are chosen by.

    Notes
    -----
    ``steps_per_epoch``, an attribute, is the number of training steps in an epoch; each takes one tile.
    """

    def __init__(
        self, paths: list[Path], modalities: list[str], z_width: float = 0.5, held_out: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        self.paths, self.modality_names, self.z_width = paths, modalities, z_width
        self.held_out, self.seed = held_out, seed
        self.steps_per_epoch = 1
        self.sections: list[Section] = []
        self.tiles: list[Tile] = []
        self.result_tiles: list[Tile] = []
        self.components: Components | None = None

    def setup(self, stage: str | None = None) -> None:
        """Load the sections once and cut their tiles."""
        if self.sections:
            return
        self.sections = [Section.from_sdata(contract.open_section(p), self.modality_names) for p in self.paths]
        first = self.sections[0]
        for section in self.sections[1:]:
            if section.features != first.features:
                raise DataError(
                    f"sections '{first.name}' and '{section.name}' hold different features; prepare them together."
                )
        held = self._held_out()
        self.tiles = [
            make_tile(s, i, z_width=self.z_width, held_out=h)
            for i, (s, h) in enumerate(zip(self.sections, held, strict=True))
        ]
        self.result_tiles = self.tiles

    def add_field(
        self, likelihoods: Mapping[str, Likelihood], n_components: int, smoothing: float, weigh_encoders: bool = True
    ) -> Components:
        """Smooth image features, krige the leading components of spots, and give both to the tiles; done once.

        Tiles of training know nothing of held-out spots; those of the result know every spot.

        Parameters
        ----------
        likelihoods
            Per modality, with their starting values.
        n_components
            Components kriged; none with 0.
        smoothing
            Width by which image features are averaged over neighbours, in subspot pitches.
        weigh_encoders
            Whether the field finds out which encoder's features say most, or takes all features as one.
        """
        if self.components is None:
            held = self._held_out()
            levels = [stabilised_levels(s, likelihoods) for s in self.sections]
            known = np.concatenate([level[~h] for level, h in zip(levels, held, strict=True)])
            self.components = Components.fit(known, n_components)
            features = [smooth_over_neighbours(s, smoothing) for s in self.sections]
            if not weigh_encoders:
                self.sections = [s.with_image_as_one() for s in self.sections]
            self.tiles = self._with_field(self.components, features, levels, held)
            everything = [np.zeros_like(h) for h in held]
            self.result_tiles = self._with_field(self.components, features, levels, everything)
        return self.components

    def _with_field(
        self, components: Components, features: list[np.ndarray], levels: list[np.ndarray], hidden: list[np.ndarray]
    ) -> list[Tile]:
        fields: list[Any] = [None] * len(self.sections)
        if len(components.loadings):
            fields = krige_components(self.sections, features, levels, components, hidden)
        return [
            make_tile(s, i, z_width=self.z_width, held_out=h, image_features=y, field=f)
            for i, (s, h, y, f) in enumerate(zip(self.sections, self._held_out(), features, fields, strict=True))
        ]

    def _held_out(self) -> list[np.ndarray]:
        return [held_out_spots(s, self.seed, self.held_out) for s in self.sections]

    @property
    def features(self) -> dict[str, list[str]]:
        """Feature names per modality."""
        return self.sections[0].features

    @property
    def n_image(self) -> int:
        """Number of image features."""
        return self.sections[0].image_features.shape[1]

    def train_dataloader(self) -> DataLoader[Any]:
        """Return tiles in turn for one epoch of many steps."""
        return _loader(TileDataset(self.tiles, self.steps_per_epoch))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return every tile once."""
        return _loader(TileDataset(self.tiles, len(self.tiles)))

    def transfer_batch_to_device(self, batch: Tile, device: torch.device, dataloader_idx: int) -> Tile:
        """Move a tile; Lightning does not know its type."""
        return batch if batch.keys.device == device else batch.to(device)


def _loader(dataset: TileDataset) -> DataLoader[Any]:
    return DataLoader(dataset, batch_size=None, shuffle=False, num_workers=0, collate_fn=lambda tile: tile)
