"""Image features of sections: which encoders make them, and how they become few columns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from soscope.errors import DataError
from soscope.prepare.encoders import ImageEncoder, make_encoder
from soscope.prepare.image_features import SectionView
from soscope.prepare.learnt import Learnt
from soscope.prepare.placing import Placed
from soscope.prepare.reduction import Reduction

log = logging.getLogger("soscope")
GIVEN = "given"


@dataclass(frozen=True)
class ImageBlocks:
    """Image features of one section by the encoder that made them, ``(n_subspots, n)``, and how they were reduced."""

    values: dict[str, np.ndarray]
    reductions: dict[str, Reduction]


def choose_encoders(cfg: Any, placed: Sequence[Placed]) -> list[ImageEncoder]:
    """Build what makes image features: the encoder chosen and colour beside it; none where sections bring features."""
    if any(p.given is not None and p.given.features is not None for p in placed):
        return []
    image: Any = OmegaConf.to_container(cfg.image, resolve=True)
    settings = {key: image[key] for key in ("model", "features")}
    encoders = [make_encoder(image["encoder"], image["weights"], image["options"], **settings)]
    if image["color"]:
        encoders.append(make_encoder("color"))
    return list({e.name: e for e in encoders}.values())


def image_blocks(
    cfg: Any, placed: Sequence[Placed], encoders: Sequence[ImageEncoder], learnt: Learnt | None = None
) -> list[ImageBlocks]:
    """Encode and reduce patches of all sections together, so that features mean the same everywhere.

    Parameters
    ----------
    cfg, placed
        Settings, and the sections.
    encoders
        From `choose_encoders`.
    learnt
        How features of earlier sections were reduced, where these are to be reduced alike.

    Returns
    -------
    Features of each section.
    """
    given = [p.name for p in placed if p.given is not None and p.given.features is not None]
    if given:
        blocks = {GIVEN: _given_features(cfg, placed, given)}
    else:
        views = [_view(cfg, p, [one.name for one in placed]) for p in placed]
        blocks = {e.name: together(e, views) for e in encoders}
    reduced, reductions = {}, {}
    for name, block in blocks.items():
        if block.shape[1]:
            reductions[name], reduced[name] = _reduced(cfg, name, block, learnt)
    ends = np.cumsum([len(p.shapes) for p in placed])[:-1]
    parts = {name: np.split(values, ends) for name, values in reduced.items()}
    return [ImageBlocks({name: part[i] for name, part in parts.items()}, reductions) for i in range(len(placed))]


def _reduced(cfg: Any, name: str, block: np.ndarray, learnt: Learnt | None) -> tuple[Reduction, np.ndarray]:
    if learnt is not None:
        return learnt.reduced(name, block)
    if name == GIVEN and block.shape[1] <= cfg.image.n_components:  # columns that a user chose mean what they are
        return Reduction.none(block.shape[1]), block
    return Reduction.fit(block, cfg.image.n_components, cfg.seed)


def together(encoder: ImageEncoder, views: Sequence[SectionView]) -> np.ndarray:
    """Return one encoder's features, rows of all sections one after another."""
    parts = [encoder.features_of(view) for view in views]
    widths = [part.shape[1] for part in parts]
    if len(set(widths)) > 1:
        found = ", ".join(f"'{view.name}': {width}" for view, width in zip(views, widths, strict=True))
        raise DataError(
            f"image={encoder.name} gives sections different numbers of features ({found}), so they cannot be compared. Give all "
            "the same columns, or choose the channels they share with image.channels=[...]."
        )
    return np.concatenate(parts)


def _view(cfg: Any, p: Placed, sections: list[str]) -> SectionView:
    where = {"um_per_px": p.um_per_px, "pitch_um": p.subspot_pitch_um, "xy_px": p.xy_px, "sdata": p.sdata}
    subspots = p.shapes.index.astype(str).tolist()
    return SectionView(p.name, sections, subspots, settings=cfg.image, progress=cfg.trainer.progress, **where)


def _given_features(cfg: Any, placed: Sequence[Placed], given: list[str]) -> np.ndarray:
    """Take the image features the sections bring; beyond ``image.n_components`` columns they are reduced later on."""
    without = [p.name for p in placed if p.name not in given]
    if without:
        raise DataError(
            f"section '{given[0]}' brings image features, '{without[0]}' does not: they cannot be compared. "
            "Give features for every section, or for none."
        )
    features = [p.given.features for p in placed if p.given is not None and p.given.features is not None]
    widths = {f.shape[1] for f in features}
    if len(widths) > 1:
        raise DataError(
            f"the sections bring {' and '.join(map(str, sorted(widths)))} image features: give all of them the same columns."
        )
    width = widths.pop()
    log.info("image features as given, %d columns (image=%s is left out)", width, cfg.image.encoder)
    if width > cfg.image.n_components:
        log.info("image features: %d columns reduced to image.n_components=%d", width, cfg.image.n_components)
    return np.concatenate(features)
