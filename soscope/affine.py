"""From unit coordinates (pitch 1) to pixels: whichever way the axes of an image run, geometry is right or the fit says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from soscope.errors import DataError


@dataclass
class Affine:
    """Map from unit coordinates to pixels, ``xy_px = xy @ matrix + shift``."""

    matrix: np.ndarray
    shift: np.ndarray

    def __call__(self, xy: np.ndarray) -> np.ndarray:
        """Map points ``(..., 2)``."""
        return xy @ self.matrix + self.shift

    @property
    def pitch_px(self) -> float:
        """Pixels from one spot to the next."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix))))


def fit_affine(xy: np.ndarray, xy_px: np.ndarray, where: str, platform: str) -> Affine:
    """Fit pixels to unit coordinates by least squares.

    Raises
    ------
    DataError
        When spots are too few or on one line, when positions stray from the lattice by more than a quarter of its pitch,
        or when its axes differ in length by more than 10 % (the lattice is another one).
    """
    if len(xy) < 3 or np.linalg.matrix_rank(xy - xy.mean(0), tol=1e-6) < 2:
        raise DataError(
            f"{where}: {len(xy)} spots on one line or fewer than 3 do not fix a lattice. Use more of the section."
        )
    design = np.column_stack([xy, np.ones(len(xy))])
    solution = np.linalg.lstsq(design, xy_px, rcond=None)[0]
    affine = Affine(solution[:2], solution[2])
    lengths = np.linalg.svd(affine.matrix, compute_uv=False)
    error = np.linalg.norm(affine(xy) - xy_px, axis=1).max() / max(affine.pitch_px, 1e-12)
    if error > 0.25 or lengths[1] < 0.9 * lengths[0]:
        raise DataError(
            f"{where}: pixel positions do not follow the lattice of platform={platform}: spots stray by up to {error:.2f} "
            f"pitches, and the axes differ by {100 * (1 - lengths[1] / lengths[0]):.0f} %. Array and pixel coordinates come "
            "from different files, or the platform is another one."
        )
    return affine
