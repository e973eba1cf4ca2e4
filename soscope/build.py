"""From config and data to networks: the only place that turns names into modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from soscope.data.module import SectionsDataModule
from soscope.data.section import Section
from soscope.finetune import SpatialVAE
from soscope.likelihoods import Likelihood, make_likelihood
from soscope.model_file import Description
from soscope.nn.decoder import SpotDecoder, SubspotDecoder
from soscope.nn.encoder import GraphEncoder
from soscope.nn.schedule import Exponential
from soscope.pretrain import GraphAutoencoder
from soscope.stage_module import TrainingSettings


def build_pretrain(cfg: Any, data: SectionsDataModule) -> GraphAutoencoder:
    """Build the first stage, its starting values taken from the data."""
    torch.manual_seed(cfg.seed)
    encoder = _encoder(cfg, data.sections)
    likelihoods = _likelihoods(cfg, data.sections, per_subspot=False)
    decoder = SpotDecoder(cfg.model.n_latent, cfg.model.n_hidden, _sizes(likelihoods))
    return GraphAutoencoder(encoder, decoder, likelihoods, _settings(cfg, cfg.pretrain, 1.0))


def build_finetune(cfg: Any, data: SectionsDataModule) -> SpatialVAE:
    """Build the second stage; its encoder is to be loaded from the first's file."""
    torch.manual_seed(cfg.seed + 1)
    encoder = _encoder(cfg, data.sections)
    likelihoods = _likelihoods(cfg, data.sections, per_subspot=True)
    decoder = SubspotDecoder(cfg.model.n_latent, data.n_image, cfg.model.n_hidden, _sizes(likelihoods))
    return SpatialVAE(encoder, decoder, likelihoods, _settings(cfg, cfg.finetune, cfg.image.weight))


def describe(cfg: Any, data: SectionsDataModule, kind: str) -> Description:
    """Say what a saved ``encoder`` or ``model`` of this run was made for."""
    sizes = {"n_latent": cfg.model.n_latent, "n_hidden": cfg.model.n_hidden, "n_heads": cfg.model.n_heads}
    if kind == "model":
        sizes["n_image"] = data.n_image
    likelihoods = {m: c.likelihood for m, c in cfg.model.modalities.items()}
    return Description(kind, data.features, likelihoods, sizes)


def _encoder(cfg: Any, sections: Sequence[Section]) -> GraphEncoder:
    views = {}
    for modality, choice in cfg.model.modalities.items():
        n = len(sections[0].modalities[modality].features)
        view = make_likelihood(choice.likelihood, n, **dict(choice.options)).make_view()
        view.fit(*_observed(sections, modality))
        views[modality] = view
    return GraphEncoder(views, cfg.model.n_hidden, cfg.model.n_latent, cfg.model.n_heads)


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
    parts = [s.modalities[modality] for s in sections]
    x = torch.cat([torch.from_numpy(p.dense(slice(None))) for p in parts])  # type: ignore[arg-type]
    return x, torch.cat([torch.from_numpy(p.library_size) for p in parts])


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
        median_weight=1 / cfg.graph.similarity_scale,
    )
