"""A simulated section with known truth: lattice, tissue regions, gene programs and an H&E-like image from one seed.

What is drawn, so that nobody has to guess (`docs/demo.md`): expression follows five programs, of which the image shows three
(two tissue regions, small glands), one in part (cell density, seen as nuclei) and one not at all. Every feature also has
a smooth pattern of its own that nothing else shows. Library size varies from spot to spot on its own, and a little with cell
density. Counts are negative binomial per subspot; a spot is their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scipy.ndimage import gaussian_filter

from soscope import contract
from soscope.errors import ConfigError
from soscope.lattice import HexLattice
from soscope.read.base import RawSection, Reader

PITCH_PX = 24
FEATURE_OF = {"rna": "gene", "protein": "protein", "atac": "peak"}
GLASS, TISSUE = np.array([241, 240, 243.0]), np.array([226, 176, 201.0])
STROMA, GLAND, NUCLEUS = np.array([232, 196, 214.0]), np.array([186, 128, 186.0]), np.array([92, 58, 138.0])


@dataclass
class Fields:
    """Smooth maps over the image, each ``(height, width)``."""

    region: np.ndarray
    gland: np.ndarray
    density: np.ndarray
    hidden: np.ndarray


@dataclass
class DemoReader(Reader, name="demo"):
    """Simulate a hexagonal section.

    Attributes
    ----------
    rows, columns
        Size of the array in spots; those outside an oval of tissue are left out.
    n_features
        Genes simulated.
    n_proteins, n_peaks
        Proteins and chromatin peaks simulated besides, each a table of its own: Poisson counts that follow the same programs.
    subspots
        Subspots per spot in the truth.
    seed
        Seed of everything drawn.
    """

    needs_path = False
    rows: int = 24
    columns: int = 18
    n_features: int = 80
    n_proteins: int = 20
    n_peaks: int = 60
    subspots: int = 7
    seed: int = 0

    def read(self, path: Path | None) -> RawSection:
        """Draw the section; ``path`` plays no part."""
        if self.rows < 4 or self.columns < 4:
            raise ConfigError(
                f"data.options: a demo of {self.rows} x {self.columns} spots is too small; use 4 x 4 or more."
            )
        rng = np.random.default_rng(self.seed)
        lattice = HexLattice()
        row, col = self._array()
        margin = 1.5 * PITCH_PX
        xy = lattice.unit_xy(row, col) * PITCH_PX + margin
        size = np.ceil(xy.max(0) + margin).astype(int)
        fields = draw_fields(rng, (size[1], size[0]))
        offsets = lattice.offsets(self.subspots) * PITCH_PX
        sub_xy = (xy[:, None] + offsets[None]).reshape(-1, 2)
        programs = programs_at(fields, sub_xy)
        truth = {"rna": self._counts(rng, fields, sub_xy)}
        image = draw_image(rng, fields, xy)
        truth["protein"] = poisson_counts(rng, programs, self.n_proteins, 60 / self.subspots)
        truth["atac"] = poisson_counts(rng, programs, self.n_peaks, 6 / self.subspots)
        spots = [f"r{r:03d}c{c:03d}" for r, c in zip(row, col, strict=True)]
        obs = pd.DataFrame({"array_row": row, "array_col": col}, index=spots)
        tables = {
            modality: AnnData(
                X=sparse.csr_matrix(counts.reshape(len(spots), self.subspots, -1).sum(1)),
                obs=obs.copy(),
                var=pd.DataFrame(index=feature_names(modality, counts.shape[1])),
            )
            for modality, counts in truth.items()
            if counts.shape[1]
        }
        facts = {"reader": "demo", "image_source": "simulated", "files": [], "simulation_seed": self.seed}
        sdata = contract.new_section("demo", image, spots, xy, 0.275 * PITCH_PX, tables, **facts)
        return RawSection(sdata, self._truth_table(truth, spots))

    def _array(self) -> tuple[np.ndarray, np.ndarray]:
        """Return array rows and columns of the spots under an oval of tissue."""
        row, nth = (a.ravel() for a in np.mgrid[: self.rows, : self.columns])
        col = 2 * nth + row % 2
        across = (row - (self.rows - 1) / 2) / (self.rows / 2)
        along = (col - self.columns + 0.5) / self.columns
        inside = np.abs(across) ** 3 + np.abs(along) ** 3 < 0.95
        return row[inside], col[inside]

    def _counts(self, rng: np.random.Generator, fields: Fields, xy: np.ndarray) -> np.ndarray:
        """Draw subspot counts ``(n_subspots, n_features)``."""
        at = rows_and_columns(xy)
        programs = programs_at(fields, xy)
        loading = rng.normal(0, 1.0, (5, self.n_features)) * (rng.random((5, self.n_features)) < 0.45)
        loading[3:] *= 0.5
        own = np.stack([0.35 * smooth(rng, fields.region.shape, 1.5)[at] for _ in range(self.n_features)], 1)
        level = rng.normal(np.log(25 / self.subspots), 0.8, self.n_features)
        library = np.repeat(rng.normal(0, 0.35, len(xy) // self.subspots), self.subspots) + 0.15 * fields.density[at]
        mu = np.exp(level + programs.T @ loading + own + library[:, None])
        phi = 0.3
        return rng.poisson(rng.gamma(mu / phi) * phi).astype(np.float32)

    def _truth_table(self, truth: dict[str, np.ndarray], spots: list[str]) -> AnnData:
        """Return the counts of subspots, all tables side by side."""
        names = [f"{s}:{i}" for s in spots for i in range(self.subspots)]
        features = [name for modality, counts in truth.items() for name in feature_names(modality, counts.shape[1])]
        counts = sparse.csr_matrix(np.concatenate(list(truth.values()), 1))
        return AnnData(X=counts, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=features))


def feature_names(modality: str, n: int) -> list[str]:
    """Return names that no two tables share."""
    return [f"{FEATURE_OF[modality]}_{i + 1:03d}" for i in range(n)]


def rows_and_columns(xy: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the pixels that hold points."""
    return tuple(xy[:, ::-1].round().astype(int).T)


