"""Random numbers that are a function of (seed, step, stream, id), not of call order.

A spot draws the same noise whichever tile, device or resumed run it is met in.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

STREAMS = {"z": 1, "mask": 2, "held_out": 3, "pairs": 4, "drop_image": 5, "drop_hidden": 6, "subspot": 7, "path": 8}
"""One stream for each use, so that two uses at one step never share numbers."""

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 1 << 64


def spot_keys(section: str, spots: Iterable[str]) -> Tensor:
    """Hash spot names to 63-bit integers that do not depend on the order or number of spots, shape ``(n_spots,)``."""
    digests = (hashlib.blake2b(f"{section}/{spot}".encode(), digest_size=8).digest() for spot in spots)
    return torch.tensor([int.from_bytes(d, "little") >> 1 for d in digests], dtype=torch.int64)


def keyed_uniform(seed: int, step: int, stream: str, keys: Tensor, width: int) -> Tensor:
    """Draw uniforms in (0, 1), shape ``(len(keys), width)``, float32.

    Notes
    -----
    SplitMix64 (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195) over a counter built from the arguments.
    """
    bits = _shift(_bits(seed, step, stream, keys, width), 41)  # 23 bits: adding a half is exact, 1 is never reached
    return (bits.to(torch.float32) + 0.5) * 2.0**-23


def keyed_normal(seed: int, step: int, stream: str, keys: Tensor, width: int) -> Tensor:
    """Draw standard normals, shape ``(len(keys), width)``, float32, by inverting the normal distribution function."""
    uniform = keyed_uniform(seed, step, stream, keys, width)
    return torch.erfinv(2 * uniform - 1) * 2.0**0.5


def keyed_mask(seed: int, step: int, stream: str, keys: Tensor, share: float) -> Tensor:
    """Choose each id independently with probability ``share``, boolean of shape ``(len(keys),)``."""
    return keyed_uniform(seed, step, stream, keys, 1)[:, 0] < share


def keyed_dropout(values: Tensor, seed: int, step: int, stream: str, keys: Tensor, share: float) -> Tensor:
    """Set each entry of ``(len(keys), width)`` to zero with probability ``share``, scaling the others up to match."""
    if not share:
        return values
    width = values.shape[1]
    sixteens = _bits(seed, step, stream, keys, -(-width // 4)).view(torch.int16)[:, :width]
    return values * (sixteens >= round(share * 65536) - 32768) / (1 - share)


def _bits(seed: int, step: int, stream: str, keys: Tensor, width: int) -> Tensor:
    """Return 64 random bits per entry, ``(len(keys), width)`` of int64."""
    start = _mix_int(_mix_int(_mix_int(seed) + step) + STREAMS[stream])
    row = _mix(keys + _signed(start))
    column = torch.arange(1, width + 1, device=keys.device, dtype=torch.int64) * _signed(_GOLDEN)
    return _mix(row[:, None] + column)


def row_keys(section: str, rows: Tensor) -> Tensor:
    """Return ids of a section's subspots by row, ``(len(rows),)``."""
    return spot_keys(section, ["subspots"]) + rows


def _signed(value: int) -> int:
    value %= _WORD
    return value - _WORD if value >= _WORD // 2 else value


def _shift(x: Tensor, by: int) -> Tensor:
    """Shift right without sign extension."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _mix_int(value: int) -> int:
    x = torch.tensor(_signed(value + _GOLDEN), dtype=torch.int64)
    return int(_mix(x))
