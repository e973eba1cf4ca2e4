"""How profiles arise from decoder output. Importing this package registers the likelihoods."""

from soscope.likelihoods.base import LIKELIHOODS, Likelihood, Params, make_likelihood
from soscope.likelihoods.counts import CountLikelihood, NegativeBinomial, Poisson
from soscope.likelihoods.gaussian import Gaussian

__all__ = [
    "LIKELIHOODS",
    "CountLikelihood",
    "Gaussian",
    "Likelihood",
    "NegativeBinomial",
    "Params",
    "Poisson",
    "make_likelihood",
]
