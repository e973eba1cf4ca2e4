"""soscope: sharpen spatial omics from spots to subspots."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("soscope")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

LAZY = {"two_step_train": "soscope.original.api", "infer": "soscope.original.api"}
"""Names imported when first asked for, and from where: `import soscope` alone brings neither torch nor Lightning."""


def __getattr__(name: str) -> Any:
    if name in LAZY:
        return getattr(import_module(LAZY[name]), name)
    raise AttributeError(f"module 'soscope' has no attribute '{name}'")
