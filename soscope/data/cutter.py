"""Cutting tiles out of a section."""

from __future__ import annotations

import copy

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from soscope.data.section import Section, interpolation_matrix
from soscope.data.tiles import Tile
from soscope.matrices import Groups, numbered
from soscope.nn.noise import row_keys, spot_keys
from soscope.nn.parent import Parent
from soscope.nn.sparse import SparseMatrix
from soscope.rows import Rows

GRAPH_LAYERS = 3
"""Steps along the spot graph that the encoder looks."""


class TileCutter:
    """What of a section does not depend on the tile, made once; called with core spots it returns their tile.

    Parameters
    ----------
    section, index
        The section and its number in the run.
    z_width
        Width of the bumps by which z continues to subspots, in pitches.
    held_out
        Spots of the whole section that are never trained on, none by default.
    image_features
        Features of the whole section's subspots, the section's own by default.
    field
        Kriged components of the whole section's subspots, no column by default.

    Notes
    -----
    A tile's halo is what its terms need: subspots one step along the subspot graph from those of core spots; spots that z at
    any of these subspots is interpolated from, parents of these subspots, and neighbours of core spots; and what the
    encoder's three layers see from there.
    """

    def __init__(
        self,
        section: Section,
        index: int = 0,
        z_width: float = 0.5,
        held_out: np.ndarray | None = None,
        image_features: Rows | None = None,
        field: np.ndarray | None = None,
    ) -> None:
        self.section, self.index = section, index
        self.held_out = np.zeros(section.n_spots, dtype=bool) if held_out is None else held_out
        self.image_features = section.image_features if image_features is None else image_features
        self.field = np.zeros((section.n_subspots, 0), dtype=np.float32) if field is None else field
        self.keys = spot_keys(section.name, section.spots)
        self.spot_graph = section.spot_graph.to_matrix(section.n_spots)
        self.subspot_graph = section.subspot_graph.to_matrix(section.n_subspots)
        self.children = Groups(section.parent, section.n_spots)
        self.at = interpolation_matrix(section, z_width)

    def knowing(self, image_features: Rows, field: np.ndarray | None) -> TileCutter:
        """Return a cutter of the same section, sharing its graphs, with other image features and a field."""
        other = copy.copy(self)
        other.image_features = image_features
        other.field = self.field if field is None else field
        return other

    def __call__(self, core: np.ndarray | None = None, n_tiles: int = 1) -> Tile:
        """Return the tile of some spots (rows of the section), of all by default; ``n_tiles`` is how many there are."""
        if core is None or len(core) == self.section.n_spots:
            rows = np.arange(self.section.n_spots)
            return self._tile(rows, len(rows), np.arange(self.section.n_subspots), n_tiles)
        core = np.sort(core)
        subspots = _core_first(self.children.rows(core), self.subspot_graph)
        needed = [self.at[subspots].indices, self.spot_graph[core].indices, self.section.parent[subspots]]
        rows = _core_first(core, self.spot_graph, np.concatenate(needed), GRAPH_LAYERS)
        return self._tile(rows, len(core), subspots, n_tiles)

    def for_decoding(self, subspots: np.ndarray) -> Tile:
        """Return a tile of the spots of some subspots with what decoding needs, z being known of every spot.

        Its subspots are all those of these spots, and those of ``subspots`` that lie under none, in the section's order.
        """
        parents = self.section.parent[subspots]
        core = np.unique(parents[parents >= 0])
        wanted = np.sort(np.concatenate([self.children.rows(core), subspots[parents < 0]]))
        seen = np.setdiff1d(self.at[wanted].indices, core)
        return self._tile(np.concatenate([core, seen]), len(core), wanted, 1)

    def _tile(self, rows: np.ndarray, n_core: int, subspots: np.ndarray, n_tiles: int) -> Tile:
        section = self.section
        parent = numbered(rows, section.n_spots)[section.parent[subspots]]
        of_core = torch.from_numpy(np.where(parent < n_core, parent, -1))
        n_per_spot = torch.from_numpy(self.children.sizes(rows))
        spot_edges, spot_weight = _entries(self.spot_graph, rows)
        return Tile(
            section=self.index,
            keys=self.keys[rows],
            subspot_keys=row_keys(section.name, torch.from_numpy(subspots)),
            held_out=torch.from_numpy(self.held_out[rows]),
            core=torch.arange(len(rows)) < n_core,
            subspot_core=torch.from_numpy(parent < n_core),
            rows=torch.from_numpy(rows),
            subspot_rows=torch.from_numpy(subspots),
            profiles={m: torch.from_numpy(p.dense(rows)) for m, p in section.modalities.items()},
            library_size={m: torch.from_numpy(p.library_size[rows]) for m, p in section.modalities.items()},
            image_features=torch.from_numpy(self.image_features[subspots]),
            field=torch.from_numpy(self.field[subspots]),
            spot_edges=spot_edges,
            spot_weight=spot_weight,
            spot_graph=SparseMatrix(spot_edges[0], spot_edges[1], spot_weight, (len(rows), len(rows))),
            subspot_graph=_sub_matrix(self.subspot_graph, subspots, subspots),
            parent=Parent(of_core, n_core),
            within=Parent(torch.from_numpy(parent), len(rows), n_per_spot),
            at=_sub_matrix(self.at, subspots, rows),
            n_section_spots=section.n_spots,
            n_section_subspots=section.n_subspots,
            n_section_tiles=n_tiles,
        )


def _core_first(
    core: np.ndarray, graph: sparse.csr_matrix, also: np.ndarray | None = None, hops: int = 1
) -> np.ndarray:
    """Return ``core``, then what lies within ``hops`` steps of it and of the rows named ``also``, -1 among them left out."""
    reached = np.zeros(graph.shape[0], dtype=bool)
    edge = core if also is None else np.unique(np.concatenate([core, also[also >= 0]]))
    reached[edge] = True
    for _ in range(hops):
        edge = np.unique(graph[edge].indices)
        edge = edge[~reached[edge]]
        reached[edge] = True
    reached[core] = False
    return np.concatenate([core, np.flatnonzero(reached)])


def _entries(matrix: sparse.csr_matrix, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return row, column ``(2, n_entries)`` and weight of what a matrix holds between ``rows``."""
    part = matrix[rows][:, rows].tocoo()
    ends = torch.from_numpy(np.stack([part.row, part.col]).astype(np.int64))
    return ends, torch.from_numpy(part.data.astype(np.float32))


def _sub_matrix(matrix: sparse.csr_matrix, rows: np.ndarray, columns: np.ndarray) -> SparseMatrix:
    part = matrix[rows][:, columns].tocoo()
    row, col = (torch.from_numpy(v.astype(np.int64)) for v in (part.row, part.col))
    return SparseMatrix(row, col, torch.from_numpy(part.data.astype(np.float32)), part.shape)
