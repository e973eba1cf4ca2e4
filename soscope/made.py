"""What `soscope.pp` adds to a section, and with which settings, so that later steps go on from both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import shapely
from spatialdata import SpatialData

from soscope import contract
from soscope.errors import DataError
from soscope.numbering import names_of

SETTINGS, MADE = "settings", "made"


def duplicate(sdata: SpatialData) -> SpatialData:
    """Return a section whose elements can be changed without changing the other's; pixels are shared."""
    return SpatialData(
        images={name: image.copy(deep=False) for name, image in sdata.images.items()},
        shapes={name: shapes.copy() for name, shapes in sdata.shapes.items()},
        tables={name: table.copy() for name, table in sdata.tables.items()},
        attrs=deepcopy(dict(sdata.attrs)),
    )


def settings_of(sdata: SpatialData) -> dict[str, Any]:
    """Return the settings with which `soscope.pp` has worked on a section."""
    return dict(contract.facts(sdata).get(SETTINGS, {}))


def note(sdata: SpatialData, settings: Mapping[str, Any], ours: bool, **facts: Any) -> None:
    """Note settings, further facts and, of subspots that are ours, what they and their features look like now."""
    plain = json.loads(json.dumps(dict(settings), default=str))
    digest = {MADE: _digest(sdata)} if ours else {}
    sdata.attrs[contract.ATTRS] = contract.facts(sdata) | facts | {SETTINGS: plain} | digest


def without_made(sdata: SpatialData) -> SpatialData:
    """Return a copy without subspots and image features that `soscope.pp` made and nobody has changed since.

    They are made again, alike, with the settings noted. What has been changed, or came with the section, stays and is
    taken as given.

    Raises
    ------
    DataError
        For a section that was prepared or enhanced before: its tables hold chosen features only.
    """
    facts = contract.facts(sdata)
    if "adds_up" in facts:
        raise DataError(
            f"section '{facts['section']}' was prepared before: its tables hold the chosen features only. Give the section as it "
            "was read."
        )
    copy = duplicate(sdata)
    if contract.SUBSPOTS in copy.shapes and facts.get(MADE) == _digest(copy):
        del copy.shapes[contract.SUBSPOTS]
        if contract.IMAGE_FEATURES in copy.tables:
            del copy.tables[contract.IMAGE_FEATURES]
    copy.attrs[contract.ATTRS].pop(MADE, None)
    return copy


def _digest(sdata: SpatialData) -> str:
    digest = hashlib.blake2b(digest_size=12)
    shapes = sdata.shapes[contract.SUBSPOTS]
    digest.update(b"".join(shapely.to_wkb(shapes.geometry.to_numpy())))
    digest.update("\n".join(names_of(shapes)).encode())
    digest.update(shapes[contract.PARENT].to_numpy(np.int64).tobytes())
    if contract.IMAGE_FEATURES in sdata.tables:
        digest.update(np.ascontiguousarray(sdata.tables[contract.IMAGE_FEATURES].X).tobytes())
    return digest.hexdigest()
