"""From config and data to the published program's modules."""

from __future__ import annotations

from typing import Any

import torch

from soscope.data.module import SectionsDataModule
from soscope.demos import demo_of
from soscope.errors import ConfigError
from soscope.nn.schedule import Exponential
from soscope.released.likelihoods import ReleasedLikelihood, make_released
from soscope.released.networks import ReleasedEncoder, ReleasedSpotDecoder, ReleasedSubspotDecoder
from soscope.released.stages import OPTIMIZERS, ReleasedSettings, ReleasedSVAE, ReleasedVGAE

S_RANGE = 100.0
"""The largest standard deviation of a real-valued subspot over the smallest, ``scale / K``."""


def build_released_pretrain(cfg: Any, data: SectionsDataModule) -> ReleasedVGAE:
    """Build the published first stage."""
    torch.manual_seed(cfg.seed)
    demo = demo_of(cfg).pretrain
    encoder = _encoder(cfg, data)
    decoder = ReleasedSpotDecoder(cfg.model.n_latent, cfg.model.n_hidden, _n_features(data))
    likelihoods = _likelihoods(cfg, data, demo.scale, demo.scale)
    return ReleasedVGAE(encoder, decoder, likelihoods, _settings(cfg, cfg.pretrain, demo, 1.0))  # type: ignore[arg-type]


def build_released_finetune(cfg: Any, data: SectionsDataModule) -> ReleasedSVAE:
    """Build the published second stage; its encoder is to be loaded from the first's file."""
    torch.manual_seed(cfg.seed + 1)
    demo = demo_of(cfg).finetune
    encoder = _encoder(cfg, data)
    decoder = ReleasedSubspotDecoder(cfg.model.n_latent, data.n_image, cfg.model.n_hidden, _n_features(data))
    lowest = demo.scale / _n_per_spot(data)
    likelihoods = _likelihoods(cfg, data, lowest, S_RANGE * lowest)
    return ReleasedSVAE(encoder, decoder, likelihoods, _settings(cfg, cfg.finetune, demo, cfg.image.weight))


def _encoder(cfg: Any, data: SectionsDataModule) -> ReleasedEncoder:
    n_features = sum(_n_features(data).values())
    return ReleasedEncoder(n_features, cfg.model.n_hidden, cfg.model.n_latent, cfg.model.n_heads)


def _likelihoods(cfg: Any, data: SectionsDataModule, low: float, high: float) -> dict[str, ReleasedLikelihood]:
    made = {}
    for modality, n in _n_features(data).items():
        choice = cfg.model.modalities[modality]
        made[modality] = make_released(choice.likelihood, n, **dict(choice.options))
        made[modality].bound(low, high)
    return made


def _n_features(data: SectionsDataModule) -> dict[str, int]:
    return {modality: len(names) for modality, names in data.features.items()}


def _n_per_spot(data: SectionsDataModule) -> float:
    return sum(int((s.parent >= 0).sum()) for s in data.sections) / sum(s.n_spots for s in data.sections)


def _settings(cfg: Any, stage: Any, demo: Any, graph_weight: float) -> ReleasedSettings:
    if demo.optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer '{demo.optimizer}' is unknown. Choose from: {', '.join(OPTIMIZERS)}.")
    return ReleasedSettings(
        seed=cfg.seed,
        beta=Exponential(**(demo.beta or cfg.objective.beta)),
        graph_weight=graph_weight,
        n_pairs=cfg.graph.n_pairs,
        learning_rate=stage.learning_rate,
        scale=demo.scale,
        scales=dict(demo.scales),
        gamma=Exponential(**demo.gamma),
        optimizer=demo.optimizer,
    )
