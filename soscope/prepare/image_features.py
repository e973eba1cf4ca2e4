"""Image features of subspots: cut patches, encode them, keep them, reduce them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from soscope.arrays import save_array
from soscope.prepare.encoders import ImageEncoder


class PatchCutter:
    """Cuts patches around points, resized to a square of a fixed number of pixels.

    Parameters
    ----------
    image
        ``(3, height, width)`` of uint8.
    width_px
        Width of a square patch in pixels of ``image``, or its width and height; parts beyond the border are mirrored.
    input_px
        Width of the patches returned.
    """

    def __init__(self, image: np.ndarray, width_px: float | tuple[float, float], input_px: int) -> None:
        size = torch.tensor(np.broadcast_to(width_px, 2), dtype=torch.float32)
        self.reduce = max(1, int(np.min(width_px) / input_px))
        pixels = torch.from_numpy(np.ascontiguousarray(image))[None].float() / 255
        if self.reduce > 1:  # average first, so that shrinking does not alias
            pixels = avg_pool2d(pixels, self.reduce, ceil_mode=True, count_include_pad=False)
        self.image = pixels
        steps = (torch.arange(input_px) + 0.5) / input_px - 0.5
        y, x = torch.meshgrid(steps, steps, indexing="ij")
        self.window = torch.stack([x, y], -1) * size / self.reduce

    def __call__(self, xy_px: np.ndarray) -> Tensor:
        """Return patches ``(n, 3, input_px, input_px)`` in [0, 1] around ``xy_px``, ``(n, 2)``."""
        height, width = self.image.shape[2:]
        centres = torch.as_tensor(xy_px, dtype=torch.float32)[:, None, None] / self.reduce
        grid = (centres + self.window) * 2 / torch.tensor([width, height]) - 1
        n, rows, columns, _ = grid.shape
        flat = grid.reshape(1, n * rows, columns, 2)
        cut = grid_sample(self.image, flat, mode="bilinear", padding_mode="reflection", align_corners=False)
        return cut.reshape(3, n, rows, columns).transpose(0, 1)


def encoded(encoder: ImageEncoder, batches: Iterable[Tensor]) -> Iterator[np.ndarray]:
    """Encode patches batch by batch: for each ``(n, 3, px, px)``, features ``(n, n_features)``."""
    for patches in batches:
        with torch.inference_mode():
            features = encoder(patches).numpy()
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


def reduce_features(block: np.ndarray, n_components: int, seed: int) -> np.ndarray:
    """Reduce one encoder's features by PCA, ``(n_subspots, n)`` of float32.

    Blocks narrower than ``n_components`` are standardised instead. The result has mean square 1 over its columns, with the
    relative sizes of principal components kept.
    """
    block = np.asarray(block, dtype=np.float32)
    block = block - block.mean(0)
    if block.shape[1] > n_components:
        n = min(n_components, len(block))
        block = PCA(n, svd_solver="randomized", random_state=seed).fit_transform(block)
        return (block / max(float(block.std()), 1e-12)).astype(np.float32)
    spread = block.std(0)
    return (block / np.where(spread > 1e-6, spread, 1)).astype(np.float32)


def _key(image: np.ndarray, xy_px: np.ndarray, text: str) -> str:
    digest = hashlib.blake2b(text.encode(), digest_size=12)
    digest.update(np.ascontiguousarray(image).data)
    digest.update(np.round(xy_px, 3).astype(np.float64).tobytes())
    return digest.hexdigest()
