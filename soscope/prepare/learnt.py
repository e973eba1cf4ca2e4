"""What preparing sections has learnt of them, so that an unseen one is prepared alike."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from soscope import contract
from soscope.errors import DataError
from soscope.prepare.panel import FITTED
from soscope.prepare.reduction import Reduction

log = logging.getLogger("soscope")
REDUCTIONS, LIBRARY = "reductions", "library"
"""Keys in ``uns`` of how image features were reduced, and of what share of the library size every feature has."""
ALIKE = 2.0
"""Up to so many times more or fewer features read, a table's own sum is its library size."""


@dataclass(frozen=True)
class Learnt:
    """What was learnt of earlier sections.

    Attributes
    ----------
    features
        Names per modality, as they are read.
    fitted
        What each modality's representation keeps.
    reductions
        How image features were reduced, by the encoder that made them.
    shares
        Share of every feature in the library sizes of the sections, per modality of counts, and the number of features read.
    """

    features: dict[str, list[str]]
    fitted: dict[str, Mapping[str, Any]]
    reductions: dict[str, Reduction]
    shares: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def of(cls, prepared: Path, modalities: list[str]) -> Learnt:
        """Read it from a prepared section.

        Raises
        ------
        DataError
            When the section was prepared by a version that did not keep it.
        """
        _, tables = contract.open_tables(prepared)
        image = tables[contract.IMAGE_FEATURES]
        if REDUCTIONS not in image.uns:
            raise DataError(
                f"'{prepared}' does not say how its image features were reduced: it was prepared by an earlier version. Train "
                "the model again in a new run folder."
            )
        fitted = {m: tables[m].uns.get(FITTED, {}) for m in modalities}
        features = {m: [str(f) for f in np.asarray(fitted[m].get("features", tables[m].var_names))] for m in modalities}
        reductions = {name: Reduction.from_arrays(r) for name, r in image.uns[REDUCTIONS].items()}
        return cls(features, fitted, reductions, {m: t.uns[LIBRARY] for m, t in tables.items() if LIBRARY in t.uns})

    def present(self, modality: str, tables: Sequence[AnnData]) -> list[str]:
        """Return the features that all tables have, in their order; `DataError` where there is none."""
        found = [name for name in self.features[modality] if all(name in t.var_names for t in tables)]
        if not found:
            raise DataError(
                f"table '{modality}' has none of the model's {len(self.features[modality]):,} features "
                f"({', '.join(self.features[modality][:4])}, ...). Its names come from another reference."
            )
        n = len(self.features[modality])
        if len(found) < n:
            log.info("%s: %d of the model's %d features are there", modality, len(found), n)
        return found

    def library_size(self, modality: str, table: AnnData) -> np.ndarray:
        """Return the library size of a table's spots, ``(n_spots,)``, as it would be of the features that were read to train.

        It is the sum of counts, unless the table has far fewer features, such as a targeted panel, or far more: then it is
        the sum over the model's features, divided by the share these had of the library sizes it was trained on.
        """
        own = np.asarray(table.X.sum(1)).ravel().astype(np.float64)
        known = self.shares.get(modality)
        if known is None or 1 / ALIKE <= table.n_vars / int(known["n_read"]) <= ALIKE:
            return own
        share = pd.Series(np.asarray(known["share"]), index=[str(name) for name in known["features"]])
        there = share.index.intersection(table.var_names)
        log.warning(
            "%s: %d features, of %d the model was trained with; library sizes are estimated from %d that hold %.0f %% of counts",
            *(modality, table.n_vars, int(known["n_read"]), len(there), 100 * share[there].sum()),
        )
        return np.asarray(table[:, there].X.sum(1)).ravel() / max(float(share[there].sum()), 1e-12)

    def reduced(self, encoder: str, block: np.ndarray) -> tuple[Reduction, np.ndarray]:
        """Reduce an encoder's features as those of the earlier sections; `DataError` for another encoder or width."""
        known = self.reductions.get(encoder)
        if known is None or len(known.mean) != block.shape[1]:
            had = ", ".join(f"{name}: {len(r.mean)}" for name, r in self.reductions.items()) or "none"
            raise DataError(
                f"image features of '{encoder}', {block.shape[1]} columns, are not those the model was trained with ({had})."
            )
        return known, known(block)
