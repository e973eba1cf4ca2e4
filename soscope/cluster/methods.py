"""The ways to group subspots there are. A new one is a class and a row here; nothing else lists them."""

from __future__ import annotations

from soscope.cluster.base import ClusterMethod
from soscope.cluster.leiden import Leiden
from soscope.cluster.mixtures import GaussianMixtures

METHODS: dict[str, ClusterMethod] = {"gaussian_mixture": GaussianMixtures(), "leiden": Leiden()}
COLUMNS = tuple(method.column for method in METHODS.values())
"""Columns of ``obs`` that belong to clustering."""
