"""soscope: sharpen spatial omics from spots to subspots."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("soscope")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
