"""From a trained model to enhanced profiles."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import TableModel

from soscope import contract
from soscope.data.section import Section
from soscope.data.tiles import Tile
from soscope.likelihoods import Likelihood
from soscope.posteriors import Posterior
from soscope.split import Split
from soscope.stage_module import StageModule

QUANTILES = (0.05, 0.95)
LAYERS = {0.05: "q05", 0.95: "q95"}
FEATURE_BLOCK = 256


class Block(NamedTuple):
    """The posterior of some features of a modality: ``columns`` of its table."""

    modality: str
    columns: slice
    posterior: Posterior


@torch.no_grad()
def split_tile(
    model: StageModule, tile: Tile, posterior: str = "conditional", with_cdf: bool = False
) -> tuple[dict[str, Split], np.ndarray]:
    """Divide a tile's spots.

    Parameters
    ----------
    model
        Trained; runs without dropout and with every spot shown.
    tile
        Spots and subspots.
    posterior
        ``conditional`` on the observed spots, whose subspots then add up to them, or ``prior``: the decoder alone.
    with_cdf
        Whether splits keep their distribution function, and with it the tensors it is made of.

    Returns
    -------
    A split per modality, and the latent mean of spots ``(n_spots, n_latent)``.
    """
    parts: dict[str, list[Split]] = {}
    for modality, _, given in posteriors(model, tile, posterior):
        likelihood: Likelihood = model.likelihoods[modality]  # type: ignore[assignment]
        part = split_of(given, likelihood.sparse_result and posterior == "conditional", with_cdf)
        parts.setdefault(modality, []).append(part)
    return {m: Split.stack_features(p) for m, p in parts.items()}, latent_mean(model, tile).numpy()


@torch.no_grad()
def latent_mean(model: StageModule, tile: Tile) -> torch.Tensor:
    """Return the latent mean of spots, every spot shown, ``(n_spots, n_latent)``."""
    model.eval()
    return model.encode(tile, torch.ones_like(tile.core)).mean


@torch.no_grad()
def posteriors(
    model: StageModule, tile: Tile, posterior: str, modalities: Collection[str] | None = None
) -> Iterator[Block]:
    """Go through blocks of features with the distribution of their subspots.

    Parameters
    ----------
    model, tile, posterior
        As for `split_tile`.
    modalities
        Those wanted; all by default.
    """
    decoded = model.decode(tile, latent_mean(model, tile))
    for modality in decoded if modalities is None else modalities:
        likelihood: Likelihood = model.likelihoods[modality]  # type: ignore[assignment]
        for start in range(0, likelihood.n_features, FEATURE_BLOCK):
            chosen = slice(start, start + FEATURE_BLOCK)
            p = {k: v[..., chosen] for k, v in decoded[modality].items()}
            if posterior == "conditional":
                if modality in model.widening:
                    p = likelihood.widened(p, model.widening[modality])
                given = likelihood.given_total(tile.profiles[modality][:, chosen], p, tile.parent)
            else:
                given = likelihood.prior(p)
            yield Block(modality, chosen, given)


def split_of(posterior: Posterior, as_sparse: bool, with_cdf: bool = False) -> Split:
    """Summarise a posterior; the mean stays in double precision so that sums over a spot keep its count."""

    def store(value: torch.Tensor, dtype: type) -> Any:
        array: Any = value.cpu().numpy().astype(dtype)
        return sparse.csr_matrix(array) if as_sparse else array

    return Split(
        mean=store(posterior.mean(), np.float64),
        sd=store(posterior.sd(), np.float32),
        quantiles={q: store(posterior.quantile(q), np.float32) for q in QUANTILES},
        cdf=posterior.below_and_at if with_cdf else None,
    )


def enhanced_table(split: Split, section: Section, modality: str, feature_var: pd.DataFrame, subspots: Any) -> AnnData:
    """Lay a split out as AnnData: mean in X, ``sd``, ``q05``, ``q95`` in layers, rows named like the subspot shapes."""
    table = AnnData(X=split.mean, obs=pd.DataFrame(index=subspots.index), var=feature_var.copy())
    if split.sd is not None:
        table.layers["sd"] = split.sd
    for level, values in split.quantiles.items():
        table.layers[LAYERS[level]] = values
    table.obs[contract.PARENT] = section.parent
    table.obs[contract.PARENT_NAME] = subspots[contract.PARENT_NAME].to_numpy()
    table.obs["under_no_spot"] = section.parent < 0
    table.obsm["spatial"] = np.column_stack([subspots.geometry.centroid.x, subspots.geometry.centroid.y])
    table.obsm["xy_um"] = section.subspot_xy_um
    return table


def add_result(
    sdata: SpatialData, section: Section, splits: dict[str, Split], latent: np.ndarray, posterior: str
) -> SpatialData:
    """Return the section with its enhanced tables and the latent state of its spots (``obsm['X_soscope']``)."""
    result = SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), attrs=dict(sdata.attrs))
    result.attrs[contract.ATTRS] = contract.facts(sdata) | {"posterior": posterior}
    for name, table in sdata.tables.items():
        table = table.copy()
        if name in splits:
            table.obsm["X_soscope"] = latent
        result.tables[name] = table
    subspots = sdata.shapes[contract.SUBSPOTS]
    for modality, split in splits.items():
        table = enhanced_table(split, section, modality, sdata.tables[modality].var, subspots)
        result.tables[contract.enhanced_name(modality)] = contract.annotate(table, contract.SUBSPOTS)
    return result


def write_h5ad(sdata: SpatialData, modality: str, file: Path) -> None:
    """Write one enhanced table so that scanpy and squidpy plot it as it is: image and scale factors in ``uns['spatial']``."""
    table = sdata.tables[contract.enhanced_name(modality)].copy()
    table.uns.pop(TableModel.ATTRS_KEY, None)
    facts = contract.facts(sdata)
    image = contract.image_of(sdata)
    area = sdata.shapes[contract.SUBSPOTS].area.median()
    scale = {"spot_diameter_fullres": float(2 * np.sqrt(area / np.pi)), "tissue_hires_scalef": 1.0}
    images = {} if image is None else {"hires": np.moveaxis(image, 0, -1)}
    table.uns["spatial"] = {facts["section"]: {"images": images, "scalefactors": scale}}
    table.uns["soscope"] = {k: str(v) for k, v in facts.items()}
    contract.write_table(table, file)
