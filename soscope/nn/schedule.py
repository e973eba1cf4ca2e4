"""Schedules of loss weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Exponential:
    """From ``start`` to ``end`` along an exponential in ``steps`` steps after ``delay`` steps, then constant.

    With ``start = 0`` the curve is linear, an exponential from zero being undefined.
    """

    start: float = 1e-3
    end: float = 1.0
    steps: int = 200
    delay: int = 0

    def at(self, step: int) -> float:
        """Return the weight at a step."""
        share = min(max(step - self.delay, 0) / max(self.steps, 1), 1.0)
        if self.start <= 0 or self.end <= 0:
            return self.start + (self.end - self.start) * share
        return float(self.start * (self.end / self.start) ** share)
