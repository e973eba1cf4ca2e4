"""Enhanced sections on disk, written block of subspots by block: SpatialData zarr, and one h5ad per modality."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem
from PIL import Image
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import TableModel

from soscope import contract
from soscope.channels import composite
from soscope.data.section import Section
from soscope.matrices import Matrix
from soscope.numbering import names_of
from soscope.split import Split

LAYERS = {0.05: "q05", 0.95: "q95"}
CHUNK = 2**18
"""Entries of a chunk."""
PICTURE_PX = 2000
"""Pixels of the longer side of the image in an h5ad, which the zarr has whole."""


def result_without_values(
    sdata: SpatialData, section: Section, modalities: Iterable[str], latent: np.ndarray, posterior: str
) -> SpatialData:
    """Return the section with its enhanced tables, still empty, and the latent state of its spots (``obsm['X_soscope']``)."""
    result = SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), attrs=dict(sdata.attrs))
    result.attrs[contract.ATTRS] = contract.facts(sdata) | {"posterior": posterior}
    for name, table in sdata.tables.items():
        if name in modalities:
            table = table.copy()
            table.obsm["X_soscope"] = latent
        result.tables[name] = table
    subspots = sdata.shapes[contract.SUBSPOTS]
    for modality in modalities:
        table = _enhanced_table(section, sdata.tables[modality].var, subspots)
        result.tables[contract.enhanced_name(modality)] = contract.annotate(
            table, contract.SUBSPOTS, subspots.index.to_numpy()
        )
    return result


def _enhanced_table(section: Section, feature_var: pd.DataFrame, subspots: Any) -> AnnData:
    """Return a table without values, rows named like the subspot shapes."""
    table = AnnData(obs=pd.DataFrame(index=names_of(subspots)), var=feature_var.copy())
    table.obs[contract.PARENT] = section.parent
    table.obs[contract.PARENT_NAME] = subspots[contract.PARENT_NAME].to_numpy()
    table.obs["under_no_spot"] = section.parent < 0
    table.obsm["spatial"] = np.column_stack([subspots.geometry.centroid.x, subspots.geometry.centroid.y])
    table.obsm["xy_um"] = section.subspot_xy_um
    return table


def write_result(
    frame: Callable[[], SpatialData], path: Path, files: Mapping[str, Path], blocks: Iterable[Mapping[str, Split]]
) -> None:
    """Write an enhanced section: mean in X, ``sd``, ``q05``, ``q95`` in layers; in memory is one block of subspots.

    Parameters
    ----------
    frame
        Returns what `result_without_values` does; called once, and let go before the first block.
    path
        SpatialData zarr.
    files
        Per modality an h5ad of its enhanced table, which scanpy and squidpy plot as it is: image and scale factors are in
        ``uns['spatial']``.
    blocks
        Splits of consecutive subspots per modality.
    """
    partial = {m: file.with_name(file.name + ".partial") for m, file in files.items()}
    with contract.beside(path) as new, contract.quiet():
        _write_frame(frame(), new, partial)
        root = zarr.open_group(new, mode="r+", use_consolidated=False)
        with ExitStack() as stack:
            tables = {m: [_Growing(root[f"tables/{contract.enhanced_name(m)}"])] for m in files}
            for modality, file in partial.items():
                opened = stack.enter_context(h5py.File(file, "r+"))
                tables[modality].append(_Growing(opened, compression="gzip", compression_opts=1))
            for block in blocks:
                for modality, split in block.items():
                    for table in tables[modality]:
                        table.append(split)
        zarr.consolidate_metadata(root.store)
    for modality, file in files.items():
        partial[modality].replace(file)


def _write_frame(result: SpatialData, path: Path, files: Mapping[str, Path]) -> None:
    result.write(path, update_sdata_path=False)
    for modality, file in files.items():
        _standalone(result, modality).write_h5ad(file)


class _Growing:
    """A written AnnData table whose matrices grow by rows, in zarr or HDF5; options go to the first write of each."""

    def __init__(self, group: Any, **options: Any) -> None:
        self.group, self.options = group, options

    def append(self, split: Split) -> None:
        """Add the rows of a split."""
        layers = {LAYERS[q]: v for q, v in split.quantiles.items()} | ({} if split.sd is None else {"sd": split.sd})
        self._add(self.group, "X", split.mean)
        for name, values in layers.items():
            self._add(self.group["layers"], name, values)

    def _add(self, group: Any, name: str, values: Matrix) -> None:
        if name not in group:
            write_elem(group, name, values, dataset_kwargs=self.options | self._layout(values))
        elif sparse.issparse(values):
            sparse_dataset(group[name]).append(values)
        else:
            array = group[name]
            start = array.shape[0]
            array.resize((start + len(values), *array.shape[1:]))
            array[start:] = values

    def _layout(self, values: Matrix) -> dict[str, Any]:
        if sparse.issparse(values):
            return {"chunks": (CHUNK,), "indptr_dtype": np.dtype(np.int64)}
        chunks = (max(CHUNK // max(values.shape[1], 1), 1), max(values.shape[1], 1))
        resizable = {"maxshape": (None, values.shape[1])} if isinstance(self.group, h5py.Group) else {}
        return {"chunks": chunks, **resizable}


def _standalone(result: SpatialData, modality: str) -> AnnData:
    """Return an enhanced table with what scanpy and squidpy need to plot it."""
    table = result.tables[contract.enhanced_name(modality)].copy()
    table.uns.pop(TableModel.ATTRS_KEY, None)
    facts = contract.facts(result)
    image = contract.image_of(result)
    area = result.shapes[contract.SUBSPOTS].area.median()
    scale = {"spot_diameter_fullres": float(2 * np.sqrt(area / np.pi)), "tissue_hires_scalef": 1.0}
    images = {}
    if image is not None:
        images["hires"], scale["tissue_hires_scalef"] = shrunk(
            composite(image, contract.channels_of(result)), PICTURE_PX
        )
    table.uns["spatial"] = {facts["section"]: {"images": images, "scalefactors": scale}}
    table.uns["soscope"] = {k: str(v) for k, v in facts.items()}
    return table


def shrunk(picture: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """Return a picture ``(height, width, 3)`` of uint8 with at most so many pixels a side, and its scale."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture, 1.0
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX)), scale
