"""Files of weights: safetensors, or PyTorch files of nothing but tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from soscope.errors import DataError

STATE_KEYS = ("state_dict", "model")
"""Where training programs keep the weights inside their checkpoints."""


def existing_weights(file: str) -> Path:
    """Return the path of ``image.weights``; `DataError` when it is not a file."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise DataError(f"image.weights='{file}' is not a file.")
    return path


def load_weights(file: str) -> dict[str, Tensor]:
    """Read tensors by name; nothing else in a file is ever run or built.

    Raises
    ------
    DataError
        For a file that is missing, damaged, or holds more than tensors and plain containers.
    """
    path = existing_weights(file)
    try:
        state = _safetensors(path) if path.suffix == ".safetensors" else _pytorch(path)
    except Exception as error:
        raise DataError(
            f"image.weights='{file}' is no file of weights ({type(error).__name__}). Give .safetensors, or a PyTorch file that "
            "holds a state dict alone."
        ) from error
    return state


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def _pytorch(path: Path) -> dict[str, Tensor]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    inner = next((state[key] for key in STATE_KEYS if isinstance(state.get(key), dict)), state)
    return dict(inner)


def weights_identity(file: str | None) -> str:
    """Return a hash of a file of weights, ``default`` without one."""
    if file is None:
        return "default"
    with existing_weights(file).open("rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()[:16]
