"""A tile: what one training step takes. One tile may be the whole section."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from soscope.data.section import Section, interpolation_weights
from soscope.nn.noise import keyed_uniform, row_keys, spot_keys
from soscope.nn.parent import Parent
from soscope.nn.sparse import SparseMatrix

GRAPH_LAYERS = 3


@dataclass
class Tile:
    """Core spots, whose terms count, and a halo of spots that only inform them; all indices are local.

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
    parent, at
        Sums over a spot's subspots, and the weights by which z continues to subspots.
    n_section_spots, n_section_subspots
        Sizes of the whole section, to which sums over tiles add up.
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
    at: SparseMatrix
    n_section_spots: int
    n_section_subspots: int

    def to(self, device: torch.device | str) -> Tile:
        """Return a copy on another device."""
        return Tile(**{f.name: _to(getattr(self, f.name), device) for f in fields(self)})


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


def make_tile(
    section: Section,
    index: int = 0,
    core: np.ndarray | None = None,
    z_width: float = 0.5,
    hops: int | None = None,
    held_out: np.ndarray | None = None,
    image_features: np.ndarray | None = None,
    field: np.ndarray | None = None,
) -> Tile:
    """Cut a tile out of a section.

    Parameters
    ----------
    section, index
        The section and its number in the run.
    core
        Rows of the core spots; all by default.
    z_width
        Width of the bumps by which z continues to subspots, in pitches.
    hops
        Steps along the spot graph that the halo reaches; by default one for each graph layer, one for edges that leave the
        core, and what the bumps reach.
    held_out
        Spots of the whole section that are never trained on, none by default.
    image_features
        Features of the whole section's subspots, the section's own by default.
    field
        Kriged components of the whole section's subspots, no column by default.
    """
    core = np.arange(section.n_spots) if core is None else np.asarray(core)
    hops = GRAPH_LAYERS + 1 + int(np.ceil(3 * z_width)) if hops is None else hops
    rows = _with_halo(section, core, hops)
    sub_rows = np.flatnonzero(np.isin(section.parent, rows) | ((section.parent < 0) & (len(rows) == section.n_spots)))
    local = np.full(section.n_spots + 1, -1)
    local[rows] = np.arange(len(rows))
    parent = local[section.parent[sub_rows]]
    is_core = np.isin(rows, core)
    spot_edges, spot_weight = _sub_graph(section.spot_graph.edges, section.spot_graph.weight, rows, section.n_spots)
    sub_edges, sub_weight = _sub_graph(
        section.subspot_graph.edges, section.subspot_graph.weight, sub_rows, section.n_subspots
    )
    near = interpolation_weights(
        section.xy_um[rows], section.subspot_xy_um[sub_rows], parent, z_width * section.pitch_um
    )
    near_subspot, near_spot, near_weight = (torch.from_numpy(part) for part in near)
    return Tile(
        section=index,
        keys=spot_keys(section.name, [section.spots[i] for i in rows]),
        subspot_keys=row_keys(section.name, torch.from_numpy(sub_rows)),
        held_out=torch.from_numpy(np.zeros(len(rows), dtype=bool) if held_out is None else held_out[rows]),
        core=torch.from_numpy(is_core),
        subspot_core=torch.from_numpy(np.where(parent >= 0, is_core[parent], True)),
        rows=torch.from_numpy(rows),
        subspot_rows=torch.from_numpy(sub_rows),
        profiles={m: torch.from_numpy(p.dense(rows)) for m, p in section.modalities.items()},
        library_size={m: torch.from_numpy(p.library_size[rows]) for m, p in section.modalities.items()},
        image_features=torch.from_numpy(
            (section.image_features if image_features is None else image_features)[sub_rows]
        ),
        field=torch.from_numpy(field[sub_rows]) if field is not None else torch.zeros(len(sub_rows), 0),
        spot_edges=spot_edges,
        spot_weight=spot_weight,
        spot_graph=SparseMatrix(spot_edges[0], spot_edges[1], spot_weight, (len(rows), len(rows))),
        subspot_graph=SparseMatrix(sub_edges[0], sub_edges[1], sub_weight, (len(sub_rows), len(sub_rows))),
        parent=Parent(torch.from_numpy(parent), len(rows)),
        at=SparseMatrix(near_subspot, near_spot, near_weight, (len(sub_rows), len(rows))),
        n_section_spots=section.n_spots,
        n_section_subspots=section.n_subspots,
    )


def _with_halo(section: Section, core: np.ndarray, hops: int) -> np.ndarray:
    if len(core) == section.n_spots:
        return np.arange(section.n_spots)
    links = section.spot_graph.to_matrix(section.n_spots) + sparse.identity(section.n_spots)
    reached = np.zeros(section.n_spots, dtype=bool)
    reached[core] = True
    for _ in range(hops):
        reached = np.asarray(links @ reached).ravel() > 0
    return np.flatnonzero(reached)


def _sub_graph(edges: np.ndarray, weight: np.ndarray, rows: np.ndarray, n: int) -> tuple[Tensor, Tensor]:
    local = np.full(n, -1)
    local[rows] = np.arange(len(rows))
    ends = local[edges]
    keep = (ends >= 0).all(0)
    return torch.from_numpy(ends[:, keep]), torch.from_numpy(weight[keep].astype(np.float32))


def _to(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, dict):
        return {k: _to(v, device) for k, v in value.items()}
    return value.to(device) if hasattr(value, "to") else value
