"""Schedules of loss weights."""

from __future__ import annotations


def exponential(step: int, start: float, end: float, steps: int, delay: int = 0) -> float:
    """Go from ``start`` to ``end`` along an exponential in ``steps`` steps after ``delay`` steps, then stay.

    With ``start = 0`` the curve is linear, an exponential from zero being undefined.
    """
    share = min(max(step - delay, 0) / max(steps, 1), 1.0)
    if start <= 0 or end <= 0:
        return start + (end - start) * share
    return float(start * (end / start) ** share)
