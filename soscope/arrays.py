"""Arrays on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def save_array(file: Path, values: np.ndarray) -> None:
    """Write an array in NumPy's format beside ``file``, then rename; several processes may do so at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    with partial.open("wb") as stream:
        np.save(stream, values)
    partial.replace(file)
