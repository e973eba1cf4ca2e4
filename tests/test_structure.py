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
    *("errors", "arrays", "matrices", "numbering", "names", "cost", "groups", "distances", "rows", "checks"),
    *(
        "nn",
        "split",
        "sharing",
        "affine",
        "channels",
        "lattice",
        "kernels",
        "kriging",
        "posteriors",
        "likelihoods",
        "contract",
    ),
    *("demos", "schema", "config", "conf_files", "folder", "provenance", "model_file", "loggers"),
    *("read", "prepare", "tools"),
    *("data", "simulate", "simulated_folders", "stage_module", "pretrain", "finetune", "training", "released", "build"),
    *("unseen", "enhance", "draws", "result", "cluster", "benchmark", "report", "config_checks"),
    *("stages", "artifacts", "dry_run", "run", "methods", "benchmarking", "validating", "doctor", "original"),
    *("settings", "convert", "kinds", "made", "pp", "fitted", "tl", "pl", "verbs", "cli"),
]
"""From what imports nothing of the others to what imports everything; ``soscope.X`` is in it once, whether module or package."""


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
        if own.startswith("__"):
            continue
        assert own in ORDER, f"{file} has no place in the order of imports"
        later = set(ORDER[ORDER.index(own) + 1 :])
        used = {name.split(".")[1] for name in imports(file) if name.startswith("soscope.")}
        assert not used & later, f"{file} imports {used & later}"


def test_only_one_lightning_package_is_imported() -> None:
    for file in ROOT.rglob("*.py"):
        assert "lightning" not in {name.split(".")[0] for name in imports(file)}, file
