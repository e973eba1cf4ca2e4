"""A table on disk that is filled from top to bottom and goes on where it was stopped."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from soscope.errors import DataError
from soscope.folder import write_text

log = logging.getLogger("soscope")


class ResumableTable:
    """A table of float32 in NumPy's format, written batch by batch beside its name, then renamed.

    ``FILE.json`` notes what the table is made from and how many rows are done; ``FILE.partial`` holds them until all are.

    Parameters
    ----------
    file
        The table, ``.npy``.
    shape
        Rows and columns.
    made_from
        Everything that decides its values, by name.
    overwrite
        Replace what was made from something else; it is refused otherwise.
    """

    def __init__(self, file: Path, shape: tuple[int, int], made_from: dict[str, str], overwrite: bool = False) -> None:
        self.file, self.shape, self.made_from = file, shape, made_from
        self.partial, self.record = (file.with_name(f"{file.name}.{end}") for end in ("partial", "json"))
        self.done = self._rows_done(overwrite)

    def fill(self, batches: Iterable[np.ndarray]) -> None:
        """Write the rows that are not done; those of a batch are on disk before the next is asked for."""
        if self.done < self.shape[0]:
            values = self._open()
            for batch in batches:
                values[self.done : self.done + len(batch)] = batch
                values.flush()
                self._note(self.done + len(batch))
            del values
        if self.partial.is_file():
            self.partial.replace(self.file)

    def _rows_done(self, overwrite: bool) -> int:
        if not self.record.is_file():
            if self.file.exists() and not overwrite:
                raise DataError(
                    f"out='{self.file}' is there already, and there is no '{self.record.name}' beside it that says what it was "
                    "made from. Give another out=FILE, or replace it with overwrite=true."
                )
            return 0
        theirs = json.loads(self.record.read_text())
        differs = _differences(theirs["made_from"], self.made_from)
        if differs and not overwrite:
            raise DataError(
                f"out='{self.file}' ({theirs['done']:,} of {theirs['rows']:,} rows done) was made from something else: "
                f"{'; '.join(differs)}. Give another out=FILE, or start anew with overwrite=true."
            )
        if differs:
            log.info("%s was made from something else (%s): starts anew", self.file, "; ".join(differs))
            return 0
        complete = theirs["done"] == self.shape[0]
        kept = self.partial.is_file() or (complete and self.file.is_file())
        return int(theirs["done"]) if kept else 0

    def _open(self) -> np.memmap:
        if self.done:
            return np.lib.format.open_memmap(self.partial, mode="r+")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._note(0)  # first: an older partial table is not this one's
        return np.lib.format.open_memmap(self.partial, mode="w+", dtype=np.float32, shape=self.shape)

    def _note(self, done: int) -> None:
        self.done = done
        note = {"rows": self.shape[0], "columns": self.shape[1], "done": done, "made_from": self.made_from}
        write_text(self.record, json.dumps(note, indent=2))


def _differences(theirs: dict[str, str], ours: dict[str, str]) -> list[str]:
    keys = [*ours, *(k for k in theirs if k not in ours)]
    return [
        f"{k} {theirs.get(k, 'none')} there, {ours.get(k, 'none')} here" for k in keys if theirs.get(k) != ours.get(k)
    ]
