"""What the doctor finds, and the register of checks: a new one is a function with `check` above it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soscope.doctor.examined import Examined


class Severity(IntEnum):
    """How much a finding matters; training on a section with a serious one would be meaningless."""

    SERIOUS = 0
    WARNING = 1
    NOTE = 2


SERIOUS, WARNING, NOTE = Severity
Seen = Iterator[tuple[Severity, str, str]]
"""What a check yields: severity, what was seen, and what fixes it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was seen.

    Attributes
    ----------
    severity
        How much it matters.
    about
        Name of the check.
    seen
        What was found where, with numbers.
    fix
        The override, or what to do; empty for notes that need nothing.
    """

    severity: Severity
    about: str
    seen: str
    fix: str = ""


Look = Callable[["Examined"], Iterable[tuple[Severity, str, str]]]


@dataclass(frozen=True)
class Check:
    """A named look at a section, and the parts of it (`Examined.lacks`) it cannot do without."""

    name: str
    needs: tuple[str, ...]
    look: Look

    def __call__(self, section: Examined) -> list[Finding]:
        """Return what was found; a note that says why, where the check cannot be made."""
        reasons = [reason for need in self.needs if (reason := section.lacks(need))]
        if reasons:
            return [Finding(Severity.NOTE, self.name, f"not looked at: {reasons[0]}")]
        return [Finding(severity, self.name, seen, fix) for severity, seen, fix in self.look(section)]


CHECKS: list[Check] = []


def check(name: str, *needs: str) -> Callable[[Look], Look]:
    """Register a function that yields severity, what was seen, and what fixes it."""

    def register(look: Look) -> Look:
        CHECKS.append(Check(name, needs, look))
        return look

    return register
