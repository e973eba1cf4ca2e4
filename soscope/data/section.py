"""A prepared section as the model takes it; what is large may stay on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse
from scipy.spatial import cKDTree
from spatialdata import SpatialData

from soscope import contract
from soscope.matrices import Matrix, numbered, to_dense
from soscope.prepare.graphs import Graph
from soscope.rows import Rows, rows_of


@dataclass
class Profiles:
    """Observed profiles of one modality: ``x`` ``(n_spots, n_features)``, feature names, library size ``(n_spots,)``."""

    x: Matrix
    features: list[str]
    library_size: np.ndarray

    def dense(self, rows: np.ndarray) -> np.ndarray:
        """Return some rows as float32."""
        return to_dense(self.x[rows], np.float32)


@dataclass
class Section:
    """One section, prepared.

    Attributes
    ----------
    name, spots
        Name of the section, names of its spots.
    modalities
        Observed profiles per modality.
    image_features
        ``(n_subspots, n_image)``, an array or what is taken row by row.
    image_blocks
        Columns of ``image_features`` by the encoder that made them.
    parent
        Spot of each subspot, -1 under no spot.
    xy_um, subspot_xy_um
        Centres in micrometres.
    spot_graph, subspot_graph
        Neighbours weighted by similarity.
    pitch_um
        Distance between spots.
    """

    name: str
    spots: list[str]
    modalities: dict[str, Profiles]
    image_features: Rows
    image_blocks: list[np.ndarray]
    parent: np.ndarray
    xy_um: np.ndarray
    subspot_xy_um: np.ndarray
    spot_graph: Graph
    subspot_graph: Graph
    pitch_um: float

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return len(self.spots)

    @property
    def n_subspots(self) -> int:
        """Number of subspots."""
        return len(self.parent)

    @cached_property
    def features(self) -> dict[str, list[str]]:
        """Feature names per modality."""
        return {name: profiles.features for name, profiles in self.modalities.items()}

    def with_image_as_one(self) -> Section:
        """Return the same section with all image features in one block."""
        return replace(self, image_blocks=[np.concatenate(self.image_blocks)] if self.image_blocks else [])

    def only(self, spots: np.ndarray) -> Section:
        """Return the section with some of its spots, their subspots, and the edges among these."""
        number = numbered(spots, self.n_spots)
        inside = np.flatnonzero(number[self.parent] >= 0)
        modalities = {
            m: replace(p, x=p.x[spots], library_size=p.library_size[spots]) for m, p in self.modalities.items()
        }
        return replace(
            self,
            spots=[self.spots[i] for i in spots],
            modalities=modalities,
            image_features=self.image_features[inside],
            parent=number[self.parent[inside]],
            xy_um=self.xy_um[spots],
            subspot_xy_um=self.subspot_xy_um[inside],
            spot_graph=self.spot_graph.only(number[:-1]),
            subspot_graph=self.subspot_graph.only(numbered(inside, self.n_subspots)[:-1]),
        )

    @classmethod
    def open(cls, path: Path, modalities: list[str], largest_gb: float = math.inf) -> Section:
        """Read the parts a model needs of a prepared section on disk; image features larger than ``largest_gb`` stay there."""
        return cls.from_tables(*contract.open_tables(path), modalities, largest_gb)

    @classmethod
    def from_sdata(cls, sdata: SpatialData, modalities: list[str]) -> Section:
        """Take the parts a model needs out of a prepared SpatialData object."""
        return cls.from_tables(contract.facts(sdata), sdata.tables, modalities)

    @classmethod
    def from_tables(
        cls, facts: dict[str, Any], tables: Mapping[str, AnnData], modalities: list[str], largest_gb: float = math.inf
    ) -> Section:
        """Take the parts a model needs out of the tables of a prepared section, and what was noted about it."""
        profiles = {m: tables[m] for m in modalities}
        first = next(iter(profiles.values()))
        image = tables[contract.IMAGE_FEATURES]
        return cls(
            name=facts["section"],
            spots=first.obs_names.tolist(),
            modalities={
                m: Profiles(t.X, t.var_names.tolist(), t.obs[contract.LIBRARY_SIZE].to_numpy(np.float32))
                for m, t in profiles.items()
            },
            image_features=rows_of(image.X, largest_gb),
            image_blocks=[
                np.flatnonzero(image.var[contract.ENCODER] == e) for e in image.var[contract.ENCODER].unique()
            ],
            parent=image.obs[contract.PARENT].to_numpy(np.int64),
            xy_um=np.asarray(first.obsm["xy_um"]),
            subspot_xy_um=np.asarray(image.obsm["xy_um"]),
            spot_graph=Graph.from_matrix(first.obsp[contract.GRAPH]),
            subspot_graph=Graph.from_matrix(image.obsp[contract.GRAPH]),
            pitch_um=float(facts["pitch_um"]),
        )


def interpolation_weights(
    xy_um: np.ndarray, subspot_xy_um: np.ndarray, parent: np.ndarray, width_um: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (subspot, spot, weight) by which z continues from spots to subspots.

    Gaussian bumps of standard deviation ``width_um`` around spots, cut at three of them and normalised per subspot. With
    ``width_um = 0``, or bumps too narrow to reach it, a subspot takes its parent's z. One under no spot and far from all has
    no entry.
    """
    if width_um <= 0:
        inside = np.flatnonzero(parent >= 0)
        return inside, parent[inside], np.ones(len(inside), dtype=np.float32)
    near = cKDTree(subspot_xy_um).sparse_distance_matrix(cKDTree(xy_um), 3 * width_um, output_type="coo_matrix")
    weight = np.exp(-0.5 * (near.data / width_um) ** 2)
    total = np.bincount(near.row, weight, minlength=len(subspot_xy_um))
    alone = np.flatnonzero((total == 0) & (parent >= 0))
    subspot = np.concatenate([near.row, alone]).astype(np.int64)
    spot = np.concatenate([near.col, parent[alone]]).astype(np.int64)
    return subspot, spot, np.concatenate([weight / total[near.row], np.ones(len(alone))]).astype(np.float32)


def interpolation_matrix(section: Section, z_width: float, chunk: int = 65_536) -> sparse.csr_matrix:
    """Return `interpolation_weights` of a section as a matrix ``(n_subspots, n_spots)``, made ``chunk`` subspots at a time.

    ``z_width`` is the bumps' in pitches.
    """
    parts = []
    for start in range(0, section.n_subspots, chunk):
        rows = slice(start, start + chunk)
        parent = section.parent[rows]
        subspot, spot, weight = interpolation_weights(
            section.xy_um, section.subspot_xy_um[rows], parent, z_width * section.pitch_um
        )
        parts.append(sparse.csr_matrix((weight, (subspot, spot)), shape=(len(parent), section.n_spots)))
    return sparse.vstack(parts, format="csr")
