"""Reading and preparing, step by step: `soscope.pp`.

`split_spots` and `image_features` add to the section in place, as scanpy does, or to a copy of it with ``copy=True``.
The settings they were given are noted in the section, and `soscope.tl` goes on with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas as gpd
from omegaconf import DictConfig
from spatialdata import SpatialData

from soscope import contract, made
from soscope.errors import DataError
from soscope.kinds import kind_of
from soscope.lattice import make_lattice
from soscope.numbering import names_of
from soscope.prepare.pipeline import image_table, prepare_sections
from soscope.prepare.placing import Placed, place, subspots_per_spot
from soscope.read import make_reader
from soscope.settings import config

__all__ = ["image_features", "prepare", "read_section", "split_spots", "to_section"]


def read_section(path: str | Path | None = None, reader: str = "visium", **options: Any) -> SpatialData:
    """Read a folder with one of soscope's readers.

    Parameters
    ----------
    path
        What the reader reads; ``None`` for the simulated section, ``reader="demo"``.
    reader
        A name as in ``data=`` of the command line.
    options
        Those of ``data.options``.

    Returns
    -------
    A section: image, spots, and one table per modality.

    Raises
    ------
    ConfigError, DataError
        For an unknown reader or option, with the choices; for files that cannot be read.
    """
    return make_reader(reader, options).read(None if path is None else Path(path).expanduser()).sdata


def to_section(data: Any, name: str = "section", **options: Any) -> SpatialData:
    """Turn AnnData, MuData or SpatialData into a section.

    Parameters
    ----------
    data
        Spots with ``obs['array_row']`` and ``['array_col']``, their centres, perhaps an image: as `scanpy.read_visium`,
        `squidpy.read.visium` and spatialdata-io deliver them. What was read by soscope is returned as it is.
    name
        Name of the section; it names results.
    options
        Those of ``data.options`` for files of the kind: `soscope.read.AnnDataReader`, of MuData too (``layer``, ...),
        `soscope.read.SpatialDataReader` (``table``, ``image``, ...).

    Raises
    ------
    ConfigError, DataError
        For options that do not go with the data; for what is absent or does not fit together.
    """
    return kind_of(data).section(data, name, options)


def split_spots(
    sdata: SpatialData,
    platform: str | None = None,
    subspots: int | None = None,
    extent: str | None = None,
    copy: bool = False,
    **settings: Any,
) -> SpatialData | None:
    """Divide every spot into subspots: shapes ``subspots`` with ``parent`` and ``parent_name``.

    Parameters
    ----------
    sdata
        A section, from `read_section` or `to_section`.
    platform
        A file of ``conf/platform``; ``visium`` by default.
    subspots
        Subspots per spot; the platform's own number by default.
    extent
        ``cell`` (default) or ``spot``: what of its lattice cell a spot's subspots cover.
    copy
        Whether to return a copy with the subspots instead of adding them here.
    settings
        Further keys of the config, such as ``**{"platform.pitch_um": 60}``.

    Raises
    ------
    ConfigError, DataError
        For unknown settings, with the choices; for positions that contradict the platform.
    """
    given = {"platform": platform, "subspots": subspots, "extent": extent, **settings}
    cfg, chosen, placed = _placed(sdata, given)
    name = contract.facts(sdata)["section"]
    if placed.given is not None:
        raise DataError(f"section '{name}' brings subspots of its own, which are kept. Leave split_spots out.")
    out = made.duplicate(sdata) if copy else sdata
    with contract.quiet():
        out.shapes[contract.SUBSPOTS] = placed.outlines
        contract.set_um(out, placed.um_per_px)
    if contract.IMAGE_FEATURES in out.tables:  # of the subspots there were before
        del out.tables[contract.IMAGE_FEATURES]
    made.note(
        out,
        chosen,
        True,
        platform=cfg.platform.name,
        pitch_um=float(cfg.platform.pitch_um),
        um_per_px=float(placed.um_per_px),
        subspots_per_spot=subspots_per_spot(placed.parent, len(placed.unit_xy)),
        extent=cfg.split.extent,
    )
    return out if copy else None


def image_features(
    sdata: SpatialData, image: str | None = None, copy: bool = False, progress: bool = True, **settings: Any
) -> SpatialData | None:
    """Encode the image around every subspot: table ``image_features``, with the graph of subspots.

    Parameters
    ----------
    sdata
        A section whose spots `split_spots` has divided.
    image
        A file of ``conf/image``, which names the encoder; ``efficientnet_lite0`` by default.
    copy
        Whether to return a copy with the table instead of adding it here.
    progress
        Whether to show a bar.
    settings
        Further keys of the config, such as ``**{"image.n_components": 16}``.

    Raises
    ------
    ConfigError, DataError
        For unknown settings, with the choices; for a section whose spots are not divided yet.
    """
    if contract.SUBSPOTS not in sdata.shapes:
        raise DataError(
            f"section '{contract.facts(sdata)['section']}' has no shapes '{contract.SUBSPOTS}'. Run soscope.pp.split_spots first."
        )
    cfg, chosen, placed = _placed(sdata, {"image": image, **settings}, progress)
    if placed.given is None and not _same(placed.shapes, sdata.shapes[contract.SUBSPOTS]):
        raise DataError(
            "these settings divide the spots otherwise than they are. Run soscope.pp.split_spots with them first."
        )
    out = made.duplicate(sdata) if copy else sdata
    table = image_table(cfg, placed)
    with contract.quiet():
        out.tables[contract.IMAGE_FEATURES] = table
    made.note(out, chosen, placed.given is None, image_encoder=cfg.image.encoder)
    return out if copy else None


def prepare(data: Any, model: Any = "nb", progress: bool = True, **settings: Any) -> SpatialData:
    """Do all that comes before training: split, choose features, encode the image, build both graphs.

    Parameters
    ----------
    data
        A section, or what `to_section` makes one of.
    model
        A file of ``conf/model``, or one for each table.
    progress
        Whether to show bars.
    settings
        As of `soscope.tl.enhance`.

    Returns
    -------
    The prepared section, a new object; docs/data-contract.md says what it holds.

    Raises
    ------
    ConfigError, DataError
        For unknown settings, with the choices; for data that cannot be used.
    """
    section = to_section(data)
    cfg = config(**made.settings_of(section) | _said({"model": model, "progress": progress, **settings}))
    return prepare_sections(cfg, [made.without_made(section)])[0]


def _placed(
    sdata: SpatialData, given: dict[str, Any], progress: bool = True
) -> tuple[DictConfig, dict[str, Any], Placed]:
    """Return config and settings, those noted before among them, and where spots and subspots lie."""
    if not isinstance(sdata, SpatialData) or contract.ATTRS not in sdata.attrs:
        raise DataError("expected a section. Make one with soscope.pp.read_section or soscope.pp.to_section.")
    chosen = made.settings_of(sdata) | _said(given)
    cfg = config(**chosen, progress=progress)
    return cfg, chosen, place(cfg, made.without_made(sdata), make_lattice(cfg.platform.lattice))


def _same(ours: gpd.GeoDataFrame, there: gpd.GeoDataFrame) -> bool:
    same_names = names_of(ours).equals(names_of(there))
    return same_names and bool(ours.geometry.geom_equals_exact(there.geometry, 1e-6, align=False).all())


def _said(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}
