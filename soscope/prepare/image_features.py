"""Image features of subspots: cut patches, encode them, keep them, reduce them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from platformdirs import user_cache_path
from rich.progress import track
from spatialdata import SpatialData
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from soscope import contract
from soscope.arrays import save_array
from soscope.channels import choose_channels, is_rgb, scale_channel
from soscope.errors import ConfigError

if TYPE_CHECKING:
    from soscope.prepare.encoders import ImageEncoder


@dataclass
class SectionView:
    """What an image encoder is given of a section.

    Attributes
    ----------
    name, sections
        Name of the section, and of all that are prepared together, in their order.
    subspots, xy_px
        Names of the subspots, and their centres in pixels, ``(n_subspots, 2)``.
    sdata
        The section as it was read.
    um_per_px, pitch_um
        Micrometres per pixel, and between subspots.
    settings, progress
        The config's ``image``, and whether progress is shown.
    """

    name: str
    sections: list[str]
    subspots: list[str]
    xy_px: np.ndarray
    sdata: SpatialData
    um_per_px: float
    pitch_um: float
    settings: Any
    progress: bool = True

    @cached_property
    def image(self) -> np.ndarray:
        """What encoders see of the image: `as_seen`. `ConfigError` where there is none."""
        image = contract.image_of(self.sdata)
        if image is None:
            raise ConfigError(f"section '{self.name}' has no image; use image=none.")
        chosen, scaling = self.settings.channels, self.settings.scaling
        return as_seen(image, contract.channels_of(self.sdata), chosen, scaling, f"section '{self.name}'")

    def encode(self, encoder: ImageEncoder) -> np.ndarray:
        """Encode the patch around every subspot, ``(n_subspots, n_features)`` of float16."""
        width_px = (self.settings.patch_width_um or self.pitch_um) / self.um_per_px
        cache = Path(self.settings.cache).expanduser() if self.settings.cache else user_cache_path("soscope")
        input_px = self.settings.input_px or encoder.input_px
        batch = self.settings.batch_size
        return encode_patches(encoder, self.image, self.xy_px, width_px, input_px, batch, cache, self.progress)


def as_seen(image: np.ndarray, names: list[str], wanted: Any, percentiles: Any, where: str) -> np.ndarray:
    """Return an 8-bit colour image as it is; of others the channels chosen, scaled to [0, 1] as float32.

    Parameters
    ----------
    image, names
        ``(n_channels, height, width)`` and the names of its channels.
    wanted
        Name or number of a channel, or a list of them; all where it is ``None``. An 8-bit colour image whose channels are
        chosen is scaled as well.
    percentiles
        What becomes 0 and 1 in every channel.
    where
        The section, for messages.
    """
    if wanted is None and is_rgb(image, names):
        return image
    chosen = chosen_channels(names, wanted, where)
    scaled = [scale_channel(image[i], percentiles, f"{where}, channel '{names[i]}'") for i in chosen]
    return np.stack(scaled)


def chosen_channels(names: list[str], wanted: Any, where: str) -> list[int]:
    """Return the numbers of the channels that ``image.channels`` names; of all where it is ``None``."""
    if wanted is None:
        return list(range(len(names)))
    return choose_channels(names, [wanted] if isinstance(wanted, str | int) else list(wanted), where)


class PatchCutter:
    """Cuts patches around points, resized to a square of a fixed number of pixels.

    Parameters
    ----------
    image
        ``(n_channels, height, width)``: uint8, or float32 in [0, 1].
    width_px
        Width of a square patch in pixels of ``image``, or its width and height; parts beyond the border are mirrored.
    input_px
        Width of the patches returned.
    """

    def __init__(self, image: np.ndarray, width_px: float | tuple[float, float], input_px: int) -> None:
        size = torch.tensor(np.broadcast_to(width_px, 2), dtype=torch.float32)
        self.reduce = max(1, int(np.min(width_px) / input_px))
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None].float()
        if image.dtype == np.uint8:
            pixels = pixels / 255
        if self.reduce > 1:  # average first, so that shrinking does not alias
            pixels = avg_pool2d(pixels, self.reduce, ceil_mode=True, count_include_pad=False)
        self.image = pixels
        steps = (torch.arange(input_px) + 0.5) / input_px - 0.5
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self.window = torch.stack([x, y], -1) * size / self.reduce

    def __call__(self, xy_px: np.ndarray) -> Tensor:
        """Return patches ``(n, n_channels, input_px, input_px)`` in [0, 1] around ``xy_px``, ``(n, 2)``."""
        height, width = self.image.shape[2:]
        centres = torch.as_tensor(xy_px, dtype=torch.float32)[:, None, None] / self.reduce
        grid = (centres + self.window) * 2 / torch.tensor([width, height]) - 1
        n, rows, columns, _ = grid.shape
        flat = grid.reshape(1, n * rows, columns, 2)
        cut = grid_sample(self.image, flat, mode="bilinear", padding_mode="reflection", align_corners=False)
        return cut.reshape(-1, n, rows, columns).transpose(0, 1)


def encoded(encoder: ImageEncoder, batches: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """Encode patches batch by batch: for each ``(n, 3, px, px)``, features ``(n, n_features)``."""
    for patches in batches:
        with torch.inference_mode():
            features = encoder.encode(patches).numpy()
        yield features


def encode_patches(
    encoder: ImageEncoder,
    image: np.ndarray,
    xy_px: np.ndarray,
    width_px: float,
    input_px: int,
    batch_size: int,
    cache: Path | None,
    progress: bool = True,
) -> np.ndarray:
    """Encode the patch around every subspot, ``(n_subspots, n_features)`` of float16, from the cache where it has them.

    The cache key is a hash of image, positions, patch geometry and encoder.
    """
    file = None
    if cache is not None:
        key = _key(image, xy_px, f"{encoder.identity()}-{width_px:.4f}-{input_px}")
        file = cache / f"features-{key}.npy"
        if file.is_file():
            return np.load(file)
    cutter = PatchCutter(image, width_px, input_px)
    parts = np.array_split(xy_px, max(1, -(-len(xy_px) // batch_size)))
    steps = track(parts, f"image features ({encoder.name})", disable=not progress, transient=True)
    features = np.concatenate([f.astype(np.float16) for f in encoded(encoder, map(cutter, steps))])
    if file is not None:
        save_array(file, features)
    return features


def _key(image: np.ndarray, xy_px: np.ndarray, text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=12)
    digest.update(np.ascontiguousarray(image).data)
    digest.update(np.round(xy_px, 3).astype(np.float64).tobytes())
    return digest.hexdigest()
