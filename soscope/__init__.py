"""soscope: sharpen spatial omics from spots to subspots."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("soscope")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

LAZY = {
    "pp": "soscope.pp",
    "tl": "soscope.tl",
    "pl": "soscope.pl",
    "errors": "soscope.errors",
    "load": "soscope.fitted:load",
    "two_step_train": "soscope.original.api:two_step_train",
    "infer": "soscope.original.api:infer",
}
"""What `import soscope` offers, a module or ``module:name``; imported when it is first asked for, since torch takes seconds."""


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module 'soscope' has no attribute '{name}'")
    module, _, attribute = LAZY[name].partition(":")
    found = import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted({*globals(), *LAZY})
