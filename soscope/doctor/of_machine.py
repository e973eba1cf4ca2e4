"""Checks of the section against the machine."""

from __future__ import annotations

from collections.abc import Iterator

import psutil

from soscope.doctor.examined import Examined
from soscope.doctor.findings import Severity, check

Seen = Iterator[tuple[Severity, str, str]]
BYTES_PER_PIXEL = 1 + 4 + 4
"""Of a colour of a pixel while patches are cut: as read, as a float, and once more while it is scaled to [0, 1]."""
GB = 1e9


@check("memory")
def memory(section: Examined) -> Seen:
    """What the image, and a training step, take against what is free."""
    free = psutil.virtual_memory().available / GB
    image = 0.0
    if section.image is not None:
        image = section.image.size * (BYTES_PER_PIXEL if section.cfg.image.encoder != "none" else 1) / GB
    budget = section.cfg.data.memory_gb
    yield (
        Severity.NOTE,
        f"preparing the image takes about {image:.1f} GB, training {budget:g} GB at most; {free:.1f} GB are free",
        "",
    )
    if image > free:
        fix = "Give an image of lower resolution: patches are shrunk to image.input_px anyway."
        yield Severity.SERIOUS, f"the image takes about {image:.1f} GB to prepare, {free:.1f} GB are free", fix
    if budget > free:
        fix = f"data.memory_gb={max(free / 2, 0.1):.1f}, which trains in smaller tiles."
        yield Severity.WARNING, f"data.memory_gb={budget:g}, but {free:.1f} GB are free", fix