def programs_at(fields: Fields, xy: np.ndarray) -> np.ndarray:
    """Return the five programs at points, ``(5, n_points)``."""
    regions = [fields.region > 0.35, fields.region < -0.45, fields.gland > 0.9]
    at = rows_and_columns(xy)
    return np.stack([field[at] for field in (*regions, fields.density, fields.hidden)]).astype(float)


def poisson_counts(rng: np.random.Generator, programs: np.ndarray, n_features: int, level: float) -> np.ndarray:
    """Draw counts that follow the programs and nothing else, ``(n_points, n_features)``; ``level`` is the typical count."""
    loading = rng.normal(0, 0.8, (len(programs), n_features)) * (rng.random((len(programs), n_features)) < 0.45)
    loading[3:] *= 0.5
    own = rng.normal(np.log(level), 0.5, n_features)
    return rng.poisson(np.exp(own + programs.T @ loading)).astype(np.float32)


def smooth(rng: np.random.Generator, shape: tuple[int, ...], pitches: float) -> np.ndarray:
    """Return a Gaussian random field of unit variance, correlated over ``pitches``."""
    field = gaussian_filter(rng.standard_normal(shape), pitches * PITCH_PX, mode="reflect")
    return (field - field.mean()) / field.std()


def draw_fields(rng: np.random.Generator, shape: tuple[int, int]) -> Fields:
    """Draw the maps that image and expression have in common, and the one only expression follows."""
    return Fields(
        region=smooth(rng, shape, 2.2),
        gland=smooth(rng, shape, 0.35),
        density=smooth(rng, shape, 0.8),
        hidden=smooth(rng, shape, 1.8),
    )


def draw_image(rng: np.random.Generator, fields: Fields, xy: np.ndarray) -> np.ndarray:
    """Paint tissue, regions, glands and nuclei, ``(3, height, width)`` of uint8."""
    height, width = fields.region.shape
    canvas = np.broadcast_to(TISSUE, (height, width, 3)).copy()
    for mask, colour, share in (
        (fields.region > 0.35, STROMA, 0.9),
        (fields.region < -0.45, np.array([206, 140, 178.0]), 0.8),
        (fields.gland > 0.9, GLAND, 0.7),
    ):
        soft = gaussian_filter(mask.astype(float), 1.0)[..., None] * share
        canvas = canvas * (1 - soft) + colour * soft
    chance = 0.012 * np.exp(0.6 * fields.density)
    nuclei = gaussian_filter((rng.random((height, width)) < chance).astype(float), 1.1) * 7
    canvas = canvas + (NUCLEUS - canvas) * np.clip(nuclei, 0, 0.85)[..., None]
    covered = np.zeros((height, width))
    covered[tuple(xy[:, ::-1].round().astype(int).T)] = 1
    tissue = gaussian_filter(covered, 0.6 * PITCH_PX)
    tissue = np.clip(tissue / (0.35 * np.median(tissue[covered > 0])), 0, 1)[..., None] ** 2
    canvas = GLASS + (canvas - GLASS) * tissue + rng.normal(0, 3, (height, width, 3))
    return np.moveaxis(np.clip(canvas, 0, 255).astype(np.uint8), -1, 0)
