"""Names of sections."""

from __future__ import annotations

import os
import re
from pathlib import Path

OF_A_FILE = re.compile(r"\.(h5ad|zarr|csv|tsv|txt)(\.gz)?$")
"""Endings that are no part of a section's name."""


def section_name(path: Path) -> str:
    """Return the name of a section: its folder's or file's, or the folder above when it is Space Ranger's ``outs``.

    Symbolic links keep their own name; ``.h5ad``, ``.zarr`` and the endings of plain tables are left off.
    """
    folder = Path(os.path.abspath(path.expanduser()))
    name = folder.parent.name if folder.name == "outs" and folder.parent.name else folder.name
    return OF_A_FILE.sub("", name) or name
