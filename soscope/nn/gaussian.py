"""The diagonal normal distribution of the latent state."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Latent(NamedTuple):
    """Normal q(z | X, A): ``mean`` and ``scale``, each ``(n_spots, n_latent)``."""

    mean: Tensor
    scale: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Move standard normal ``noise`` to this distribution."""
        return self.mean + self.scale * noise.to(self.mean.dtype)

    def kl(self) -> Tensor:
        """Return KL(q || N(0, I)) of each spot, summed over latent dimensions, shape ``(n_spots,)``."""
        variance = self.scale.square()
        return 0.5 * (self.mean.square() + variance - 1 - variance.log()).sum(-1)
