"""Names of sections."""

from __future__ import annotations

import os
from pathlib import Path


def section_name(path: Path) -> str:
    """Return the name of a section: its folder's, or the folder above when it is Space Ranger's ``outs``.

    Symbolic links keep their own name.
    """
    folder = Path(os.path.abspath(path.expanduser()))
    return folder.parent.name if folder.name == "outs" and folder.parent.name else folder.name
