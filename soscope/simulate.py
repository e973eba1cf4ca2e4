"""Sections of any size without an image, for timing: what matters is their shape, not their biology."""

from __future__ import annotations

import math

import numpy as np

from soscope.data.section import Profiles, Section
from soscope.lattice import make_lattice
from soscope.prepare.graphs import Graph, neighbour_edges, similarity

PITCH_UM = 100.0


def simulated_section(
    n_spots: int,
    k: int = 7,
    n_features: int = 60,
    n_image: int = 53,
    lattice: str = "hex",
    seed: int = 0,
    depth: float | None = None,
) -> Section:
    """Simulate a section in memory.

    Parameters
    ----------
    n_spots, k
        Spots, in a square, and subspots of each.
    n_features, n_image
        Columns of counts and of image features; both follow a few smooth waves over the tissue.
    lattice
        ``hex`` or ``square``.
    seed
        Of everything drawn.
    depth
        Mean counts of a spot, features then being as unevenly abundant as genes are; without it, features have a few counts each.
    """
    rng = np.random.default_rng(seed)
    shape = make_lattice(lattice)
    row, col = _array(n_spots, lattice)
    xy = shape.unit_xy(row, col)
    parent = np.repeat(np.arange(n_spots), k)
    sub_xy = xy[parent] + np.tile(shape.offsets(k), (n_spots, 1))
    states = waves(sub_xy, 6, rng)
    image = states @ rng.normal(size=(6, n_image)).astype(np.float32)
    image += 0.5 * rng.standard_normal(image.shape, dtype=np.float32)
    level = states.reshape(n_spots, k, -1).mean(1) @ rng.normal(0, 0.4, (6, n_features)).astype(np.float32)
    rate = np.exp(level + 1.5)
    if depth is not None:
        rate *= rng.lognormal(0, 1.5, n_features).astype(np.float32)
        rate *= depth / rate.sum(1).mean()
    counts = rng.poisson(rate).astype(np.float32)
    radius = shape.radius_of(min(shape.neighbour_radius))
    spot_edges, sub_edges = neighbour_edges(xy, radius), neighbour_edges(sub_xy, radius / math.sqrt(k))
    return Section(
        name=f"simulated_{n_spots}",
        spots=[f"spot_{i}" for i in range(n_spots)],
        modalities={"rna": Profiles(counts, [f"g{i}" for i in range(n_features)], counts.sum(1))},
        image_features=image,
        image_blocks=[np.arange(n_image)] if n_image else [],
        parent=parent,
        xy_um=xy * PITCH_UM,
        subspot_xy_um=sub_xy * PITCH_UM,
        spot_graph=Graph(spot_edges, similarity(counts, spot_edges).astype(np.float32)),
        subspot_graph=Graph(sub_edges, similarity(image, sub_edges).astype(np.float32)),
        pitch_um=PITCH_UM,
    )


def waves(xy: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``n`` smooth functions of places in pitches, each between -1 and 1, ``(len(xy), n)``."""
    return np.sin(xy @ rng.normal(0, 0.15, (2, n)) + rng.uniform(0, 6, n)).astype(np.float32)


def _array(n_spots: int, lattice: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the first spots of an array about as high as wide."""
    per_row = math.ceil(math.sqrt(n_spots))
    row, col = np.divmod(np.arange(n_spots), per_row)
    return (row, 2 * col + row % 2) if lattice == "hex" else (row, col)
