"""Imports point one way, and the inner parts know nothing of Lightning, Hydra, W&B or file formats."""

from __future__ import annotations

import ast
from pathlib import Path

import soscope

ROOT = Path(soscope.__file__).parent
OUTSIDE = {
    "pytorch_lightning",
    "lightning",
    "hydra",
    "omegaconf",
    "wandb",
    "spatialdata",
    "anndata",
    "h5py",
    "zarr",
    "scanpy",
}
ORDER = [
    *("errors", "channels", "matrices", "checks", "nn", "affine", "lattice", "numbering", "kernels", "kriging"),
    *("posteriors", "likelihoods", "contract", "read", "prepare", "tools"),
    *(
        "data",
        "stage_module",
        "pretrain",
        "released",
        "build",
        "unseen",
        "enhance",
        "draws",
        "cluster",
        "benchmark",
        "report",
    ),
    *(
        "loggers",
        "stages",
        "artifacts",
        "run",
        "methods",
        "benchmarking",
        "validating",
        "doctor",
        "original",
        "verbs",
        "cli",
    ),
    *("settings", "convert", "kinds", "made", "pp", "fitted", "tl", "pl"),
]


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def test_inner_parts_import_no_framework_and_no_file_format() -> None:
    inner = [*ROOT.glob("nn/*.py"), *ROOT.glob("likelihoods/*.py"), ROOT / "posteriors.py", ROOT / "lattice.py"]
    assert len(inner) > 8
    for file in inner:
        assert not {name.split(".")[0] for name in imports(file)} & OUTSIDE, file


def test_no_module_imports_a_later_stage() -> None:
    for file in ROOT.rglob("*.py"):
        own = file.relative_to(ROOT).parts[0].removesuffix(".py")
        if own not in ORDER:
            continue
        later = set(ORDER[ORDER.index(own) + 1 :])
        used = {name.split(".")[1] for name in imports(file) if name.startswith("soscope.")}
        assert not used & later, f"{file} imports {used & later}"


def test_only_one_lightning_package_is_imported() -> None:
    for file in ROOT.rglob("*.py"):
        assert "lightning" not in {name.split(".")[0] for name in imports(file)}, file
