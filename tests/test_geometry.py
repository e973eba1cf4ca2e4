"""Lattices, splits and graphs, against tilings, the released program's own files and each other."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import shapely

from soscope.affine import fit_affine
from soscope.errors import ConfigError, DataError
from soscope.lattice import LATTICES, HexLattice, SquareLattice, make_lattice
from soscope.prepare.graphs import neighbour_edges, similarity
from soscope.prepare.subspots import disc_share, split_spots


def array(lattice: str, n: int = 9) -> tuple[np.ndarray, np.ndarray]:
    row, nth = (a.ravel() for a in np.mgrid[:n, :n])
    return (row, 2 * nth + row % 2) if lattice == "hex" else (row, nth)


@pytest.mark.parametrize(
    ("lattice", "k"), [("hex", 7), ("hex", 13), ("hex", 19), ("square", 4), ("square", 9), ("square", 25)]
)
def test_subspots_tile_the_plane_without_gaps_or_overlaps(lattice: str, k: int) -> None:
    made = make_lattice(lattice)
    unit = made.unit_xy(*array(lattice))
    affine = fit_affine(unit, unit @ np.array([[20.0, 3], [-3, 20]]) + 100, "here", "test")
    split = split_spots(made, unit, affine, k)
    polygons = shapely.polygons(split.outlines_px)
    area = shapely.area(polygons).sum()
    assert area == pytest.approx(len(unit) * made.cell_area * affine.pitch_px**2)
    assert shapely.union_all(shapely.set_precision(polygons, 1e-6)).area == pytest.approx(area, rel=1e-5)
    own = affine(unit)[split.parent]
    nearest = np.linalg.norm(split.xy_px[:, None] - affine(unit)[None], axis=2).argmin(1)
    assert (nearest == split.parent).all()
    np.testing.assert_allclose(split.xy_px.reshape(len(unit), k, 2).mean(1), own[::k], atol=1e-9)


def test_hex_subspots_are_the_spot_lattice_turned_by_19_degrees_centre_last() -> None:
    offsets = HexLattice().offsets(7)
    np.testing.assert_allclose(offsets[-1], 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(offsets[:6], axis=1), 1 / math.sqrt(7))
    angle = np.degrees(np.arctan2(offsets[:6, 1], offsets[:6, 0])) % 60
    np.testing.assert_allclose(angle, math.degrees(math.atan(math.sqrt(3) / 5)), atol=1e-6)  # 19.1 degrees


def test_square_subspots_centre_last() -> None:
    np.testing.assert_allclose(SquareLattice().offsets(9)[-1], 0)
    np.testing.assert_allclose(SquareLattice().offsets(4)[0], [-0.25, -0.25])


def test_splits_that_do_not_tile_are_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="7, 13, 19"):
        HexLattice().offsets(6)
    with pytest.raises(ConfigError, match="4, 9, 16"):
        SquareLattice().offsets(7)
    with pytest.raises(ConfigError, match="6, 12, 18"):
        HexLattice().radius_of(5)
    with pytest.raises(ConfigError, match="hex, square"):
        make_lattice("cubic")


@pytest.mark.parametrize("name", sorted(LATTICES))
def test_number_of_neighbours_inside_the_lattice(name: str) -> None:
    lattice = make_lattice(name)
    unit = lattice.unit_xy(*array(name, 11))
    middle = np.abs(unit - unit.mean(0)).sum(1).argmin()
    for n, radius in lattice.neighbour_radius.items():
        assert (neighbour_edges(unit, radius)[0] == middle).sum() == n


def test_extent_spot_covers_the_disc_alone() -> None:
    lattice = HexLattice()
    share = disc_share(lattice, 55, 100)
    assert share == pytest.approx(0.274, abs=1e-3)  # "27 % of its cell"
    unit = lattice.unit_xy(*array("hex", 3))
    split = split_spots(lattice, unit, fit_affine(unit, unit * 10.0, "here", "test"), 7, share)
    assert shapely.area(shapely.polygons(split.outlines_px)).sum() == pytest.approx(9 * math.pi / 4 * 5.5**2, rel=1e-6)


def test_platform_that_contradicts_the_lattice() -> None:
    assert "platform=visium" in (SquareLattice().contradiction(*array("hex")) or "")
    assert "platform=dbit" in (HexLattice().contradiction(*array("square")) or "")
    assert HexLattice().contradiction(*array("hex")) is None
    assert SquareLattice().contradiction(*array("square")) is None


def test_affine_refuses_positions_that_are_no_lattice(rng: np.random.Generator) -> None:
    unit = SquareLattice().unit_xy(*array("square"))
    with pytest.raises(DataError, match="do not follow the lattice"):
        fit_affine(unit, rng.permutation(unit) * 10, "here", "dbit")
    with pytest.raises(DataError, match="axes differ by 50 %"):
        fit_affine(unit, unit * [10.0, 5.0], "here", "dbit")
    with pytest.raises(DataError, match="do not fix a lattice"):
        fit_affine(unit[:9], unit[:9], "here", "dbit")


def test_similarity_of_median_and_closest_edge() -> None:
    values = np.array([[0.0], [1], [3], [7]])
    edges = np.array([[0, 1, 2], [1, 2, 3]])
    np.testing.assert_allclose(similarity(values, edges, scale=5), [1, 1 / 5, 1 / 5**3])
    np.testing.assert_allclose(similarity(np.ones((4, 2)), edges), 1)
    assert len(similarity(values, np.zeros((2, 0), dtype=int))) == 0


@pytest.mark.real
def test_similarity_reproduces_the_released_programs_graph(data: Path) -> None:
    folder = data / "slide_dna_liver_x5"
    rows = np.load(folder / "adj.npy")
    rows = rows[rows[:, 0] != rows[:, 1]]
    edges = rows[:, :2].T.astype(int)
    np.testing.assert_allclose(similarity(np.load(folder / "label.npy"), edges, scale=5), rows[:, 2], atol=1e-9)
