"""Where patches come from: cut around positions in an image, or a folder with one file each."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from soscope.errors import DataError
from soscope.prepare.image_features import PatchCutter
from soscope.read.base import as_rgb, check_inside, open_image

ARRAY_FILE = ".npy"
"""Ending of patches that are arrays."""


class Patches(ABC):
    """Square patches in a fixed order, one per subspot, made when they are taken.

    Attributes
    ----------
    input_px
        Width of the patches handed to an encoder.
    """

    input_px: int

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of patches."""

    @abstractmethod
    def __getitem__(self, rows: slice) -> Tensor:
        """Return patches ``(n, 3, input_px, input_px)`` in [0, 1]."""

    @abstractmethod
    def made_from(self) -> dict[str, str]:
        """Return what decides the patches, by name; equal for equal patches."""


class ImagePatches(Patches):
    """Patches around positions in an image.

    Parameters
    ----------
    image
        ``(3, height, width)`` of uint8.
    xy_px
        Centres in pixels of the image, ``(n, 2)``; `DataError` when one lies outside.
    patch_px
        Width of a patch in pixels of the image; parts beyond the border are mirrored.
    input_px
        Width of the patches handed to an encoder.
    where
        What messages call the positions.
    """

    def __init__(
        self, image: np.ndarray, xy_px: np.ndarray, patch_px: float, input_px: int, where: str = "positions"
    ) -> None:
        check_inside(xy_px, image, where)
        self.xy_px, self.patch_px, self.input_px = xy_px, float(patch_px), input_px
        self.cutter = PatchCutter(image, self.patch_px, input_px)
        self.image_hash = _hash(image)

    def __len__(self) -> int:
        return len(self.xy_px)

    def __getitem__(self, rows: slice) -> Tensor:
        return self.cutter(self.xy_px[rows])

    def made_from(self) -> dict[str, str]:
        """Return the image, the positions and the geometry."""
        return {
            "image": self.image_hash,
            "positions": _hash(self.xy_px.astype(np.float64)),
            "patch_px": f"{self.patch_px:.10g}",
            "input_px": str(self.input_px),
        }


class PatchFiles(Patches):
    """Patches that are image files, or arrays as `open_patch` takes them, each resized as a whole.

    Every file is read once before the first is encoded, so that a damaged one is named at once.

    Parameters
    ----------
    files
        One file per subspot, in their order; any size.
    input_px
        Width of the patches handed to an encoder.
    progress
        Show a bar while files are looked through.
    """

    def __init__(self, files: Sequence[Path], input_px: int, progress: bool = True) -> None:
        self.files, self.input_px = list(files), input_px
        looked = track(self.files, "looking through patches", disable=not progress, transient=True)
        self.hashes = [_hash(open_patch(file)) for file in looked]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, rows: slice) -> Tensor:
        return torch.cat([self._whole(open_patch(file)) for file in self.files[rows]])

    def made_from(self) -> dict[str, str]:
        """Return the pixels of all files in their order, and the width."""
        return {"patches": _hash(np.array(self.hashes)), "input_px": str(self.input_px)}

    def _whole(self, image: np.ndarray) -> Tensor:
        height, width = image.shape[1:]
        return PatchCutter(image, (width, height), self.input_px)(np.array([[width / 2, height / 2]]))


def patch_files(folder: Path, names: Path | None = None) -> list[Path]:
    """List the image files and arrays (``.npy``) of a folder, one per subspot.

    Parameters
    ----------
    folder
        Folder of patches.
    names
        Text file with one file name a line, in the order of subspots. Without it all images are taken in the order of their
        names, numbers by value: ``Img_2.jpg`` before ``Img_10.jpg``.

    Raises
    ------
    DataError
        When there is no such folder, no image in it, or a file that is named is not.
    """
    if not folder.is_dir():
        raise DataError(f"patches='{folder}' is not a folder. Point it at a folder with one image file per subspot.")
    if names is None:
        images = {*Image.registered_extensions(), ARRAY_FILE}
        found = sorted((f for f in folder.iterdir() if f.suffix.lower() in images and f.is_file()), key=_natural)
        if not found:
            raise DataError(f"patches='{folder}' holds no image file. Give one image file per subspot.")
        return found
    if not names.is_file():
        raise DataError(f"names='{names}' is not a file. Give a text file with the name of one patch a line.")
    files = [folder / line.strip() for line in names.read_text().splitlines() if line.strip()]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        first = f" (first: '{missing[0]}')" if missing else ""
        raise DataError(
            f"names='{names}': {len(missing):,} of {len(files):,} files are not in patches='{folder}'{first}. Give one name "
            "of a file in that folder a line."
        )
    return files


def open_patch(file: Path) -> np.ndarray:
    """Return a patch as ``(channels, height, width)``; ``.npy`` holds ``(height, width)`` or ``(height, width, 3)`` of uint8.

    Raises
    ------
    DataError
        For files that are damaged or hold something else.
    """
    if file.suffix.lower() != ARRAY_FILE:
        return open_image(file)
    try:
        pixels = np.load(file, allow_pickle=False)
    except Exception as error:
        raise DataError(
            f"'{file}' cannot be read as an array ({type(error).__name__}: {error}). Save it again."
        ) from error
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise DataError(
            f"'{file}': found shape {pixels.shape} of {pixels.dtype}, expected a patch (height, width, 3) of uint8, 0 to 255."
        )
    return as_rgb(np.moveaxis(pixels, -1, 0), f"'{file}'")


def _natural(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _hash(values: np.ndarray) -> str:
    digest = hashlib.blake2b(f"{values.shape}{values.dtype}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
