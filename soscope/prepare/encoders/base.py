"""What an image encoder is, and how one is made from the settings of ``image``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from soscope.errors import ConfigError

if TYPE_CHECKING:
    from soscope.prepare.image_features import SectionView

ENCODERS: dict[str, type[ImageEncoder]] = {}


@dataclass(eq=False)
class ImageEncoder(ABC):
    """Turns patches into features. A new one is a dataclass whose fields are settings of ``image``.

    Fields ``weights``, ``model`` and ``features`` are set by the keys of that name, all others by ``image.options``.

    Attributes
    ----------
    n_features
        Columns from patches of three channels.
    input_px
        Width in pixels of the patches it wants, taken where ``image.input_px`` is null.
    looks_at_image
        Whether it makes its features of the section's image.
    """

    name: ClassVar[str]
    looks_at_image: ClassVar[bool] = True
    n_features = 0
    input_px = 96

    def __init_subclass__(cls, name: str | None = None) -> None:
        if name is not None:
            ENCODERS[name] = cls
            cls.name = name

    @classmethod
    def of(cls, settings: Mapping[str, Any], options: Mapping[str, Any]) -> ImageEncoder:
        """Build one from settings by key of ``image``, those that are set, and from ``image.options``."""
        known = [f.name for f in fields(cls)]
        for prefix, given in (("image.", settings), ("image.options.", options)):
            unknown = sorted(set(given) - set(known))
            if unknown:
                raise ConfigError(
                    f"{prefix}{unknown[0]} is unknown to image.encoder='{cls.name}'. It takes: {', '.join(known) or 'none'}."
                )
        needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        missing = [key for key in needed if key not in settings and key not in options]
        if missing:
            raise ConfigError(f"image.encoder='{cls.name}' needs image.{missing[0]}=...")
        return cls(**options, **settings)

    @abstractmethod
    def __call__(self, patches: Tensor) -> Tensor:
        """Encode ``(n, 3, height, width)`` in [0, 1] to ``(n, n_features)``."""

    def encode(self, patches: Tensor) -> Tensor:
        """Encode patches of any number of channels, ``(n, n_channels, height, width)``, one block of columns per view."""
        return torch.cat([self(view) for view in as_rgb_views(patches)], 1)

    def features_of(self, section: SectionView) -> np.ndarray:
        """Return the features of every subspot of a section, ``(n_subspots, n)``: of the patches around them."""
        return section.encode(self)

    def identity(self) -> str:
        """Return what, besides the patches, decides the features; part of the cache key."""
        return f"{self.name}-1-default"


def as_rgb_views(patches: Tensor) -> list[Tensor]:
    """Return patches of any number of channels as patches of three, for networks that know colour images alone.

    One channel is repeated, two are filled up with zeros, three stay as they are; of more, each is repeated by itself.
    """
    n_channels = patches.shape[1]
    if n_channels == 3:
        return [patches]
    if n_channels == 2:
        return [torch.cat([patches, torch.zeros_like(patches[:, :1])], 1)]
    return [channel.expand(-1, 3, -1, -1) for channel in patches.split(1, 1)]


def make_encoder(
    name: str, weights: str | None = None, options: Mapping[str, Any] | None = None, **settings: Any
) -> ImageEncoder:
    """Build a registered encoder; an unknown name or setting raises `ConfigError` with the choices.

    Parameters
    ----------
    name
        Key of `ENCODERS`.
    weights, settings
        ``image.weights`` and other keys of ``image`` the encoder may take; what is ``None`` is not set.
    options
        ``image.options``.
    """
    if name not in ENCODERS:
        raise ConfigError(f"image.encoder='{name}' is unknown. Choose from: {', '.join(sorted(ENCODERS))}.")
    given = {key: value for key, value in {"weights": weights, **settings}.items() if value is not None}
    return ENCODERS[name].of(given, dict(options or {}))
