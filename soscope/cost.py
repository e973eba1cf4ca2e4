"""What a piece of work takes: wall time and memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

INTERVAL = 0.02
MB = 2**20


@dataclass
class Cost:
    """Wall time, and the largest resident memory of this process while it passed.

    Memory counts all that the process held, libraries and data loaded before included; child processes do not count.
    """

    seconds: float = 0.0
    peak_mb: float = 0.0

    @classmethod
    def total(cls, parts: Iterable[Cost]) -> Cost:
        """Return the cost of parts done one after the other."""
        listed = list(parts)
        return cls(sum(p.seconds for p in listed), max((p.peak_mb for p in listed), default=0.0))


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure what is done inside; the result is filled in at the end."""
    cost, done, process = Cost(), threading.Event(), psutil.Process()

    def watch() -> None:
        while True:
            cost.peak_mb = max(cost.peak_mb, process.memory_info().rss / MB)
            if done.wait(INTERVAL):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    start = time.perf_counter()
    watcher.start()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        done.set()
        watcher.join()
