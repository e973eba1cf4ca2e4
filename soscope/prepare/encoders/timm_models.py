"""Any model of timm or of the Hugging Face hub as an encoder."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from soscope.errors import ConfigError, DataError
from soscope.prepare.encoders.base import ImageEncoder
from soscope.prepare.encoders.hub import is_on_hub, unreachable
from soscope.prepare.encoders.networks import WithWeights
from soscope.prepare.encoders.weights import load_weights, weights_identity


@dataclass(eq=False, kw_only=True)
class TimmModel(WithWeights, name="timm"):
    """The pooled features of a network, inputs scaled as it was trained.

    Attributes
    ----------
    model
        Name in timm, or ``hf-hub:owner/model``.
    architecture
        Name in timm of the same network, from which it is built where ``weights`` are given: nothing is asked of the hub then.
    mean, std
        Of the three colours, when they are others than timm's own for the model.
    network_options
        Whatever else is in ``image.options``: arguments of the network. Names of layers, such as ``mlp_layer: SwiGLUPacked``,
        stand for those of timm and torch.
    """

    model: str
    architecture: str | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    network_options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Mapping[str, Any], options: Mapping[str, Any]) -> ImageEncoder:
        """Take options that are not the encoder's own as arguments of the network, which knows them."""
        own = {f.name for f in fields(cls)} - {"network_options"}
        rest = {key: value for key, value in options.items() if key not in own}
        mine = {key: value for key, value in options.items() if key in own}
        return super().of(settings, mine | ({"network_options": rest} if rest else {}))

    def __post_init__(self) -> None:
        from timm.data import resolve_model_data_config

        super().__post_init__()
        args = {"mean": self.mean, "std": self.std, "img_size": self.network_options.get("img_size")}
        data = resolve_model_data_config(self.network, args={k: v for k, v in args.items() if v is not None})
        self.input_px = int(data["input_size"][-1])
        self.scale = [torch.tensor(data[key]).view(1, 3, 1, 1) for key in ("mean", "std")]
        self.n_features = self._width()

    def _network(self) -> nn.Module:
        network = _create(self._source(), self.weights is None, layers_by_name(self.network_options))
        if self.weights is not None:
            _fill(network, load_weights(self.weights), self.weights)
        return network

    def _source(self) -> str:
        return self.architecture if self.architecture and self.weights is not None else self.model

    def _width(self) -> int:
        with torch.inference_mode():
            out = self(torch.zeros(1, 3, self.input_px, self.input_px))
        if out.ndim != 2:
            raise ConfigError(
                f"image.model='{self.model}' gives {tuple(out.shape[1:])} for a patch, not a row of features. Name another "
                "pooling, as in +image.options.global_pool=avg."
            )
        return out.shape[1]

    def __call__(self, patches: Tensor) -> Tensor:
        """Scale patches as the model was trained, and encode them."""
        mean, std = self.scale
        try:
            return self.network((patches - mean) / std)
        except (AssertionError, RuntimeError) as error:
            raise ConfigError(
                f"image.model='{self.model}' does not take patches of {patches.shape[-1]} px ({error}). Leave image.input_px out "
                f"for the model's own {self.input_px}, or let it adapt: +image.options.dynamic_img_size=true."
            ) from error

    def identity(self) -> str:
        """Add the model, its weights and all options."""
        tag = getattr(self.network, "pretrained_cfg", {}).get("tag", "")
        options = json.dumps([self._source(), tag, self.mean, self.std, self.network_options], sort_keys=True)
        return f"{self.name}-1-{self.model}-{weights_identity(self.weights)}-{options}"


def layers_by_name(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace names of classes, in options that end in ``_layer``, by the layers of timm or torch of that name.

    Names in small letters are timm's own and stay.
    """
    named = {k for k, v in options.items() if k.endswith("_layer") and isinstance(v, str) and v[:1].isupper()}
    return {k: _layer(k, v) if k in named else v for k, v in options.items()}


def _layer(option: str, name: str) -> Any:
    from timm import layers

    for module in (layers, nn):
        found = getattr(module, name, None)
        kind = found.func if isinstance(found, partial) else found
        if isinstance(kind, type) and issubclass(kind, nn.Module):
            return found
    raise ConfigError(
        f"image.options.{option}={name} is no layer of timm.layers or torch.nn (such as SwiGLUPacked, SiLU)."
    )


def _create(model: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """Build a network without its classifier; one message for a wrong name, wrong options, and weights that cannot be had."""
    import timm

    if not is_on_hub(model) and not timm.is_model(model):
        close = difflib.get_close_matches(model.split(".")[0], timm.list_models(), n=3)
        hint = f"Close to it: {', '.join(close)}. " if close else ""
        raise ConfigError(
            f"image.model='{model}' is no model of timm. {hint}timm.list_models() lists them; a model of the hub is named "
            "hf-hub:owner/model."
        )
    try:
        return timm.create_model(model, pretrained=pretrained, num_classes=0, **options)
    except (TypeError, AttributeError, AssertionError) as error:
        raise ConfigError(f"image.model='{model}' cannot be built with image.options={options} ({error}).") from error
    except Exception as error:
        raise unreachable(model, error) from error


def _fill(network: nn.Module, state: dict[str, Tensor], file: str) -> None:
    """Load weights by name, strictly but for the classifier that was left out."""
    cfg = getattr(network, "pretrained_cfg", {})
    classifier = cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    kept = {k: v for k, v in state.items() if not k.startswith(tuple(f"{h}." for h in heads))}
    own = network.state_dict()
    missing = sorted(own.keys() - kept.keys())
    foreign = sorted(kept.keys() - own.keys())
    differ = sorted(k for k in own.keys() & kept.keys() if own[k].shape != kept[k].shape)
    if missing or foreign or differ:
        first = (missing or foreign or differ)[0]
        raise DataError(
            f"image.weights='{file}' does not fit the network: {len(missing)} tensors are missing, {len(foreign)} unknown, "
            f"{len(differ)} of another shape (first: '{first}'). Check image.model, image.options and the file."
        )
    network.load_state_dict(kept)
