"""Truth from a real section: its spots merged into larger ones, whose subspots they are."""

from __future__ import annotations

import re
from collections.abc import Collection

import numpy as np
import pandas as pd
from anndata import AnnData, concat
from scipy import sparse

from soscope import contract
from soscope.errors import ConfigError, DataError
from soscope.lattice import Coarser, Lattice
from soscope.read.base import RawSection

MIN_GROUPS = 12
OF_THE_FORMAT = ("format_version", "section", "modalities")


def group_size(rule: str) -> int:
    """Return the number of spots that ``hex7``, ``2x2``, ``3x3`` and the like merge into one."""
    found = re.fullmatch(r"hex(\d+)|(\d+)x(\d+)", rule)
    if found is None or found[2] != found[3]:
        raise ConfigError(
            f"benchmark.merge={rule} is not understood. Give hex7 on a hexagonal lattice, 2x2 or 3x3 on a square one, or given."
        )
    return int(found[1]) if found[1] else int(found[2]) ** 2


def check_rule(rule: str, lattice: Lattice) -> int:
    """Return the number of spots that ``rule`` merges; `ConfigError` when a lattice has not got it."""
    k = group_size(rule)
    if rule.startswith("hex") != (lattice.name == "hex"):
        raise ConfigError(
            f"benchmark.merge={rule} does not fit a {lattice.name} lattice. Use benchmark.merge={lattice.merge_rule}, or name "
            "the platform the section is from."
        )
    try:
        lattice.offsets(k)
    except ConfigError as error:
        raise ConfigError(f"benchmark.merge={rule}: {error}") from error
    return k


def merge(raw: RawSection, rule: str, lattice: Lattice, averaged: Collection[str] = ()) -> RawSection:
    """Merge groups of spots; the members are the subspots of the merged spot and their own profiles the truth.

    Parameters
    ----------
    raw
        A section as its reader delivers it.
    rule
        ``hex7``, ``2x2``, ``3x3``: only complete groups are kept.
    lattice
        Arrangement of its spots.
    averaged
        Modalities whose values average over members (components, normalised values); the others add up (counts).

    Returns
    -------
    The merged section, with lattice coordinates of its own, and the truth, its rows named like the subspots.

    Raises
    ------
    ConfigError, DataError
        For a rule the lattice has not got, and sections with fewer than 12 complete groups.
    """
    k = check_rule(rule, lattice)
    table = raw.sdata.tables[contract.modalities(raw.sdata)[0]]
    if not {"array_row", "array_col"} <= set(table.obs):
        raise ConfigError(
            f"section '{raw.name}' has no lattice coordinates to merge spots by; use benchmark.merge=given."
        )
    row, col = (table.obs[key].to_numpy().astype(np.int64) for key in ("array_row", "array_col"))
    problem = lattice.contradiction(row, col)
    if problem:
        raise ConfigError(f"section '{raw.name}': benchmark.merge={rule} does not fit: {problem}.")
    groups = lattice.coarser(row, col, k)
    if len(groups.members) < MIN_GROUPS:
        raise DataError(
            f"section '{raw.name}': benchmark.merge={rule} leaves {len(groups.members)} complete groups of spots, "
            f"fewer than {MIN_GROUPS}: too few to learn from. Use a smaller block or a larger section."
        )
    return _merged(raw, groups, averaged)


def _merged(raw: RawSection, groups: Coarser, averaged: Collection[str]) -> RawSection:
    row, col, members = groups
    n, k = members.shape
    names = [f"merged_{r}_{c}" for r, c in zip(row, col, strict=True)]
    table = raw.sdata.tables[contract.modalities(raw.sdata)[0]]
    xy = np.asarray(table.obsm["spatial"])[members].mean(1)
    sums = sparse.csr_matrix((np.ones(n * k, dtype=np.float32), (np.repeat(np.arange(n), k), np.arange(n * k))))
    obs = pd.DataFrame({"array_row": row, "array_col": col}, index=names)
    rows = [f"{name}:{i}" for name in names for i in range(k)]
    coarse, truth = {}, []
    for modality in contract.modalities(raw.sdata):
        table = raw.sdata.tables[modality]
        fine = sparse.csr_matrix(table.X[members.ravel()])
        var = table.var.copy()
        coarse[modality] = AnnData(
            X=sparse.csr_matrix(sums @ fine / (k if modality in averaged else 1)), obs=obs.copy(), var=var
        )
        truth.append(AnnData(X=fine, obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=var.index)))
    facts = {key: v for key, v in contract.facts(raw.sdata).items() if key not in OF_THE_FORMAT}
    radius = float(np.median(raw.sdata.shapes[contract.SPOTS]["radius"])) * np.sqrt(k)
    image = contract.image_of(raw.sdata)
    named = None if image is None else contract.named_channels(image, contract.channels_of(raw.sdata))
    sdata = contract.new_section(raw.name, named, names, xy, radius, coarse, **facts)
    return RawSection(sdata, concat(truth, axis="var"))
