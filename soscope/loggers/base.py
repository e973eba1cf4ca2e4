"""What a run tells its loggers besides the numbers Lightning gives them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Artifact:
    """Files that a stage took or made, as one thing with a name.

    Attributes
    ----------
    name
        The same in every run on the same sections.
    kind
        ``input``, ``dataset``, ``model`` or ``result``.
    paths
        Files and folders, by the name they have in it.
    metadata
        Plain values that tell what it is.
    made_from
        What the stage took.
    inside
        Whether it lies in the run folder, so that this run has made it.
    """

    name: str
    kind: str
    paths: Mapping[str, Path]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    made_from: tuple[Artifact, ...] = ()
    inside: bool = True


class Tracker:
    """Mixed into a Lightning logger; it overrides what it can take, and the rest passes it by."""

    keeps_artifacts: bool = False
    """Whether it takes note of what stages make; where no logger does, it is not gathered."""

    def show(self, pictures: Mapping[str, Path]) -> None:
        """Take the report's pictures, PNG files by title."""

    def keep(self, made: Artifact) -> None:
        """Take note of what a stage has made."""

    def close(self, status: str) -> None:
        """Close what is open, so that the next job of a sweep starts anew; nothing is opened to be closed."""
