"""The six recipes at reduced size: each as its page gives it, on a small section of the same kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from space_ranger import write_folder
from test_read_released import K, N, write_released

from soscope import contract, infer, two_step_train
from soscope.conf_files import conf_dir
from soscope.errors import DataError
from soscope.likelihoods.counts import NegativeBinomialLikelihood, PoissonLikelihood
from soscope.likelihoods.gaussian import GaussianLikelihood
from soscope.read import DemoReader, make_reader
from soscope.run import Run

ROOT = Path(__file__).parents[1]
RECIPES = sorted(f.stem.removeprefix("recipe_") for f in (conf_dir() / "experiment").glob("recipe_*.yaml"))
SHORT = ["debug=fast", "trainer.progress=false", "report.n_features=1", "report.dpi=30"]
