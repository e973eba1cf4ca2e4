"""What preparing sections has learnt of them, so that an unseen one is prepared alike."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from soscope import contract
from soscope.errors import DataError
from soscope.prepare.panel import FITTED
from soscope.prepare.reduction import Reduction

log = logging.getLogger("soscope")
REDUCTIONS = "reductions"


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
    """

    features: dict[str, list[str]]
    fitted: dict[str, Mapping[str, Any]]
    reductions: dict[str, Reduction]

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
        return cls(features, fitted, {name: Reduction.from_arrays(r) for name, r in image.uns[REDUCTIONS].items()})

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

    def reduced(self, encoder: str, block: np.ndarray) -> tuple[Reduction, np.ndarray]:
        """Reduce an encoder's features as those of the earlier sections; `DataError` for another encoder or width."""
        known = self.reductions.get(encoder)
        if known is None or len(known.mean) != block.shape[1]:
            had = ", ".join(f"{name}: {len(r.mean)}" for name, r in self.reductions.items()) or "none"
            raise DataError(
                f"image features of '{encoder}', {block.shape[1]} columns, are not those the model was trained with ({had})."
            )
        return known, known(block)
