"""What a result was made from and with."""

from __future__ import annotations

import json
import platform
import shlex
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


def check_inputs(folder: RunFolder, inputs: dict[str, str]) -> None:
    """Raise `RunFolderError` when the folder's section was prepared from inputs that have changed since."""
    if "prepare" not in folder.marks():
        return
    before = _read(folder).get("inputs", {})
    changed = [Path(f).name for f in inputs if f in before and before[f] != inputs[f]]
    if changed:
        raise RunFolderError(
            f"'{folder.path}' was made from another version of {', '.join(changed)}. Name another folder (on "
            "the command line with hydra.run.dir=...), or delete this one."
        )


def note_stage(folder: RunFolder, cfg: Any, stage: str, inputs: dict[str, str]) -> None:
    """Note command, versions and machine of one stage; with `prepare` also the seed and the input hashes."""
    content = _read(folder)
    if stage == "prepare":
        content = {"seed": cfg.seed, "inputs": inputs, "stages": {}}
    versions = {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}}
    made = {"command": sys.argv, "versions": versions, "machine": platform.platform()}
    content.setdefault("stages", {})[stage] = made
    write_text(folder.provenance_file, json.dumps(content, indent=2))


def commands(folder: RunFolder) -> list[str]:
    """Return the commands that have made what a folder holds, in their order, as they are typed."""
    stages = _read(folder).get("stages", {}).values()
    return list(dict.fromkeys(_typed(stage["command"]) for stage in stages))


def _typed(words: list[str]) -> str:
    program = Path(words[0])
    if program.name == "__main__.py":
        return shlex.join(["python", "-m", program.parent.name, *words[1:]])
    start = ["python", program.name] if program.suffix == ".py" else [program.name]
    return shlex.join([*start, *words[1:]])


def _read(folder: RunFolder) -> dict[str, Any]:
    return json.loads(folder.provenance_file.read_text()) if folder.provenance_file.is_file() else {}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
