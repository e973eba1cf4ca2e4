"""What users hold in memory - AnnData, MuData, SpatialData - as sections of the data contract."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.transformations import get_transformation

from soscope import contract
from soscope.distances import typical_distance
from soscope.errors import DataError
from soscope.read.array import ARRAY
from soscope.read.base import as_image, check_ids, check_inside, check_names, kept_var, split_modalities
from soscope.read.h5ad import SIZES, eight_bit, image_in


class Place(NamedTuple):
    """Where spots lie: a table whose ``obs`` has their lattice coordinates, centres and radius in pixels, the image."""

    table: AnnData
    xy_px: np.ndarray
    radius_px: float | None
    image: np.ndarray | None
    source: str


def section_of_anndata(
    table: AnnData, name: str, modality: str = "rna", layer: str | None = None, library: str | None = None
) -> SpatialData:
    """Turn AnnData as scanpy and squidpy read Visium into a section.

    Parameters
    ----------
    table
        Counts; ``obsm['spatial']`` in pixels of the full-resolution image; ``obs['array_row']``, ``['array_col']``; the image
        and its scale in ``uns['spatial']``. Spots with ``obs['in_tissue']`` other than 1 are left out; features are parted
        by ``var['feature_types']``.
    name
        Name of the section.
    modality
        Name of the table, where there is no ``var['feature_types']``.
    layer
        Layer that holds the counts; ``X`` by default.
    library
        Key of ``uns['spatial']``, where it has several.

    Raises
    ------
    DataError
        For what is absent or does not fit together.
    """
    where = f"section '{name}'"
    table = _under_tissue(table, where)
    parts = split_modalities(_counts(table, layer, where))
    tables = parts if "feature_types" in table.var else {modality: parts["rna"]}
    return _assemble(name, tables, _place(table, library, where), "AnnData")


def section_of_mudata(data: Any, name: str, layer: str | None = None, library: str | None = None) -> SpatialData:
    """Turn MuData whose modalities are measured on the same spots into a section, a table per modality.

    Parameters
    ----------
    data
        What `section_of_anndata` says of a table holds for one of the modalities, or for the MuData itself.
    name, layer, library
        As there.
    """
    where = f"section '{name}'"
    mods: dict[str, AnnData] = dict(data.mod)
    holder = next((m for m in [*mods.values(), data] if "spatial" in m.obsm), None)
    if holder is None:
        raise DataError(
            f"{where}: none of the modalities {', '.join(mods)} has obsm['spatial'], the centres of spots in px."
        )
    spots = holder.obs_names
    for modality, table in mods.items():
        if set(table.obs_names) != set(spots):
            other = sorted(set(table.obs_names) ^ set(spots))
            raise DataError(
                f"{where}: modality '{modality}' has {table.n_obs:,} spots, obsm['spatial'] {len(spots):,}; {len(other):,} are "
                f"in one alone (first: '{other[0]}'). Keep those in all, as muon.pp.intersect_obs does."
            )
    place = AnnData(obs=holder.obs.copy(), obsm={"spatial": holder.obsm["spatial"]}, uns=dict(holder.uns))
    place = _under_tissue(place, where)
    tables = {m: _counts(t[place.obs_names], layer, f"{where}, modality '{m}'") for m, t in mods.items()}
    return _assemble(name, tables, _place(place, library, where), "MuData")


def section_of_sdata(
    sdata: SpatialData,
    name: str,
    modality: str = "rna",
    layer: str | None = None,
    table: str | None = None,
    image: str | None = None,
) -> SpatialData:
    """Turn SpatialData whose table annotates circles, as spatialdata-io reads Visium, into a section.

    Parameters
    ----------
    sdata
        Circles, a table on them with ``obs['array_row']`` and ``['array_col']``, an image that shares a coordinate system.
    name, modality, layer
        As for `section_of_anndata`.
    table, image
        Names of the elements; the only table, and the image with most pixels, by default.
    """
    where = f"section '{name}'"
    found = _element(sdata.tables, table, "table", where)
    attrs = found.uns.get("spatialdata_attrs", {})
    region, instance = attrs.get("region"), attrs.get("instance_key")
    region = region[0] if isinstance(region, list) and len(region) == 1 else region
    circles = sdata.shapes.get(region) if isinstance(region, str) else None
    if circles is None or "radius" not in circles:
        raise DataError(
            f"{where}: the table annotates {region!r}, expected one shapes element of circles. "
            f"Shapes are: {', '.join(sdata.shapes) or 'none'}."
        )
    found = _under_tissue(found, where)
    circles = circles.loc[found.obs[instance]]
    xy, radius = np.column_stack([circles.geometry.x, circles.geometry.y]), float(circles["radius"].median())
    pixels, source = _largest(sdata, image, where)
    if pixels is not None:
        matrix = _to_pixels(circles, pixels, where)
        xy = xy @ matrix[:2, :2].T + matrix[:2, 2]
        radius *= float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
        pixels = as_image(eight_bit(np.asarray(pixels.data)), f"{where}, image '{source}'")
    parts = split_modalities(_counts(found, layer, where))
    tables = parts if "feature_types" in found.var else {modality: parts["rna"]}
    return _assemble(name, tables, Place(found, xy, radius, pixels, source), "SpatialData")


def _assemble(name: str, tables: Mapping[str, AnnData], place: Place, reader: str) -> SpatialData:
    where = f"section '{name}'"
    if not re.fullmatch(r"[\w.-]+", name) or name == "outs":
        raise DataError(f"{where}: the name names files: use letters, digits, points, _ and -.")
    check_inside(place.xy_px, place.image, f"{where}, {place.source}")
    obs = _array_coordinates(place.table, where)
    plain = {}
    for modality, table in tables.items():
        check_names(table, f"{where}, table '{modality}'")
        check_ids(table, f"{where}, table '{modality}'")
        plain[modality] = AnnData(X=table.X.copy(), obs=obs.copy(), var=kept_var(table))
    radius = place.radius_px or max(typical_distance(place.xy_px) / 4, 1.0)
    facts = {"reader": reader, "image_source": place.source, "files": []}
    return contract.new_section(name, place.image, obs.index.tolist(), place.xy_px, radius, plain, **facts)


def _place(table: AnnData, library: str | None, where: str) -> Place:
    if "spatial" not in table.obsm:
        raise DataError(
            f"{where}: no obsm['spatial'], the centres of spots in pixels of the full-resolution image; obsm has: "
            f"{', '.join(table.obsm) or 'nothing'}."
        )
    xy = np.asarray(table.obsm["spatial"], dtype=np.float64)[:, :2]
    libraries = table.uns.get("spatial") or {}
    if not libraries:
        return Place(table, xy, None, None, "none")
    library = _chosen(library, libraries, "uns['spatial']", "library", where)
    images = libraries[library].get("images") or {}
    diameter = (libraries[library].get("scalefactors") or {}).get("spot_diameter_fullres")
    kind = next((k for k in SIZES if k in images), None)
    if kind is None:
        return Place(table, xy, diameter and diameter / 2, None, "none")
    image, scale = image_in(libraries[library], kind, f"{where}, uns['spatial']['{library}']")
    return Place(table, xy * scale, diameter and diameter / 2 * scale, image, f"{library}, {kind}")


def _under_tissue(table: AnnData, where: str) -> AnnData:
    if "in_tissue" not in table.obs:
        return table
    inside = table.obs["in_tissue"].astype(int).to_numpy() == 1
    if not inside.any():
        raise DataError(f"{where}: none of the {table.n_obs:,} spots has obs['in_tissue'] = 1.")
    return table[inside]


def _counts(table: AnnData, layer: str | None, where: str) -> AnnData:
    if layer is not None and layer not in table.layers:
        raise DataError(
            f"{where}: no layer '{layer}'. Choose from: {', '.join(table.layers) or 'none, there is X alone'}."
        )
    values = table.X if layer is None else table.layers[layer]
    return AnnData(X=values.copy(), obs=table.obs[[]].copy(), var=table.var.copy())


def _array_coordinates(table: AnnData, where: str) -> Any:
    missing = [key for key in ARRAY if key not in table.obs]
    if missing:
        raise DataError(
            f"{where}: obs has no {' and '.join(missing)}, the lattice coordinates by which spots divide (as in Space Ranger's "
            f"tissue_positions); it has: {', '.join(map(str, table.obs)) or 'nothing'}."
        )
    obs = table.obs[list(ARRAY)].astype(np.float64)
    if not (obs == np.floor(obs)).all(axis=None):
        raise DataError(f"{where}: array_row and array_col must be whole numbers.")
    return obs.astype(np.int64)


def _chosen(name: str | None, there: Mapping[str, Any], what: str, option: str, where: str) -> str:
    """Return the name that was given, or the only one there is."""
    if name is None and len(there) == 1:
        return next(iter(there))
    if name is None or name not in there:
        said = f"has {len(there)} entries" if name is None else f"has no '{name}'"
        raise DataError(f"{where}: {what} {said}. Give {option}=..., one of: {', '.join(map(str, there)) or 'none'}.")
    return name


def _element(elements: Mapping[str, Any], name: str | None, option: str, where: str) -> Any:
    return elements[_chosen(name, elements, f"the {option}s of the SpatialData object", option, where)]


def _largest(sdata: SpatialData, image: str | None, where: str) -> tuple[Any, str]:
    """Return an image at full resolution and its name; of several the one with most pixels."""
    full = {n: e if hasattr(e, "dims") and "c" in e.dims else e["scale0"]["image"] for n, e in sdata.images.items()}
    if not full and image is None:
        return None, "none"
    if image is None:
        image = max(full, key=lambda n: full[n].shape[1] * full[n].shape[2])
    return _element(full, image, "image", where), image


def _to_pixels(circles: Any, image: Any, where: str) -> np.ndarray:
    """Return the matrix that takes the circles' own coordinates to pixels of the image."""
    ours, its = (get_transformation(e, get_all=True) for e in (circles, image))
    shared = [system for system in ours if system in its]
    if not shared:
        raise DataError(
            f"{where}: circles ({', '.join(ours)}) and image ({', '.join(its)}) share no coordinate system."
        )
    axes = ("x", "y")
    there, back = (t[shared[0]].to_affine_matrix(axes, axes) for t in (ours, its))
    return np.linalg.solve(back, there)
