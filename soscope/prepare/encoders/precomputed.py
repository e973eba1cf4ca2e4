"""Features of subspots that another program has computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from soscope.errors import ConfigError, DataError
from soscope.prepare.encoders.base import ImageEncoder

if TYPE_CHECKING:
    from soscope.prepare.image_features import SectionView

PLACEHOLDER = "{section}"


@dataclass(eq=False)
class Precomputed(ImageEncoder, name="precomputed"):
    """Takes rows of a file as they are.

    Attributes
    ----------
    features
        ``.npy``, rows in the order of the prepared subspots, or ``.csv``, rows named like them. For several sections a list in
        the order of ``data.path``, or one name with ``{section}`` in it.
    """

    looks_at_image: ClassVar[bool] = False
    features: str | list[str]

    def __call__(self, patches: Tensor) -> Tensor:
        """Refuse: there is no network."""
        raise ConfigError("image=precomputed takes features from a file; to encode patches, choose another image=.")

    def features_of(self, section: SectionView) -> np.ndarray:
        """Read and check the features of one section, ``(n_subspots, n)`` of float32."""
        files = feature_files(self.features, section.sections)
        file = files[section.sections.index(section.name)]
        if not file.is_file():
            raise DataError(f"image.features: '{file}' is not a file; section '{section.name}' needs it.")
        read = FORMATS.get(file.suffix)
        if read is None:
            raise DataError(f"image.features='{file}': '{file.suffix}' is not read. Give {' or '.join(FORMATS)}.")
        return _checked(read(file, section.subspots), file, section)


def feature_files(features: str | list[str], sections: list[str]) -> list[Path]:
    """Return the file of every section; `ConfigError` when there is not one for each."""
    named = [features] * len(sections) if isinstance(features, str) else list(features)
    files = [Path(f.replace(PLACEHOLDER, s)).expanduser() for f, s in zip(named, sections, strict=False)]
    if len(named) != len(sections) or len(set(files)) < len(sections):
        raise ConfigError(
            f"image.features={features} names {len(set(named))} files for {len(sections)} sections. Give a list in the order of "
            f"data.path, or one name that holds {PLACEHOLDER}."
        )
    return files


def _npy(file: Path, subspots: list[str]) -> np.ndarray:
    try:
        return np.load(file, allow_pickle=False)
    except Exception as error:
        raise DataError(
            f"image.features='{file}' cannot be read as an array ({error}). Write it with numpy.save."
        ) from error


def _csv(file: Path, subspots: list[str]) -> np.ndarray:
    """Read a table whose first column names subspots, and put its rows into their order."""
    try:
        table = pd.read_csv(file, index_col=0)
    except Exception as error:
        raise DataError(f"image.features='{file}' cannot be read as a comma-separated table ({error}).") from error
    table.index = table.index.astype(str)
    unknown = table.index.difference(subspots)
    missing = pd.Index(subspots).difference(table.index)
    if len(unknown) or len(missing) or not table.index.is_unique:
        raise DataError(
            f"image.features='{file}': its first column must name every subspot once. {len(missing):,} of {len(subspots):,} are "
            f"missing, {len(unknown):,} unknown, {int(table.index.duplicated().sum()):,} repeated (first row: "
            f"'{table.index[0] if len(table) else ''}', first subspot: '{subspots[0]}')."
        )
    return table.loc[subspots].to_numpy()


FORMATS = {".npy": _npy, ".csv": _csv}
"""How a file is read, by how its name ends."""


def _checked(values: np.ndarray, file: Path, section: SectionView) -> np.ndarray:
    expected = len(section.subspots)
    if values.ndim != 2 or len(values) != expected or not values.shape[1]:
        raise DataError(
            f"image.features='{file}' has shape {values.shape}; section '{section.name}' has {expected:,} subspots, so "
            f"({expected}, number of features) is expected, rows in the order of the prepared subspots (docs/platforms.md)."
        )
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        kind = values.dtype if values.dtype.kind not in "fiu" else f"{int((~np.isfinite(values)).sum()):,} that are not"
        raise DataError(
            f"image.features='{file}': features must be finite numbers, found {kind}. Replace missing values."
        )
    return values.astype(np.float32)
