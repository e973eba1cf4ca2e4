"""What a reader is, and the checks every reader's output goes through."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image, ImageSequence
from spatialdata import SpatialData

from soscope import contract
from soscope.errors import ConfigError, DataError

READERS: dict[str, type[Reader]] = {}

MODALITY_OF = {"Gene Expression": "rna", "Antibody Capture": "protein", "Peaks": "atac"}
"""Names of modalities by the ``feature_types`` of 10x matrices; other types become their lower-case name."""

SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
SEPARATED = {",": "comma", "\t": "tab"}


@dataclass
class RawSection:
    """What a reader delivers: the section, and the true subspot profiles where they are known (never used to train)."""

    sdata: SpatialData
    truth: AnnData | None = None

    @property
    def name(self) -> str:
        """Name of the section."""
        return str(contract.facts(self.sdata)["section"])


@dataclass
class Reader(ABC):
    """Opens one platform's folders. A new platform is one dataclass here, its fields being ``data.options``, and one YAML."""

    needs_path: ClassVar[bool] = True

    def __init_subclass__(cls, name: str | None = None) -> None:
        if name is not None:
            READERS[name] = cls

    @abstractmethod
    def read(self, path: Path | None) -> RawSection:
        """Read one section. Raises `DataError` that names the file, what was found, and the way out."""

    def inputs(self, path: Path | None) -> list[Path]:
        """List the files a section is read from, for the run's record of input hashes."""
        return [] if path is None else [path]


def make_reader(name: str, options: Mapping[str, Any]) -> Reader:
    """Build a registered reader; an unknown name or option raises `ConfigError` with the choices."""
    if name not in READERS:
        raise ConfigError(f"data.reader='{name}' is unknown. Choose from: {', '.join(sorted(READERS))}.")
    known = [f.name for f in fields(READERS[name])]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigError(f"data.options.{unknown[0]} is unknown to reader '{name}'. Choose from: {', '.join(known)}.")
    return READERS[name](**options)


def split_modalities(table: AnnData) -> dict[str, AnnData]:
    """Part a table by ``var['feature_types']``, so that RNA and protein are never summed into one library size."""
    if "feature_types" not in table.var:
        return {"rna": table}
    kinds = table.var["feature_types"].astype(str)
    names = {kind: MODALITY_OF.get(kind, kind.lower().replace(" ", "_")) for kind in kinds.unique()}
    return {name: table[:, (kinds == kind).to_numpy()].copy() for kind, name in names.items()}


def kept_var(table: AnnData) -> pd.DataFrame:
    """Return what a section keeps of a table's ``var``."""
    return table.var[[c for c in ("gene_ids", "feature_types", "genome") if c in table.var]].copy()


def check_names(table: AnnData, where: str) -> None:
    """Refuse duplicated spots and features."""
    for kind, names in (("spot", table.obs_names), ("feature", table.var_names)):
        twice = names[names.duplicated()].unique()
        if len(twice):
            method = {"spot": "obs", "feature": "var"}[kind]
            raise DataError(
                f"{where}: {len(twice):,} {kind} names occur more than once (first: '{twice[0]}'). Merge the {kind}s that share "
                f"a name if they are one, or number them (AnnData.{method}_names_make_unique)."
            )


def number_symbols(table: AnnData) -> AnnData:
    """Return a table whose features that share a symbol are numbered, if their ids differ: as `visium` reads them."""
    ids = table.var.get("gene_ids")
    if table.var_names.is_unique or ids is None or ids.duplicated().any():
        return table
    numbered = table.copy()
    numbered.var_names_make_unique()
    return numbered


def check_ids(table: AnnData, where: str) -> None:
    """Refuse a feature that is listed twice under one id; two ids may share a symbol, which readers then number."""
    if "gene_ids" not in table.var:
        return
    ids = table.var["gene_ids"]
    twice = ids[ids.duplicated()]
    if len(twice):
        raise DataError(
            f"{where}: {len(twice):,} feature ids occur more than once (first: '{twice.iloc[0]}', '{twice.index[0]}'). "
            "Sum or drop the repeated rows: a feature must be counted once."
        )


def read_columns(file: Path, columns: Sequence[str], expected: str, sep: str = ",") -> pd.DataFrame:
    """Read a table of positions; `DataError` with what was ``expected`` when it cannot be read or lacks ``columns``."""
    try:
        table = pd.read_csv(file, sep=sep)
    except Exception as error:
        raise DataError(
            f"'{file}' cannot be read as a {SEPARATED[sep]}-separated table ({error}). Copy it again."
        ) from error
    missing = [c for c in columns if c not in table]
    if missing:
        raise DataError(
            f"'{file}': no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}. "
            f"{expected} {', '.join(columns)}."
        )
    return table


def separator(file: Path) -> str:
    """Return what separates the columns of a table by its ending, ``.gz`` left off; `DataError` for other endings."""
    ending = Path(file.name.removesuffix(".gz")).suffix
    if ending not in SEPARATORS:
        raise DataError(
            f"'{file}': '{ending}' is not understood. Give a table as {', '.join(SEPARATORS)}, perhaps with .gz."
        )
    return SEPARATORS[ending]


