"""Encoders without a network: statistics of pixels, and nothing at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from soscope.prepare.encoders.base import ImageEncoder

if TYPE_CHECKING:
    from soscope.prepare.image_features import SectionView


class Color(ImageEncoder, name="color"):
    """Mean, standard deviation and five quantiles of each channel."""

    n_features = 21
    input_px = 32

    def __call__(self, patches: Tensor) -> Tensor:
        """Summarise the pixels of every patch, seven columns per channel."""
        flat = patches.flatten(2)
        levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=flat.dtype)
        quantiles = torch.quantile(flat, levels, dim=2)
        return torch.cat([flat.mean(2), flat.std(2), *quantiles], 1)

    def encode(self, patches: Tensor) -> Tensor:
        """Take any number of channels as they are."""
        return self(patches)


class NoImage(ImageEncoder, name="none"):
    """No image features at all: subspots differ by position alone."""

    looks_at_image: ClassVar[bool] = False

    def __call__(self, patches: Tensor) -> Tensor:
        """Return no columns."""
        return patches.new_zeros(len(patches), 0)

    def features_of(self, section: SectionView) -> np.ndarray:
        """Return no columns; the section needs no image."""
        return np.zeros((len(section.subspots), 0), dtype=np.float16)
