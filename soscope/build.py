"""From config and data to networks: the only place that turns names into modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from soscope.config import paths_of
from soscope.data.field import Components
from soscope.data.module import SectionsDataModule
from soscope.data.section import Section
from soscope.errors import ConfigError
from soscope.finetune import SpatialVAE
from soscope.likelihoods import Likelihood, make_likelihood
from soscope.likelihoods.base import LARGEST_TABLE
from soscope.model_file import Description
from soscope.nn.decoder import FieldDecoder, SpotDecoder, SubspotDecoder
from soscope.nn.encoder import GraphEncoder
from soscope.nn.schedule import Exponential
from soscope.pretrain import GraphAutoencoder
from soscope.released.build import build_released_finetune, build_released_pretrain
from soscope.rows import evenly_spaced
from soscope.stage_module import StageModule, TrainingSettings

Builder = Callable[[Any, SectionsDataModule], StageModule]


@dataclass(frozen=True)
class Objective:
    """What builds the modules of both stages; a new objective is one more of `OBJECTIVES` and a YAML in ``conf/objective``."""

    pretrain: Builder
    finetune: Builder


def build_pretrain(cfg: Any, data: SectionsDataModule) -> StageModule:
    """Build the first stage, its starting values taken from the data."""
    return _objective(cfg).pretrain(cfg, data)


def build_finetune(cfg: Any, data: SectionsDataModule) -> StageModule:
    """Build the second stage; its encoder is to be loaded from the first's file."""
    return _objective(cfg).finetune(cfg, data)


def _objective(cfg: Any) -> Objective:
    if cfg.objective.name not in OBJECTIVES:
        raise ConfigError(f"objective.name={cfg.objective.name} is unknown. Choose from: {', '.join(OBJECTIVES)}.")
    return OBJECTIVES[cfg.objective.name]


def _exact_pretrain(cfg: Any, data: SectionsDataModule) -> GraphAutoencoder:
    torch.manual_seed(cfg.seed)
    encoder = _encoder(cfg, data.sections)
    likelihoods = _likelihoods(cfg, data.sections, per_subspot=False)
    decoder = SpotDecoder(cfg.model.n_latent, cfg.model.n_hidden, _sizes(likelihoods), n_covariates(cfg))
    return GraphAutoencoder(encoder, decoder, likelihoods, _settings(cfg, cfg.pretrain, 1.0))


def _exact_finetune(cfg: Any, data: SectionsDataModule) -> SpatialVAE:
    torch.manual_seed(cfg.seed + 1)
    encoder = _encoder(cfg, data.sections)
    likelihoods = _likelihoods(cfg, data.sections, per_subspot=True)
    decoder = SubspotDecoder(
        cfg.model.n_latent, data.n_image, cfg.model.n_hidden, _sizes(likelihoods), n_covariates(cfg)
    )
    field = _field_decoder(
        data.add_field(likelihoods, cfg.model.n_components, cfg.image.smoothing, cfg.image.weigh_encoders), likelihoods
    )
    return SpatialVAE(encoder, decoder, field, likelihoods, _settings(cfg, cfg.finetune, cfg.image.weight))


def _field_decoder(components: Components, likelihoods: dict[str, Likelihood]) -> FieldDecoder:
    centre, spread, loadings = (
        torch.from_numpy(p).float() for p in (components.centre, components.spread, components.loadings)
    )
    return FieldDecoder(centre, spread, loadings, {m: v.n_features for m, v in likelihoods.items()})


def describe(cfg: Any, data: SectionsDataModule, kind: str) -> Description:
    """Say what a saved ``encoder`` or ``model`` of this run was made for."""
    sizes = {"n_latent": cfg.model.n_latent, "n_hidden": cfg.model.n_hidden, "n_heads": cfg.model.n_heads}
    if kind == "model":
        sizes["n_image"] = data.n_image
    sizes |= {"n_covariates": n_covariates(cfg)} if n_covariates(cfg) else {}
    likelihoods = {m: c.likelihood for m, c in cfg.model.modalities.items()}
    return Description(kind, data.features, likelihoods, sizes)


def _encoder(cfg: Any, sections: Sequence[Section]) -> GraphEncoder:
    views = {}
    for modality, choice in cfg.model.modalities.items():
        n = len(sections[0].modalities[modality].features)
        view = make_likelihood(choice.likelihood, n, **dict(choice.options)).make_view()
        view.fit(*_observed(sections, modality))
        views[modality] = view
    return GraphEncoder(views, cfg.model.n_hidden, cfg.model.n_latent, cfg.model.n_heads, n_covariates(cfg))


def n_covariates(cfg: Any) -> int:
    """Return the number of sections the model tells apart; 0 where there is one, or where it is not to."""
    sections = len(paths_of(cfg))
    return sections if cfg.model.section_covariate and sections > 1 else 0


def _likelihoods(cfg: Any, sections: Sequence[Section], per_subspot: bool) -> dict[str, Likelihood]:
    assigned = sum(int((s.parent >= 0).sum()) for s in sections)
    n_per_spot = assigned / sum(s.n_spots for s in sections) if per_subspot else 1.0
    made = {}
    for modality, choice in cfg.model.modalities.items():
        x, _ = _observed(sections, modality)
        likelihood = make_likelihood(choice.likelihood, x.shape[1], **dict(choice.options))
        likelihood.fit(x, n_per_spot)
        made[modality] = likelihood
    return made


def _observed(sections: Sequence[Section], modality: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return profiles and library sizes that starting values are taken from: of all spots, or evenly spaced ones of very many."""
    parts = [s.modalities[modality] for s in sections]
    rows = [evenly_spaced(p.x.shape[0], p.x.shape[1], LARGEST_TABLE // len(parts)) for p in parts]
    x = torch.cat([torch.from_numpy(p.dense(r)) for p, r in zip(parts, rows, strict=True)])
    return x, torch.cat([torch.from_numpy(p.library_size[r]) for p, r in zip(parts, rows, strict=True)])


def _sizes(likelihoods: dict[str, Likelihood]) -> dict[str, tuple[int, int]]:
    return {m: (v.n_features, v.n_parameters) for m, v in likelihoods.items()}


def _settings(cfg: Any, stage: Any, graph_weight: float) -> TrainingSettings:
    return TrainingSettings(
        seed=cfg.seed,
        mask_share=cfg.objective.mask_share,
        beta=Exponential(**cfg.objective.beta),
        graph_weight=graph_weight,
        n_pairs=cfg.graph.n_pairs,
        learning_rate=stage.learning_rate,
        dropout=cfg.objective.dropout,
        network_share=cfg.model.network_share,
        median_weight=1 / cfg.graph.similarity_scale,
        n_covariates=n_covariates(cfg),
    )


OBJECTIVES = {
    "exact": Objective(_exact_pretrain, _exact_finetune),
    "released": Objective(build_released_pretrain, build_released_finetune),
}
