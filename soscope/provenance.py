"""What a result was made from and with."""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from soscope.errors import RunFolderError
from soscope.folder import RunFolder, write_text

PACKAGES = (
    "soscope", "torch", "torchvision", "torch-geometric", "pytorch-lightning", "hydra-core", "omegaconf", "anndata",
    "spatialdata", "spatialdata-io", "scanpy", "scikit-learn", "scipy", "numpy", "timm",
)  # fmt: skip


def record(folder: RunFolder, cfg: Any, inputs: dict[str, str]) -> None:
    """Write versions, seed, command and input hashes.

    Raises
    ------
    RunFolderError
        When the folder was made from inputs that have changed since.
    """
    if folder.provenance_file.is_file():
        before = json.loads(folder.provenance_file.read_text())["inputs"]
        changed = [Path(f).name for f in inputs if f in before and before[f] != inputs[f]]
        if changed:
            raise RunFolderError(
                f"'{folder.path}' was made from another version of {', '.join(changed)}. Name a new folder with "
                "hydra.run.dir=..., or delete this one."
            )
    content = {
        "command": sys.argv,
        "seed": cfg.seed,
        "inputs": inputs,
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
        "machine": platform.platform(),
    }
    write_text(folder.provenance_file, json.dumps(content, indent=2))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
