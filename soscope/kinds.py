"""The kinds of objects that go into the Python functions and come back out of them."""

from __future__ import annotations

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, cast

from anndata import AnnData, read_h5ad
from spatialdata import SpatialData

from soscope import contract
from soscope.convert import section_of_mudata
from soscope.errors import ConfigError, DataError
from soscope.folder import RunFolder
from soscope.read import READERS, AnnDataReader, Reader, SpatialDataReader, make_reader

GIVEN_AS = "given_as"
KINDS: dict[str, type[Kind]] = {}


class Kind(ABC):
    """How an object becomes a section, and what its owner gets back; a new kind is a subclass with a name."""

    name: ClassVar[str]
    reader: ClassVar[str]
    """Of files of this kind; its options are those in memory, but for ``without``."""
    without: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, name: str) -> None:
        cls.name = name
        KINDS[name] = cls

    @classmethod
    @abstractmethod
    def holds(cls, data: Any) -> bool:
        """Tell whether an object is of this kind."""

    def section(self, data: Any, name: str, options: Mapping[str, Any]) -> SpatialData:
        """Turn an object into a section of that name; `ConfigError` for options this kind does not have."""
        given = {key: value for key, value in options.items() if value is not None}
        unknown = [key for key in given if key not in self.options_of(data)]
        if unknown:
            raise ConfigError(
                f"{unknown[0]}={given[unknown[0]]!r} does not go with {self.name} as it is given. Options are: "
                f"{', '.join(self.options_of(data)) or 'none, a section is taken as it is'}."
            )
        return self.convert(data, name, make_reader(self.reader, given))

    def options_of(self, data: Any) -> list[str]:
        """Return the names of options by which an object is converted."""
        return [f.name for f in fields(READERS[self.reader]) if f.name not in self.without]

    @abstractmethod
    def convert(self, data: Any, name: str, reader: Reader) -> SpatialData:
        """Turn an object into a section of that name, as the reader would a file."""

    def check(self, tables: Sequence[str], modelled: Sequence[str]) -> None:  # noqa: B027
        """Refuse tables to be modelled, of those there are, that the result could not hold or would leave out."""

    @abstractmethod
    def result(self, folder: RunFolder, section: str, modalities: Sequence[str]) -> Any:
        """Return an enhanced section of a run folder, in memory."""


class SpatialDataKind(Kind, name="SpatialData"):
    """A section, or an object that can be made one."""

    reader = "spatialdata"

    @classmethod
    def holds(cls, data: Any) -> bool:
        """Tell by its class."""
        return isinstance(data, SpatialData)

    def options_of(self, data: Any) -> list[str]:
        """Return none for a section."""
        return [] if contract.ATTRS in data.attrs else super().options_of(data)

    def convert(self, data: Any, name: str, reader: Reader) -> SpatialData:
        """Take a section as it is, under its own name; convert others."""
        if contract.ATTRS in data.attrs:
            contract.facts(data)
            return data
        return cast(SpatialDataReader, reader).section(data, *_named(name))

    def result(self, folder: RunFolder, section: str, modalities: Sequence[str]) -> SpatialData:
        """Return image, shapes and all tables."""
        sdata = contract.open_section(folder.result(section))
        images = {n: image.compute().chunk() for n, image in sdata.images.items()}
        return SpatialData(images, shapes=dict(sdata.shapes), tables=dict(sdata.tables), attrs=dict(sdata.attrs))


class AnnDataKind(Kind, name="AnnData"):
    """One table with positions, as scanpy and squidpy hold Visium."""

    reader = "anndata"

    @classmethod
    def holds(cls, data: Any) -> bool:
        """Tell by its class."""
        return isinstance(data, AnnData)

    def convert(self, data: Any, name: str, reader: Reader) -> SpatialData:
        """Convert it."""
        return cast(AnnDataReader, reader).section(data, *_named(name))

    def check(self, tables: Sequence[str], modelled: Sequence[str]) -> None:
        """Refuse several tables."""
        if len(modelled) > 1:
            raise ConfigError(
                f"the model is for {' and '.join(modelled)}, and AnnData comes back as one table. Give MuData, or the section "
                "that soscope.pp.to_section makes of it."
            )

    def result(self, folder: RunFolder, section: str, modalities: Sequence[str]) -> AnnData:
        """Return the enhanced table as the run folder's h5ad has it."""
        return read_h5ad(folder.table(section, modalities[0]))


class MuDataKind(Kind, name="MuData"):
    """Several tables on the same spots; needs the extra ``mudata``."""

    reader, without = "anndata", ("modality",)

    @classmethod
    def holds(cls, data: Any) -> bool:
        """Tell by its class, if anybody has imported it."""
        mudata = sys.modules.get("mudata")
        return mudata is not None and isinstance(data, mudata.MuData)

    def convert(self, data: Any, name: str, reader: Reader) -> SpatialData:
        """Convert it."""
        return section_of_mudata(cast(AnnDataReader, reader), data, _named(name)[0])

    def check(self, tables: Sequence[str], modelled: Sequence[str]) -> None:
        """Refuse modalities that would be left out."""
        left = [t for t in tables if t not in modelled]
        if left:
            each = ", ".join(f"'{t}': 'nb'" for t in tables)
            raise ConfigError(
                f"the model is for {', '.join(modelled)}, and MuData also has {', '.join(left)}. Give each modality a model, "
                f"as in model={{{each}}}, or drop what is not wanted."
            )

    def result(self, folder: RunFolder, section: str, modalities: Sequence[str]) -> Any:
        """Return the enhanced tables on their common subspots; what lies where stands in the MuData itself too."""
        mudata = _mudata()
        tables = {m: read_h5ad(folder.table(section, m)) for m in modalities}
        first = tables[modalities[0]]
        with mudata.set_options(pull_on_update=False):
            result = mudata.MuData(tables)
        for column in (contract.PARENT, contract.PARENT_NAME, "under_no_spot"):
            result.obs[column] = first.obs[column]
        for key in ("spatial", "xy_um"):
            result.obsm[key] = first.obsm[key]
        result.uns["spatial"] = first.uns["spatial"]
        return result


def _named(name: str) -> tuple[str, str]:
    """Return the name of a section, which names files, and what messages call it."""
    where = f"section '{name}'"
    if not re.fullmatch(r"[\w.-]+", name) or name == "outs":
        raise DataError(f"{where}: the name names files: use letters, digits, points, _ and -.")
    return name, where


def _mudata() -> Any:
    try:
        import mudata
    except ImportError as error:
        raise ConfigError("MuData needs the extra: pip install 'soscope[mudata]'.") from error
    return mudata


def kind_of(data: Any) -> Kind:
    """Return the kind of an object; `DataError` with those there are for anything else."""
    for kind in KINDS.values():
        if kind.holds(data):
            return kind()
    raise DataError(f"expected {', '.join(KINDS)}, found {type(data).__module__}.{type(data).__name__}.")
