"""A section as the doctor looks at it: what was read, and what follows from it, worked out when a check asks."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from anndata import AnnData

from soscope import contract
from soscope.channels import composite
from soscope.checks import stored_values
from soscope.distances import typical_distance
from soscope.doctor.association import Association
from soscope.doctor.image_maps import ImageMaps
from soscope.doctor.placements import Judge
from soscope.doctor.pooling import Pool, lattice_cells, pool
from soscope.errors import ConfigError, DataError
from soscope.lattice import make_lattice
from soscope.prepare.encoders import ENCODERS
from soscope.prepare.image_features import chosen_channels
from soscope.prepare.panel import representation_of
from soscope.prepare.pipeline import check_tables
from soscope.prepare.placing import Placed, place
from soscope.read.base import RawSection

FEWEST_SPOTS = 40
"""Spots below which nothing is said about neighbours, or about image and profiles."""
LOOKED_AT = 5000
"""Spots that are compared with the image; more are pooled, which is faster and no less sure."""


class Examined:
    """One section that could be read.

    Parameters
    ----------
    cfg
        Config of a training run.
    raw
        From a reader.

    Attributes
    ----------
    tables
        Tables the model uses that the section has.
    placed
        The section's geometry, ``None`` where it is refused.
    image, channels, chosen
        The image as it was read, the names of its channels, and the numbers of those the config takes.
    refusal
        Why `prepare` would refuse the section; ``None`` when it would not.
    """

    def __init__(self, cfg: Any, raw: RawSection) -> None:
        self.cfg, self.sdata, self.name = cfg, raw.sdata, raw.name
        self.facts = contract.facts(raw.sdata)
        named = contract.modalities(raw.sdata)
        self.tables = {m: raw.sdata.tables[m] for m in cfg.model.modalities if m in named}
        self.table: AnnData = next(iter(self.tables.values()), raw.sdata.tables[named[0]])
        self.xy_px = np.asarray(self.table.obsm["spatial"], dtype=np.float64)
        self.pitch_px = typical_distance(self.xy_px)
        self.image, self.channels = contract.image_of(raw.sdata), contract.channels_of(raw.sdata)
        self.chosen: list[int] | None = None
        self.placed: Placed | None = None
        self.refusal: DataError | ConfigError | None = None
        try:
            self.placed = place(cfg, raw.sdata, make_lattice(cfg.platform.lattice))
            check_tables(cfg, [self.placed])
            if self.image is not None:
                self.chosen = chosen_channels(self.channels, cfg.image.channels, f"section '{self.name}'")
        except (DataError, ConfigError) as error:
            self.refusal = error

    def lacks(self, need: str) -> str | None:
        """Say why a check that needs this cannot be made: ``image``, ``lattice``, ``spots`` (enough of them) or ``counts``."""
        reasons = {
            "image": (self.image is None, "the section has no image"),
            "lattice": (self.placed is None, "spots cannot be placed on the platform's lattice"),
            "spots": (
                len(self.pool.xy) < FEWEST_SPOTS or not self.pitch_px > 0,
                f"{len(self.pool.xy)} spots with values are too few, {FEWEST_SPOTS} are needed",
            ),
            "counts": (not self.are_counts, "the model takes real values, or the tables hold others than counts"),
        }
        missing, why = reasons[need]
        return why if missing else None

    @cached_property
    def are_counts(self) -> bool:
        """Whether the model takes counts, and none is negative or not finite."""
        choices = self.cfg.model.modalities.values()
        counted = all(representation_of(c.representation).needs_counts for c in choices)
        values = [stored_values(t.X) for t in self.tables.values()]
        return counted and all(bool(((v >= 0) & np.isfinite(v)).all()) for v in values)

    @cached_property
    def totals(self) -> np.ndarray:
        """Library size of every spot, over all tables the model uses."""
        return sum((np.asarray(t.X.sum(1)).ravel() for t in self.tables.values()), np.zeros(self.table.n_obs))

    @cached_property
    def looks_at_image(self) -> bool:
        """Whether the config makes features of an image."""
        image = self.cfg.image
        return bool(image.color) or ENCODERS[image.encoder].looks_at_image

    @cached_property
    def pool(self) -> Pool:
        """What is compared with neighbours and the image: spots, or blocks of them, that are finite and not without a count."""
        finite = np.isfinite(np.asarray(self.table.X.sum(1)).ravel())
        rows = slice(None) if finite.all() else np.flatnonzero(finite)
        found = pool(self.table.X[rows], self.xy_px[rows], self._cells[rows], self.pitch_px, LOOKED_AT)
        return found.only(np.asarray(found.counts.sum(1)).ravel() > 0) if self.are_counts else found

    @property
    def _cells(self) -> np.ndarray:
        """Whole numbers of which one step is one pitch: array coordinates, or positions where there are none."""
        obs = self.table.obs
        if self.placed is not None and {"array_row", "array_col"} <= set(obs):
            row, col = (obs[key].to_numpy().astype(np.int64) for key in ("array_row", "array_col"))
            return lattice_cells(make_lattice(self.cfg.platform.lattice), row, col)
        return np.floor(self.xy_px / (self.pitch_px or 1.0)).astype(np.int64)

    @cached_property
    def association(self) -> Association:
        """Profiles, ready to be compared with image features."""
        return Association(self.pool.counts, self.pool.xy, self.pool.pitch)

    @cached_property
    def picture(self) -> np.ndarray:
        """The image as the report shows it, ``(3, height, width)`` of uint8: in colour, or a composite of the channels chosen."""
        if self.image is None:
            raise ValueError("a section without an image has no picture")
        return np.moveaxis(composite(self.image, self.channels, self.chosen), -1, 0)

    @cached_property
    def maps(self) -> ImageMaps:
        """What the image shows around any point."""
        return ImageMaps(self.picture, self.pool.pitch)

    @cached_property
    def judge(self) -> Judge:
        """How well the spots' placement fits, and other ones."""
        return Judge(self.maps, self.association, self.xy_px, self.pool.side)
