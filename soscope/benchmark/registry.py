"""What a baseline is. A new one is a decorated function; nothing else lists them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from soscope.benchmark.observed import Observed
from soscope.data.section import Section
from soscope.likelihoods import Likelihood
from soscope.split import Split


@dataclass(frozen=True)
class Baseline:
    """A way to split spots without training a model.

    Attributes
    ----------
    divide
        From observed profiles to a split.
    needs_counts
        Divides by shares of counts, which real values have not got.
    needs_image
        Looks at image features.
    """

    divide: Callable[[Observed], Split]
    needs_counts: bool = False
    needs_image: bool = False

    def __call__(self, section: Section, modality: str, likelihood: Likelihood) -> Split:
        """Split one modality of a section."""
        return self.divide(Observed(section, modality, likelihood))

    def missing(self, section: Section, likelihood: Likelihood) -> str | None:
        """Say what the section has not got that this baseline needs, or return ``None``."""
        if self.needs_counts and not likelihood.sparse_result:
            return "counts"
        if self.needs_image and not section.image_features.shape[1]:
            return "image features"
        return None


BASELINES: dict[str, Baseline] = {}


def baseline(needs_counts: bool = False, needs_image: bool = False) -> Callable:
    """Register the function below as a baseline under its own name."""

    def register(divide: Callable[[Observed], Split]) -> Callable[[Observed], Split]:
        BASELINES[divide.__name__] = Baseline(divide, needs_counts, needs_image)
        return divide

    return register
