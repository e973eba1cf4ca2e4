"""What `infer` returns: where an unseen section is enhanced, and the result in the columns of ``label.npy``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from anndata import read_h5ad

from soscope import contract
from soscope.config import hash_of
from soscope.errors import DataError
from soscope.folder import RunFolder
from soscope.matrices import to_dense
from soscope.names import section_name
from soscope.read import make_reader
from soscope.read.base import hash_files
from soscope.read.released import LABEL, load


def run_of_unseen(result: Path, data: Path, trained: RunFolder) -> RunFolder:
    """Return the run folder in ``result`` of one model on one section, so that several of either share a ``result_dir``."""
    (model,) = hash_files([trained.model_file]).values()
    return RunFolder(result / "run" / f"{section_name(data)}-{hash_of([os.path.abspath(data), model])}")


def all_columns(cfg: Any, data: Path, tables: Mapping[str, Path]) -> np.ndarray:
    """Return enhanced profiles with the columns of ``label.npy``.

    Parameters
    ----------
    cfg
        Config the section was read with.
    data
        Its folder.
    tables
        Enhanced tables by modality, in the order of the columns.

    Returns
    -------
    ``(n_subspots, n_features)`` of float32. Features that the model has not, having been zero throughout where it was trained,
    have their spot's mean in each of its subspots.

    Raises
    ------
    DataError
        For tables of other subspots or features than the folder's.
    """
    raw = make_reader(cfg.data.reader, dict(cfg.data.options)).read(data).sdata
    parent = raw.shapes[contract.SUBSPOTS][contract.PARENT].to_numpy()
    means, start = load(data / LABEL).astype(np.float32), 0
    parts = []
    for modality, file in tables.items():
        names = raw.tables[modality].var_names
        values = means[parent, start : start + len(names)]
        found = read_h5ad(file)
        place = names.get_indexer(found.var_names)
        if len(found) != len(values) or (place < 0).any():
            raise DataError(
                f"'{file}' has {found.n_obs:,} subspots and {int((place < 0).sum()):,} features that are not of '{data}', which "
                f"has {len(values):,} subspots. The folder has changed since: name another result_dir, or train again."
            )
        values[:, place] = to_dense(found.X)
        parts.append(values)
        start += len(names)
    return np.concatenate(parts, 1)
