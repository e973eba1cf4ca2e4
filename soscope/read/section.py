"""Sections as soscope writes them: what the Python functions put into a run folder before anything is done to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from soscope import contract
from soscope.errors import DataError
from soscope.read.base import RawSection, Reader, existing_folder


@dataclass
class SectionReader(Reader, name="section"):
    """Read a section that `soscope.contract.write_section` wrote as it came from a reader."""

    def inputs(self, path: Path | None) -> list[Path]:
        """List the files of the store."""
        return sorted(f for f in self._folder(path).rglob("*") if f.is_file())

    def read(self, path: Path | None) -> RawSection:
        """Open the store; `DataError` when its name is not the section's, which names the results."""
        folder = self._folder(path)
        section = RawSection(contract.open_section(folder))
        if section.name != folder.name:
            raise DataError(f"'{folder}' holds section '{section.name}'. Give the folder the section's name.")
        return section

    def _folder(self, path: Path | None) -> Path:
        return existing_folder(path, "a section written by soscope's Python functions (RUN/raw/NAME)")
