"""LightningDataModule over the tiles of all sections."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from soscope.data.cutter import TileCutter
from soscope.data.field import Components, krige_components, smooth_over_neighbours, stabilised_levels
from soscope.data.plan import TileOrder, check_devices, choose_tile_spots, cores_of
from soscope.data.section import Section
from soscope.data.store import TileStore
from soscope.data.tiles import LARGEST_BLOCK, Tile, held_out_spots
from soscope.errors import DataError
from soscope.likelihoods import Likelihood
from soscope.rows import joined

log = logging.getLogger("soscope")
FEATURES_SHARE = 1 / 32
"""Share of the memory up to which a section's image features are kept there; larger ones are read as tiles need them."""


@dataclass(frozen=True)
class Tiling:
    """How sections are cut into tiles.

    Attributes
    ----------
    spots
        Core spots of a tile, or ``auto``: as many as fit the memory.
    memory_gb
        Memory, half of it for a training step, half for tiles that are kept ready.
    n_hidden
        Width of the model's hidden layers.
    n_devices
        Devices that share the tiles.
    workers
        Processes that cut tiles ahead of their step.
    """

    spots: int | str = "auto"
    memory_gb: float = 4.0
    n_hidden: int = 128
    n_devices: int = 1
    workers: int = 0


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
    tiling
        How sections are cut.
    field_folder
        Where kriged components are kept, so that later stages and other processes need not krige again.

    Notes
    -----
    ``steps_per_epoch``, an attribute, is the number of training steps in an epoch; each takes one tile. ``known_components``,
    another, are those of a trained model, which sections it has not seen are kriged by.
    """

    def __init__(
        self,
        paths: list[Path],
        modalities: list[str],
        z_width: float = 0.5,
        held_out: float = 0.1,
        seed: int = 0,
        tiling: Tiling | None = None,
        field_folder: Path | None = None,
    ) -> None:
        super().__init__()
        self.paths, self.modality_names, self.z_width = paths, modalities, z_width
        self.held_out, self.seed, self.tiling = held_out, seed, tiling or Tiling()
        self.field_folder = field_folder
        self.steps_per_epoch = 1
        self.sections: list[Section] = []
        self.tiles: TileStore | list[Tile] = []
        self.result_tiles: TileStore | list[Tile] = []
        self.cores: list[list[np.ndarray]] = []
        self.components: Components | None = None
        self.known_components: Components | None = None

    def setup(self, stage: str | None = None) -> None:
        """Load the sections once and plan their tiles.

        Raises
        ------
        DataError
            When sections hold different features.
        ConfigError
            When there are more devices than tiles.
        """
        if self.sections:
            return
        largest = self.tiling.memory_gb * FEATURES_SHARE
        self.sections = [Section.open(p, self.modality_names, largest) for p in self.paths]
        first = self.sections[0]
        for section in self.sections[1:]:
            if section.features != first.features:
                raise DataError(
                    f"sections '{first.name}' and '{section.name}' hold different features; prepare them together."
                )
        self.cut()

    def cut(self) -> None:
        """Plan the tiles of the sections that are loaded, and tell how many there are."""
        t = self.tiling
        at_least = -(-t.n_devices // len(self.sections))
        sizes = [
            choose_tile_spots(s, t.spots, t.memory_gb / 2, t.n_hidden, LARGEST_BLOCK, at_least) for s in self.sections
        ]
        self.cores = [cores_of(s, n) for s, n in zip(self.sections, sizes, strict=True)]
        check_devices(t.n_devices, sum(map(len, self.cores)))
        for section, cores in zip(self.sections, self.cores, strict=True):
            if len(cores) > 1:
                log.info("%s: %d tiles of up to %d spots", section.name, len(cores), max(map(len, cores)))
        held = self._held_out()
        cutters = [TileCutter(s, i, self.z_width, h) for i, (s, h) in enumerate(zip(self.sections, held, strict=True))]
        self.tiles = self.result_tiles = TileStore(cutters, self.cores, t.memory_gb / 2)

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
            trained = joined(levels, [np.flatnonzero(~h) for h in held])
            self.components = self.known_components or Components.fit(trained, n_components)
            features = [smooth_over_neighbours(s, smoothing) for s in self.sections]
            if not weigh_encoders:
                self.sections = [s.with_image_as_one() for s in self.sections]
            n = len(self.components.loadings)
            nothing = [np.zeros((s.n_subspots, n), dtype=np.float32) for s in self.sections]
            fields: list[Any] = [(zeros, zeros) for zeros in nothing]
            if n:
                fields = krige_components(self.sections, features, levels, self.components, held, self.field_folder)
            cutters, kept = self.result_cutters, self.tiling.memory_gb / 2
            without = [c.knowing(y, f) for c, y, (f, _) in zip(cutters, features, fields, strict=True)]
            whole = [c.knowing(y, f) for c, y, (_, f) in zip(cutters, features, fields, strict=True)]
            self.tiles, self.result_tiles = TileStore(without, self.cores, kept), TileStore(whole, self.cores, 0)
        return self.components

    def forget(self) -> None:
        """Drop the tiles kept for training."""
        if isinstance(self.tiles, TileStore):
            self.tiles.clear()

    def _held_out(self) -> list[np.ndarray]:
        return [held_out_spots(s, self.seed, self.held_out) for s in self.sections]

    @property
    def result_cutters(self) -> list[TileCutter]:
        """What cuts tiles that know every spot, one per section."""
        return self.result_tiles.cutters if isinstance(self.result_tiles, TileStore) else []

    @property
    def features(self) -> dict[str, list[str]]:
        """Feature names per modality."""
        return self.sections[0].features

    @property
    def n_image(self) -> int:
        """Number of image features."""
        return self.sections[0].image_features.shape[1]

    def train_dataloader(self) -> DataLoader[Any]:
        """Return tiles in turn for one epoch of many steps, those of this device."""
        n_steps = max(self.steps_per_epoch, -(-len(self.tiles) // self._world[1]))
        return self._loader(TileOrder(len(self.tiles), n_steps, self.seed, *self._world))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return every tile of this device once."""
        rank, world_size = self._world
        return self._loader(range(rank, len(self.tiles), world_size))

    @property
    def _world(self) -> tuple[int, int]:
        """Return this device's number, and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _loader(self, order: Any) -> DataLoader[Any]:
        workers = self.tiling.workers
        return DataLoader(
            self.tiles,  # type: ignore[arg-type]
            batch_size=None,
            sampler=order,
            num_workers=workers,
            collate_fn=lambda tile: tile,
            prefetch_factor=2 if workers else None,
            persistent_workers=workers > 0,
        )

    def transfer_batch_to_device(self, batch: Tile, device: torch.device, dataloader_idx: int) -> Tile:
        """Move a tile, which Lightning does not know how to; the copy stays with it."""
        return batch if batch.keys.device == device else batch.once(("on", device), lambda: batch.to(device))
