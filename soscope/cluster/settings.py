"""How subspots are grouped: the settings ``cluster.*``."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ClusterConfig:
    """Methods, and what each of them tries; ``methods=[]`` groups none.

    Attributes
    ----------
    methods
        Of `soscope.cluster.methods.METHODS`.
    n_components
        Principal components, of z and of enhanced profiles, at most.
    range
        Least and largest number of Gaussian components.
    resolutions
        Of Leiden.
    n_neighbours
        Nearest neighbours of a subspot in Leiden's graph.
    criterion
        Of `soscope.cluster.criteria.CRITERIA`: by what a resolution is chosen.
    fit_on
        Of more subspots, or spots, as many are drawn and the others follow.
    """

    methods: list[str] = field(default_factory=lambda: ["gaussian_mixture", "leiden"])
    n_components: int = 10
    range: list[int] = field(default_factory=lambda: [1, 15])
    resolutions: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0])
    n_neighbours: int = 30
    criterion: str = "stability"
    fit_on: int = 20_000
