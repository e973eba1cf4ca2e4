"""Where spots lie, and how one divides into subspots.

Everything is built in unit coordinates (pitch 1) derived from array coordinates; `soscope.affine` maps them to pixels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import pandas as pd

from soscope.errors import ConfigError

LATTICES: dict[str, type[Lattice]] = {}
_SQRT3 = math.sqrt(3.0)


class Lattice(ABC):
    """A regular arrangement of spots. A new one is a subclass here; a new platform on a known lattice is one YAML."""

    name: ClassVar[str]
    cell_area: ClassVar[float]
    """Area of a spot's cell in unit coordinates."""
    neighbour_radius: ClassVar[dict[int, float]]
    """Number of neighbours to the radius, in pitches, that holds just those."""
    merge_rule: ClassVar[str]
    """How a benchmark merges spots unless it is told."""
    splits: ClassVar[tuple[int, ...]]
    """Usual numbers of subspots, as many as `merge_rule` merges first; `offsets` knows more."""

    def __init_subclass__(cls, name: str | None = None) -> None:
        if name is not None:
            LATTICES[name] = cls
            cls.name = name

    @abstractmethod
    def unit_xy(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
        """Return unit coordinates ``(n_spots, 2)`` of array rows and columns."""

    @abstractmethod
    def contradiction(self, row: np.ndarray, col: np.ndarray) -> str | None:
        """Say how array coordinates contradict this lattice and which platforms fit, or return ``None``."""

    @abstractmethod
    def offsets(self, k: int) -> np.ndarray:
        """Return the ``k`` subspot centres around a spot in unit coordinates; `ConfigError` when ``k`` does not tile."""

    @abstractmethod
    def outline(self, k: int) -> np.ndarray:
        """Return the corners of a subspot around its centre in unit coordinates."""

    @abstractmethod
    def coarser(self, row: np.ndarray, col: np.ndarray, k: int) -> Coarser:
        """Group spots by ``k`` into spots of a coarser lattice of the same kind; `ConfigError` when ``k`` does not tile.

        The groups are those of which the most are complete (hex), or that start at the first row and column (square).
        """

    @abstractmethod
    def rule(self, k: int) -> str:
        """Return the name of the rule by which a benchmark merges ``k`` spots."""

    def radius_of(self, n_neighbours: int) -> float:
        """Return the radius, in pitches, that holds ``n_neighbours``."""
        if n_neighbours not in self.neighbour_radius:
            raise ConfigError(
                f"platform.n_neighbours={n_neighbours} is no whole ring of this lattice. "
                f"Choose from: {', '.join(map(str, self.neighbour_radius))}."
            )
        return self.neighbour_radius[n_neighbours]


class Coarser(NamedTuple):
    """Complete groups of spots: array ``row`` and ``col`` of each, and its ``members`` ``(n_groups, k)``, rows of the input.

    Members stand in the order of `Lattice.offsets`, and lie where that puts the subspots of the group.
    """

    row: np.ndarray
    col: np.ndarray
    members: np.ndarray


class HexLattice(Lattice, name="hex"):
    """Hexagonal packing in Visium's array coordinates: neighbours at (0, +-2) and (+-1, +-1)."""

    cell_area = _SQRT3 / 2
    neighbour_radius: ClassVar[dict[int, float]] = {6: 1.2, 12: 1.85, 18: 2.2}
    merge_rule = "hex7"
    splits = (7, 13, 19)

    def unit_xy(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
        """Return ``(col / 2, row sqrt(3) / 2)``."""
        return np.stack([col / 2, row * _SQRT3 / 2], 1).astype(np.float64)

    def contradiction(self, row: np.ndarray, col: np.ndarray) -> str | None:
        """Hexagonal array coordinates have an even sum."""
        odd = (row + col) % 2 != 0
        if not odd.any():
            return None
        return (
            f"{int(odd.sum()):,} of {len(row):,} spots have an odd array_row + array_col, which no hexagonal array has. "
            "It looks like a square grid: platform=dbit, or another square platform"
        )

    def offsets(self, k: int) -> np.ndarray:
        """Return the sub-lattice points nearest to the spot: rings from outside in, the centre last.

        The sub-lattice has pitch ``1 / sqrt(k)`` and, for ``k = 7``, is turned by +19.1 degrees.
        """
        points = _hex_sublattice(k)
        if points is None:
            allowed = [n for n in range(2, 38) if _hex_sublattice(n) is not None]
            raise ConfigError(
                f"split.subspots={k} does not tile a hexagonal lattice evenly. Choose from: {', '.join(map(str, allowed))}."
            )
        return _outside_in(points)

    def coarser(self, row: np.ndarray, col: np.ndarray, k: int) -> Coarser:
        """Group by the sub-lattice of index ``k``, turned as subspots are to spots, from the best of ``k`` origins."""
        basis = _hex_basis(k)
        offsets = self.offsets(k) / np.abs(basis)
        a, b = _axial_steps(k)
        spots = np.stack([(col - row) // 2, row], 1)
        turn = np.exp(-1j * np.angle(basis))
        fine = _to_axial((offsets[:, 0] + 1j * offsets[:, 1]) * turn)
        det = np.array([[a + b, b], [-b, a]])  # inverse of the coarse basis (a, b), (-b, a + b), times k
        best = Coarser(row[:0], col[:0], np.zeros((0, k), dtype=np.int64))
        for origin in range(k):
            steps = (spots - [origin, 0]) @ det.T
            whole = (steps % k == 0).all(1)
            members = _find(spots, spots[whole][:, None] + fine[None])
            complete = (members >= 0).all(1)
            if complete.sum() > len(best.members):
                q, r = (steps[whole][complete] // k).T
                best = Coarser(r, 2 * q + r, members[complete])
        return best

    def rule(self, k: int) -> str:
        """Return ``hex7`` and the like."""
        return f"hex{k}"

    def outline(self, k: int) -> np.ndarray:
        """Return a hexagon's six corners."""
        turn = np.angle(_hex_basis(k)) + np.pi / 6
        angle = turn + np.arange(6) * np.pi / 3
        return np.stack([np.cos(angle), np.sin(angle)], 1) / (_SQRT3 * math.sqrt(k))


class SquareLattice(Lattice, name="square"):
    """Rows and columns at the same distance."""

    cell_area = 1.0
    neighbour_radius: ClassVar[dict[int, float]] = {4: 1.2, 8: 1.6, 12: 2.1}
    merge_rule = "2x2"
    splits = (4, 9, 16)

    def unit_xy(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
        """Return ``(col, row)``."""
        return np.stack([col, row], 1).astype(np.float64)

    def contradiction(self, row: np.ndarray, col: np.ndarray) -> str | None:
        """Coordinates that all have an even sum are a hexagonal array's."""
        if len(row) < 8 or ((row + col) % 2 != 0).any():
            return None
        return (
            "array_row + array_col is even for every spot, as on a hexagonal array. "
            "It looks like Visium: platform=visium"
        )

    def offsets(self, k: int) -> np.ndarray:
        """Return ``s x s`` centres, row by row; for odd ``s`` the centre comes last."""
        s = math.isqrt(k)
        if s * s != k or k < 1:
            raise ConfigError(f"split.subspots={k} is no square number. Choose from: 4, 9, 16, 25, ...")
        steps = (np.arange(s) + 0.5) / s - 0.5
        y, x = np.meshgrid(steps, steps, indexing="ij")
        points = np.stack([x.ravel(), y.ravel()], 1)
        if s % 2:
            middle = k // 2
            points = np.concatenate([np.delete(points, middle, 0), points[[middle]]])
        return points

    def coarser(self, row: np.ndarray, col: np.ndarray, k: int) -> Coarser:
        """Group into blocks that start at the first row and column."""
        s = math.isqrt(k)
        within = np.round(self.offsets(k) * s + (s - 1) / 2).astype(np.int64)[:, ::-1]
        spots = np.stack([row, col], 1) - [row.min(), col.min()]
        blocks = np.unique(spots // s, axis=0)
        members = _find(spots, blocks[:, None] * s + within[None])
        complete = (members >= 0).all(1)
        block_row, block_col = blocks[complete].T
        return Coarser(block_row, block_col, members[complete])

    def rule(self, k: int) -> str:
        """Return ``2x2`` and the like."""
        return f"{math.isqrt(k)}x{math.isqrt(k)}"

    def outline(self, k: int) -> np.ndarray:
        """Return a square's four corners."""
        half = 0.5 / math.sqrt(k)
        return np.array([[-half, -half], [half, -half], [half, half], [-half, half]])


def make_lattice(name: str) -> Lattice:
    """Build a registered lattice; an unknown name raises `ConfigError` with the choices."""
    if name not in LATTICES:
        raise ConfigError(f"platform.lattice='{name}' is unknown. Choose from: {', '.join(sorted(LATTICES))}.")
    return LATTICES[name]()


def _axial_steps(k: int) -> tuple[int, int]:
    """Return ``a <= b`` with ``a^2 + a b + b^2 = k``, the steps from one coarse spot to the next; zeros when there are none."""
    for a in range(math.isqrt(k) + 1):
        for b in range(a, math.isqrt(k) + 1):
            if a * a + a * b + b * b == k:
                return a, b
    return 0, 0


def _hex_basis(k: int) -> complex:
    """Return the first sub-lattice vector as a complex number; zero when ``k`` is no number of a hexagonal sub-lattice."""
    a, b = _axial_steps(k)
    return 1 / (a + b * complex(0.5, _SQRT3 / 2)) if b else 0j


def _to_axial(points: np.ndarray) -> np.ndarray:
    """Return whole axial steps ``(n, 2)`` of complex points on the unit lattice."""
    r = points.imag / (_SQRT3 / 2)
    return np.round(np.stack([points.real - r / 2, r], 1)).astype(np.int64)


def _find(spots: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the row of every ``wanted`` integer pair ``(..., 2)`` in ``spots`` ``(n, 2)``, -1 where it is absent."""
    index = pd.MultiIndex.from_arrays(list(spots.T))
    found = index.get_indexer(pd.MultiIndex.from_arrays(list(wanted.reshape(-1, 2).T)))
    return found.reshape(wanted.shape[:-1])


def _hex_sublattice(k: int) -> np.ndarray | None:
    """Return the sub-lattice points nearer to the origin than to any other spot, when these are just ``k``."""
    basis = _hex_basis(k)
    if basis == 0:
        return None
    omega = complex(0.5, _SQRT3 / 2)
    reach = np.arange(-k, k + 1)
    points = (reach[:, None] * basis + reach[None, :] * basis * omega).ravel()
    points = points[np.abs(points) < 0.6]
    others = np.exp(1j * np.pi / 3 * np.arange(6))
    inside = (np.abs(points)[:, None] < np.abs(points[:, None] - others) - 1e-9).all(1)
    if inside.sum() != k:
        return None
    return np.stack([points[inside].real, points[inside].imag], 1)


def _outside_in(points: np.ndarray) -> np.ndarray:
    radius = np.round(np.linalg.norm(points, axis=1), 9)
    angle = np.round(np.mod(np.arctan2(points[:, 1], points[:, 0]) + 1e-9, 2 * np.pi), 9)
    return points[np.lexsort((angle, -radius))]
