"""A tile: what one training step takes. One tile may be the whole section."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from soscope.data.section import Section
from soscope.nn.attention import Neighbours
from soscope.nn.noise import keyed_uniform, spot_keys
from soscope.nn.parent import Parent
from soscope.nn.sparse import SparseMatrix

LARGEST_BLOCK = 2**22
"""Entries, rows times features, that are decoded at a time; above, features go in blocks, computed again in backward.

Larger ones take longer, although nothing is computed twice: an array of more than 32 MB is mapped anew each time.
"""
LARGEST_KEPT = 2**24
"""Entries, subspots of a section times features, up to which what training does not change is kept with tiles."""

T = TypeVar("T")


@dataclass
class Tile:
    """Core spots, whose terms count, and a halo of spots that only inform them; all indices are local.

    Core spots come first, and core subspots come first.

    Attributes
    ----------
    section
        Index of the section in the run.
    keys
        Hash of every spot's name, the id its random numbers hang on, ``(n_spots,)``; ``subspot_keys`` the same for subspots.
    held_out
        Spots this run never trains on, boolean ``(n_spots,)``.
    core
        Spots whose terms count, boolean ``(n_spots,)``; ``subspot_core`` the same for subspots.
    rows, subspot_rows
        Rows of these spots and subspots in the section.
    profiles, library_size
        Per modality ``(n_spots, n_features)`` and ``(n_spots,)``.
    image_features
        ``(n_subspots, n_image)``.
    field
        Kriged components of subspots, ``(n_subspots, n_components)``.
    spot_edges, spot_weight
        Neighbours among these spots as the encoder takes them.
    spot_graph, subspot_graph
        Neighbours among these spots and subspots as sparse matrices.
    parent
        Sums over the subspots of core spots; all of these are there.
    within
        The spot of every subspot, halo included, of which only some subspots may be there.
    at
        Weights by which z continues to subspots.
    n_section_spots, n_section_subspots
        Sizes of the whole section, to which sums over tiles add up.
    n_section_tiles
        Number of tiles the section is cut into.
    kept
        What was computed from the tile once.
    """

    section: int
    keys: Tensor
    subspot_keys: Tensor
    held_out: Tensor
    core: Tensor
    subspot_core: Tensor
    rows: Tensor
    subspot_rows: Tensor
    profiles: dict[str, Tensor]
    library_size: dict[str, Tensor]
    image_features: Tensor
    field: Tensor
    spot_edges: Tensor
    spot_weight: Tensor
    spot_graph: SparseMatrix
    subspot_graph: SparseMatrix
    parent: Parent
    within: Parent
    at: SparseMatrix
    n_section_spots: int
    n_section_subspots: int
    n_section_tiles: int = 1
    kept: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Return what ``make`` returns, made when first asked for under this key: what does not change from step to step."""
        if key not in self.kept:
            with torch.no_grad():
                self.kept[key] = make()
        found: T = self.kept[key]
        return found

    @property
    def neighbours(self) -> Neighbours:
        """Neighbours among these spots in the order the encoder takes them."""
        return self.once("neighbours", lambda: Neighbours(self.spot_edges, len(self.keys)))

    @property
    def n_core(self) -> int:
        """Number of core spots."""
        return self.parent.n_spots

    def core_profiles(self, modality: str) -> Tensor:
        """Return the profiles of core spots, ``(n_core, n_features)``."""
        return self.profiles[modality][: self.n_core]

    def to(self, device: torch.device | str) -> Tile:
        """Return a copy on another device."""
        return Tile(**{f.name: _to(getattr(self, f.name), device) for f in fields(self) if f.name != "kept"})

    def n_bytes(self) -> int:
        """Return the memory its tensors take."""
        return sum(_bytes(getattr(self, f.name)) for f in fields(self))


def held_out_spots(section: Section, seed: int, share: float) -> np.ndarray:
    """Choose the spots a run never trains on, boolean ``(n_spots,)``: a share of those with subspots, at least one.

    The choice depends on the seed and the spots' names alone, and so is the same in both stages and in every tile.
    """
    able = np.isin(np.arange(section.n_spots), section.parent)
    n = max(1, round(share * able.sum())) if share > 0 else 0
    rank = keyed_uniform(seed, 0, "held_out", spot_keys(section.name, section.spots), 1)[:, 0].double().numpy()
    rank[~able] = 2.0
    chosen = np.zeros(section.n_spots, dtype=bool)
    chosen[np.argsort(rank, kind="stable")[:n]] = True
    return chosen


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, dict):
        return {k: _to(v, device) for k, v in value.items()}
    return value.to(device) if hasattr(value, "to") else value


def _bytes(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if hasattr(value, "n_bytes"):
        return int(value.n_bytes())
    return sum(map(_bytes, vars(value).values())) if hasattr(value, "to") else 0
