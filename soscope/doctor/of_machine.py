"""Checks of the section against the machine."""

from __future__ import annotations

from typing import Any

import psutil
from scipy import sparse

from soscope.doctor.examined import Examined
from soscope.doctor.findings import NOTE, SERIOUS, WARNING, Seen, check

BYTES_PER_PIXEL = 4 + 4
"""Of a colour of a pixel while patches are cut, besides what it takes as read: as a float, and once more while it is scaled."""
GB = 1e9


@check("memory")
def memory(section: Examined) -> Seen:
    """What image and tables take while they are prepared, and a training step, against what is free."""
    free = psutil.virtual_memory().available / GB
    image = 0.0
    if section.image is not None and section.looks_at_image:
        image = (section.image.nbytes + section.image.size * BYTES_PER_PIXEL) / GB
    tables = sum(stored_bytes(t.X) for t in section.tables.values()) / GB
    budget = section.cfg.data.memory_gb
    needs = f"about {image + tables:.1f} GB (image {image:.1f}, a copy of the tables {tables:.1f})"
    yield NOTE, f"preparing takes {needs}, training {budget:g} GB at most; {free:.1f} GB are free", ""
    if image + tables > free:
        fix = "Give an image of lower resolution: patches are shrunk to image.input_px anyway."
        if tables > image:
            fix = "Use a machine with more memory, or larger bins."
        yield SERIOUS, f"preparing takes {needs}, {free:.1f} GB are free", fix
    if budget > free:
        fix = f"data.memory_gb={max(free / 2, 0.1):.1f}, which trains in smaller tiles."
        yield WARNING, f"data.memory_gb={budget:g}, but {free:.1f} GB are free", fix


def stored_bytes(x: Any) -> int:
    """Return what a dense or sparse matrix takes in memory."""
    if not sparse.issparse(x):
        return int(x.nbytes)
    return int(x.data.nbytes + x.indices.nbytes + x.indptr.nbytes)
