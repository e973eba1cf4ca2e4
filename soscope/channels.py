"""Channels of an image: choosing, scaling and drawing them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from soscope.errors import ConfigError, DataError

RGB = ("r", "g", "b")
PERCENTILES = (1.0, 99.8)
LOOKED_AT = 2**24
"""Pixels of a channel whose percentiles are taken as they are; of more, every n-th row and column."""


def is_rgb(image: np.ndarray, names: Sequence[str]) -> bool:
    """Return whether an image is one in colour, 8 bits each, which is shown as it is."""
    return image.dtype == np.uint8 and tuple(names) == RGB


def choose_channels(names: Sequence[str], wanted: Sequence[str | int], where: str) -> list[int]:
    """Return the numbers of channels named, or numbered from 0; `ConfigError` with the choices for one that is not there."""
    chosen = []
    for one in wanted:
        if isinstance(one, int) and 0 <= one < len(names):
            chosen.append(one)
        elif isinstance(one, str) and one in names:
            chosen.append(list(names).index(one))
        else:
            choices = ", ".join(f"{i}: {name}" for i, name in enumerate(names))
            raise ConfigError(
                f"image.channels: {where} has no channel '{one}'. Choose by name or number from {choices}."
            )
    return chosen


def scale_channel(channel: np.ndarray, percentiles: Sequence[float], where: str) -> np.ndarray:
    """Stretch a channel between two of its percentiles to [0, 1], as float32; what lies beyond is cut off."""
    low, high = limits(channel, percentiles)
    if not high > low:
        raise DataError(
            f"{where}: percentiles {percentiles[0]:g} and {percentiles[1]:g} are both {low:g}, so nothing is to be seen. Leave "
            "the channel out with image.channels=[...], or widen image.scaling, as in image.scaling=[0,100]."
        )
    return stretch(channel, low, high)


def limits(channel: np.ndarray, percentiles: Sequence[float]) -> tuple[float, float]:
    """Return two percentiles of a channel ``(height, width)``."""
    step = max(1, int(np.ceil(np.sqrt(channel.size / LOOKED_AT))))
    low, high = np.percentile(channel[::step, ::step], list(percentiles))
    return float(low), float(high)


def stretch(channel: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map ``low`` to 0 and ``high`` to 1, as float32; what lies beyond is cut off."""
    return np.clip((channel.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)


def composite(image: np.ndarray, names: Sequence[str], shown: Sequence[int] | None = None) -> np.ndarray:
    """Return an 8-bit picture ``(height, width, 3)`` of an image ``(channels, height, width)``.

    An image in colour stays as it is. Of others the first three channels of ``shown`` become red, green and blue, each
    stretched between its percentiles; one alone is grey, of two the blue is dark.
    """
    if is_rgb(image, names):
        return np.moveaxis(image, 0, -1)
    parts = [image[i] for i in (range(len(image)) if shown is None else shown)][:3]
    bounds = [limits(part, PERCENTILES) for part in parts]
    drawn = [_eight_bit(p, low, high if high > low else low + 1) for p, (low, high) in zip(parts, bounds, strict=True)]
    drawn = drawn * 3 if len(drawn) == 1 else [*drawn, *[np.zeros_like(drawn[0])] * (3 - len(drawn))]
    return np.stack(drawn, -1)


def _eight_bit(channel: np.ndarray, low: float, high: float) -> np.ndarray:
    return (stretch(channel, low, high) * 255).round().astype(np.uint8)