def check_inside(xy_px: np.ndarray, image: np.ndarray | None, where: str, margin_px: float = 0.0) -> None:
    """Refuse an image that does not reach as far as the spots do; centres may lie ``margin_px`` beyond its border."""
    if not np.isfinite(xy_px).all():
        raise DataError(f"{where}: {int((~np.isfinite(xy_px)).any(1).sum()):,} spots have no position.")
    if image is None:
        return
    height, width = image.shape[1:]
    outside = ((xy_px < -margin_px) | (xy_px > np.array([width, height]) + margin_px)).any(1)
    if outside.any():
        raise DataError(
            f"{where}: the image is {width} x {height} px, but {int(outside.sum()):,} of {len(xy_px):,} spots lie outside "
            f"it (spots reach from ({xy_px[:, 0].min():.0f}, {xy_px[:, 1].min():.0f}) to ({xy_px[:, 0].max():.0f}, "
            f"{xy_px[:, 1].max():.0f})). The image is cropped, or the scale factor belongs to another resolution."
        )


def as_rgb(image: np.ndarray, where: str) -> np.ndarray:
    """Return ``(3, height, width)`` of uint8 from grey, RGB or RGBA; anything else is refused."""
    if image.shape[0] == 1:
        image = np.repeat(image, 3, 0)
    if image.shape[0] == 4:
        image = image[:3]
    if image.shape[0] != 3 or image.dtype != np.uint8:
        raise DataError(
            f"{where}: expected an 8-bit grey, RGB or RGBA image, found {image.shape[0]} channels of {image.dtype}."
        )
    return np.ascontiguousarray(image)


def as_image(image: np.ndarray, where: str, channels: Sequence[str] | None = None) -> np.ndarray:
    """Return an image ``(channels, height, width)`` as a section keeps it: colour as `as_rgb`, fluorescence as it is.

    Parameters
    ----------
    image
        8-bit grey, RGB or RGBA become RGB. Other numbers of channels, 16 bits and floating point stay, and so does everything
        whose ``channels`` have names.
    where
        The file, for messages.
    channels
        Names of the channels, for `soscope.contract.new_section`; `prepare` chooses among them.
    """
    if channels is None and image.dtype == np.uint8 and image.shape[0] in (1, 3, 4):
        return as_rgb(image, where)
    if image.dtype == np.int32 and image.min() >= 0 and image.max() <= np.iinfo(np.uint16).max:
        image = image.astype(np.uint16)  # how 16-bit PNG files are opened
    if image.dtype not in (np.uint8, np.uint16, np.float32, np.float64):
        raise DataError(
            f"{where}: expected an image of 8 or 16 bits or of floating point, found {image.dtype}. Convert it."
        )
    if not np.isfinite(image).all():
        raise DataError(f"{where}: some pixels are not finite. Replace them before running.")
    return np.ascontiguousarray(image)


def eight_bit(image: np.ndarray) -> np.ndarray:
    """Return fractions of 1, as matplotlib reads pictures, as 8 bits; other images as they are."""
    fractions = image.dtype.kind == "f" and image.min() >= 0 and image.max() <= 1
    return np.rint(image * 255).astype(np.uint8) if fractions else image


def open_image(file: Path) -> np.ndarray:
    """Return an image file as ``(channels, height, width)``, however many pixels it has; `DataError` when it is damaged.

    Grey pages of one size in a TIFF file are the channels of a fluorescence image; of others the first page counts.
    """
    try:
        with _no_limit(), Image.open(file) as image:
            first = image.size  # the iterator turns the pages of this very object
            pages = [_pixels(page) for page in ImageSequence.Iterator(image) if page.size == first]
    except Exception as error:
        raise DataError(
            f"'{file}' cannot be read as an image ({type(error).__name__}: {error}). It may be truncated: compare its size "
            "with the original's."
        ) from error
    if len(pages) > 1 and all(page.ndim == 2 for page in pages):
        return as_image(np.stack(pages), f"'{file}'", [f"channel_{i}" for i in range(len(pages))])
    pixels = pages[0]
    return as_image(pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0), f"'{file}'")


@contextmanager
def _no_limit() -> Iterator[None]:
    """Let Pillow open however many pixels: a slide is no decompression bomb."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def page_names(file: Path) -> list[str] | None:
    """Return names for the grey pages of one size in a TIFF file, which are channels; ``None`` for any other image."""
    try:
        with _no_limit(), Image.open(file) as image:
            first = image.size
            bands = [len(page.getbands()) for page in ImageSequence.Iterator(image) if page.size == first]
    except OSError:  # a kind of file that another library opens
        return None
    grey = len(bands) > 1 and all(number == 1 for number in bands)
    return [f"channel_{i}" for i in range(len(bands))] if grey else None


def _pixels(page: Image.Image) -> np.ndarray:
    plain = page.mode in ("L", "RGB", "RGBA") or page.mode.startswith(("I", "F"))
    return np.asarray(page if plain else page.convert("RGB"))


def existing_folder(path: Path | None, what: str) -> Path:
    """Return ``path`` when it is a folder; `DataError` otherwise."""
    if path is None or not path.is_dir():
        raise DataError(f"data.path='{path}' is not a folder. Point it at {what}.")
    return path


def existing_file(file: Path, option: str) -> Path:
    """Return ``file`` when it is one; `DataError` with the option that names another, and what lies beside it, otherwise."""
    if not file.is_file():
        beside = sorted(f.name for f in file.parent.iterdir() if f.is_file()) if file.parent.is_dir() else []
        raise DataError(
            f"'{file}' is missing. The folder holds: {', '.join(beside[:12]) or 'no file'}. "
            f"Name another file with data.options.{option}=..."
        )
    return file


def hash_files(files: list[Path]) -> dict[str, str]:
    """Return a short BLAKE2 hash of every file by name."""
    hashes = {}
    for file in files:
        digest = hashlib.blake2b(digest_size=16)
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
        hashes[str(file)] = digest.hexdigest()
    return hashes
