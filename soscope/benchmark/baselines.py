"""What a method has to beat. Every baseline returns a `Split`, like the model.

A new baseline is one decorated function in this package, imported here.
"""

from __future__ import annotations

import numpy as np

from soscope.benchmark.interpolation import copy_down, linear, linear_to_totals
from soscope.benchmark.observed import SHARE_FLOOR, Observed
from soscope.benchmark.registry import BASELINES, Baseline, baseline
from soscope.benchmark.ridge import ridge_to_totals, total_counts
from soscope.data.section import Section
from soscope.kernels import Places
from soscope.kriging import AreaKriging
from soscope.likelihoods import Likelihood
from soscope.split import Split

__all__ = ["BASELINES", "Baseline", "copy_down", "linear", "linear_to_totals", "ridge_to_totals", "total_counts"]


def applicable(section: Section, likelihood: Likelihood) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Return the baselines a section has the inputs for, and the names of the others with what they miss."""
    missing = {name: made.missing(section, likelihood) for name, made in BASELINES.items()}
    left_out = {name: what for name, what in missing.items() if what is not None}
    return {name: made for name, made in BASELINES.items() if name not in left_out}, left_out


@baseline(needs_counts=True, needs_image=True)
def log_split_average(observed: Observed) -> Split:
    """Average the log-splits of `linear_to_totals` and `ridge_to_totals` equally."""
    totals = observed.to_subspots(observed.x[observed.used])
    logs = []
    for split in (linear_to_totals(observed), ridge_to_totals(observed)):
        share = np.divide(split.mean, totals, out=np.ones_like(totals), where=totals > 0)
        logs.append(np.log(np.maximum(share, SHARE_FLOOR)))
    return observed.with_totals(np.exp(sum(logs) / 2))


def places_of(observed: Observed) -> Places:
    """Return the section's geometry as kriging takes it, all image features as one."""
    section, pitch = observed.section.with_image_as_one(), observed.section.pitch_um
    image, xy = section.image_features[:].astype(np.float64), section.xy_um[observed.used]
    return Places(section.subspot_xy_um / pitch, image, observed.spot, xy / pitch, section.image_blocks)


@baseline()
def kriging(observed: Observed) -> Split:
    """Krige every feature on its own over position and image features, then restore totals."""
    predicted = AreaKriging(places_of(observed))(observed.stabilised())
    return observed.with_totals(observed.unstabilised(predicted))
