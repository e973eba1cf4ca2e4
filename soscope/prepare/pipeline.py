"""Raw sections to prepared sections: the stage `prepare`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from spatialdata import SpatialData

from soscope import contract
from soscope.channels import is_rgb
from soscope.checks import check_counts
from soscope.config import features_wanted
from soscope.errors import ConfigError
from soscope.lattice import make_lattice
from soscope.likelihoods import Likelihood, make_likelihood
from soscope.prepare.given import Given
from soscope.prepare.graphs import Graph, neighbour_edges, similarity
from soscope.prepare.image_features import chosen_channels
from soscope.prepare.learnt import LIBRARY, REDUCTIONS, Learnt
from soscope.prepare.panel import FITTED, choose_features, represent, representation_of
from soscope.prepare.placing import Placed, place, subspots_per_spot
from soscope.prepare.section_features import ImageBlocks, choose_encoders, image_blocks
from soscope.rows import side_by_side

log = logging.getLogger("soscope")


def prepare_sections(cfg: Any, raw: Sequence[SpatialData], learnt: Learnt | None = None) -> list[SpatialData]:
    """Split spots, choose features, encode patches and build both graphs, alike for all sections.

    Unseen sections are prepared like those a model was trained on by what was ``learnt`` of them.

    Raises
    ------
    ConfigError, DataError
        For a platform that contradicts the lattice, tables that are absent, values outside a likelihood's support.
    """
    lattice = make_lattice(cfg.platform.lattice)
    radius = lattice.radius_of(cfg.platform.n_neighbours)
    placed = [place(cfg, sdata, lattice) for sdata in raw]
    check_tables(cfg, placed)
    encoders = choose_encoders(cfg, placed)  # early: a network that cannot be had stops here
    tables = {m: _tables(cfg, m, placed, radius, learnt) for m in cfg.model.modalities}
    images = image_blocks(cfg, placed, encoders, learnt)
    return [
        _assemble(cfg, radius, p, image, {m: t[i] for m, t in tables.items()})
        for i, (p, image) in enumerate(zip(placed, images, strict=True))
    ]


def check_tables(cfg: Any, placed: Sequence[Placed]) -> None:
    """Refuse absent tables and, for models of counts, values that are not counts, before any long work."""
    for p in placed:
        for modality, choice in cfg.model.modalities.items():
            if modality not in p.sdata.tables:
                raise ConfigError(
                    f"model={cfg.model.name} needs a table '{modality}', section '{p.name}' has: "
                    f"{', '.join(contract.modalities(p.sdata))}."
                )
            table = p.sdata.tables[modality]
            where = f"section '{p.name}', table '{modality}'"
            names = table.obs_names.tolist(), table.var_names.tolist()
            _likelihood(choice, table.n_vars).check(table.X, where, *names)
            if representation_of(choice.representation).needs_counts:
                check_counts(table.X, where, *names)


def _tables(cfg: Any, modality: str, placed: Sequence[Placed], radius: float, learnt: Learnt | None) -> list[AnnData]:
    """Return the chosen features of one modality in the form the model sees, per section."""
    full = [p.sdata.tables[modality] for p in placed]
    counted = representation_of(cfg.model.modalities[modality].representation).needs_counts
    wanted = features_wanted(cfg, modality) if learnt is None else learnt.present(modality, full)
    chosen = choose_features(wanted, full, [p.unit_xy for p in placed], radius, modality, counted)
    library = [learnt.library_size(modality, t) if learnt else _sums(t) for t in full]
    parts = []
    for table, size in zip(full, library, strict=True):
        part = table[:, chosen.index].copy()
        part.obs[contract.LIBRARY_SIZE] = size
        for column in chosen:
            part.var[column] = chosen[column].to_numpy()
        parts.append(part)
    choice = cfg.model.modalities[modality]
    options = {"n_components": choice.n_components, FITTED: learnt.fitted[modality] if learnt else {}}
    shaped = represent(choice.representation, parts, library, **options)
    log.info("%s: %d features of %d, as %s", modality, shaped[0].n_vars, full[0].n_vars, choice.representation)
    share = {
        "features": chosen.index.to_numpy(),
        "share": chosen["total"].to_numpy() / max(sum(map(np.sum, library)), 1e-12),
    }
    for result, source in zip(shaped, full, strict=True):
        result.obsm["spatial"] = np.asarray(source.obsm["spatial"])
        if counted:
            result.uns[LIBRARY] = share | {"n_read": source.n_vars}
    return shaped


def _sums(table: AnnData) -> np.ndarray:
    return np.asarray(table.X.sum(1)).ravel().astype(np.float64)


def _assemble(cfg: Any, radius: float, p: Placed, image: ImageBlocks, tables: dict[str, AnnData]) -> SpatialData:
    spot_names = p.sdata.shapes[contract.SPOTS].index.tolist()
    given = p.given or Given()
    spot_graph = given.spot_graph or _spot_graph(cfg, p.unit_xy, radius, list(tables.values()))
    out = SpatialData(
        images=dict(p.sdata.images),
        shapes={contract.SPOTS: p.sdata.shapes[contract.SPOTS], contract.SUBSPOTS: p.outlines},
        attrs={contract.ATTRS: contract.facts(p.sdata) | _notes(cfg, p, tables)},
    )
    for modality, table in tables.items():
        table.obs_names = pd.Index(spot_names)
        table.obsm["xy_um"] = np.asarray(table.obsm["spatial"]) * p.um_per_px
        table.obsp[contract.GRAPH] = spot_graph.to_matrix(table.n_obs)
        out.tables[modality] = contract.annotate(table, contract.SPOTS)
    out.tables[contract.IMAGE_FEATURES] = _feature_table(cfg, p, image)
    contract.set_um(out, p.um_per_px)
    return out


def _spot_graph(cfg: Any, unit_xy: np.ndarray, radius: float, tables: Sequence[AnnData]) -> Graph:
    edges = neighbour_edges(unit_xy, radius)
    views = []
    for (_, choice), table in zip(cfg.model.modalities.items(), tables, strict=True):
        likelihood = _likelihood(choice, table.n_vars)
        views.append(likelihood.profile_for_similarity(table.X, table.obs[contract.LIBRARY_SIZE].to_numpy()))
    return Graph(edges, similarity(side_by_side(views), edges, cfg.graph.similarity_scale))


def _likelihood(choice: Any, n_features: int) -> Likelihood:
    return make_likelihood(choice.likelihood, n_features, **dict(choice.options))


def image_table(cfg: Any, p: Placed) -> AnnData:
    """Return the table of image features of one section as `prepare_sections` makes it, with the graph of its subspots."""
    (image,) = image_blocks(cfg, [p], choose_encoders(cfg, [p]))
    return _feature_table(cfg, p, image)


def _feature_table(cfg: Any, p: Placed, image: ImageBlocks) -> AnnData:
    features = np.concatenate([np.zeros((len(p.shapes), 0), dtype=np.float32), *image.values.values()], 1)
    graph = (p.given or Given()).subspot_graph or Graph(
        p.subspot_edges, similarity(features, p.subspot_edges, cfg.graph.similarity_scale)
    )
    encoder = np.repeat(list(image.values), [v.shape[1] for v in image.values.values()])
    table = AnnData(
        X=features.astype(np.float16),
        obs=pd.DataFrame(p.shapes[[contract.PARENT, contract.PARENT_NAME]]),
        var=pd.DataFrame({contract.ENCODER: encoder}, index=[f"image_{i}" for i in range(features.shape[1])]),
    )
    table.uns[REDUCTIONS] = {name: reduction.as_arrays() for name, reduction in image.reductions.items()}
    table.obsm["spatial"] = p.xy_px
    table.obsm["xy_um"] = p.xy_px * p.um_per_px
    table.obsp[contract.GRAPH] = sparse.csr_matrix(graph.to_matrix(table.n_obs))
    return contract.annotate(table, contract.SUBSPOTS, np.arange(len(p.shapes)))


def _notes(cfg: Any, p: Placed, tables: dict[str, AnnData]) -> dict[str, Any]:
    """Say what was done, for the report and for whoever opens the file next year."""
    brings_features = p.given is not None and p.given.features is not None
    return {
        "platform": cfg.platform.name,
        "pitch_um": float(cfg.platform.pitch_um),
        "um_per_px": float(p.um_per_px),
        "subspots_per_spot": subspots_per_spot(p.parent, len(p.unit_xy)),
        "extent": cfg.split.extent if p.given is None else "given",
        "image_encoder": "given" if brings_features else " ".join(filter(None, [cfg.image.encoder, cfg.image.model])),
        **_channel_notes(cfg, p),
        "adds_up": {m: _likelihood(c, 1).adds_up for m, c in cfg.model.modalities.items()},
        "representation": {m: c.representation for m, c in cfg.model.modalities.items()},
        "n_features_read": {m: int(p.sdata.tables[m].n_vars) for m in tables},
    }


def _channel_notes(cfg: Any, p: Placed) -> dict[str, list[str]]:
    """Name the channels encoders saw, in their order, for images that are not plain colour."""
    image = contract.image_of(p.sdata)
    names = contract.channels_of(p.sdata)
    if image is None or (cfg.image.channels is None and is_rgb(image, names)):
        return {}
    return {"image_channels": [names[i] for i in chosen_channels(names, cfg.image.channels, f"section '{p.name}'")]}
