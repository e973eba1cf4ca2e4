"""Arrays on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def save_array(file: Path, values: np.ndarray) -> None:
    """Write an array in NumPy's format beside ``file``, then rename; several processes may do so at once."""
    with _beside(file) as partial, partial.open("wb") as stream:
        np.save(stream, values)


@contextmanager
def new_array(file: Path, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Give a float32 array on disk to be filled, in NumPy's format beside ``file``, then rename."""
    with _beside(file) as partial:
        values = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=shape)
        yield values
        values.flush()


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    yield partial
    partial.replace(file)
