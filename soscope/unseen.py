"""A trained model for sections it has not seen, with all of its features or some of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soscope.build import build_finetune
from soscope.data.field import Components
from soscope.data.module import SectionsDataModule
from soscope.errors import ConfigError
from soscope.model_file import load_tensors, read_module
from soscope.stage_module import StageModule


def load_unseen(trained: Any, file: Path, data: SectionsDataModule) -> StageModule:
    """Build a trained model for other sections, prepared by what was learnt of those it was trained on.

    Parameters
    ----------
    trained
        Config it was trained with.
    file
        Its file.
    data
        The sections; features that they lack are left out of the model.

    Raises
    ------
    ModelFileError
        When the file does not fit the config, or the sections' image features.
    ConfigError
        For an objective that needs all its features.

    Notes
    -----
    The encoder sees a feature that is left out at its mean: its column of standardised profiles is zero, and so needs no weight.
    """
    content = read_module(file, "model")
    there = {m: len(names) for m, names in content["features"].items()}
    chosen = {m: _places(content["features"][m], names) for m, names in data.features.items()}
    state = content["state"]
    if any(len(chosen[m]) < n for m, n in there.items()):
        if "field_decoder.loadings" not in state:
            raise ConfigError(
                f"objective={trained.objective.name} needs all features of the model, and the sections have some. Train with "
                "objective=exact."
            )
        state = state_of_features(state, chosen, there)
    if "field_decoder.loadings" in state:
        known = (state[f"field_decoder.{name}"].double().numpy() for name in ("centre", "spread", "loadings"))
        data.known_components = Components(*known)
    model = build_finetune(trained, data)
    model.settings.known_sections = False
    load_tensors(model, state, file)
    return model


def _places(there: list[str], here: list[str]) -> np.ndarray:
    place = {name: i for i, name in enumerate(there)}
    return np.array([place[name] for name in here], dtype=np.int64)


def state_of_features(
    state: Mapping[str, Tensor], chosen: Mapping[str, np.ndarray], there: Mapping[str, int]
) -> dict[str, Tensor]:
    """Return a model's tensors for some of its features.

    Parameters
    ----------
    state
        Tensors by name.
    chosen
        Per modality the features to keep.
    there
        Per modality the number of features the model has.
    """
    starts = dict(zip(there, np.cumsum([0, *there.values()]), strict=False))
    columns = torch.from_numpy(np.concatenate([starts[m] + chosen[m] for m in there]))
    seen = torch.from_numpy(_seen_columns(state, chosen, there))
    kept = dict(state)
    for name, value in state.items():
        if name in ("field_decoder.centre", "field_decoder.spread"):
            kept[name] = value[columns]
        elif name == "field_decoder.loadings":
            kept[name] = value[:, columns]
        elif name.startswith("encoder.first.") and value.ndim == 2 and value.shape[1] > 1:
            kept[name] = torch.cat([value[:, seen], value[:, _n_seen(state, there) :]], 1)
    for m, n in there.items():
        index = torch.from_numpy(chosen[m])
        for name, value in state.items():
            if name.startswith(f"likelihoods.{m}.") and value.shape[:1] == (n,):
                kept[name] = value[index]
            elif name.startswith(f"decoder.heads.maps.{m}."):
                kept[name] = value.unflatten(0, (n, -1))[index].flatten(0, 1)
            elif name in (f"encoder.views.{m}.location", f"encoder.views.{m}.spread"):
                kept[name] = torch.cat([value[:n][index], value[n:]])
    return kept


def _width(state: Mapping[str, Tensor], modality: str) -> int:
    """Return how many columns the encoder sees of a modality: one a feature first, and then what else there is."""
    return len(state[f"encoder.views.{modality}.location"])


def _n_seen(state: Mapping[str, Tensor], there: Mapping[str, int]) -> int:
    return sum(_width(state, m) for m in there)


def _seen_columns(
    state: Mapping[str, Tensor], chosen: Mapping[str, np.ndarray], there: Mapping[str, int]
) -> np.ndarray:
    """Return the columns of the encoder's input that stay, of all modalities side by side."""
    parts, start = [], 0
    for m, n in there.items():
        width = _width(state, m)
        parts += [start + chosen[m], np.arange(start + n, start + width)]
        start += width
    return np.concatenate(parts)
