"""What `soscope benchmark` compares: baselines, and models trained as `soscope train` trains them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from omegaconf import open_dict

from soscope.benchmark.baselines import BASELINES
from soscope.benchmark.cases import Case
from soscope.benchmark.summary import OURS
from soscope.config_checks import check
from soscope.cost import Cost, measured
from soscope.errors import ConfigError
from soscope.folder import RunFolder
from soscope.loggers import make_loggers
from soscope.run import TRAINING, do_stages
from soscope.split import Split
from soscope.stages import Run, divide

TRAINED = ("pretrain", "finetune")


@dataclass
class Bench:
    """One section of a benchmark: its own config and folder of prepared data, and a case per modality."""

    run: Run
    cases: dict[str, Case]


@dataclass
class Method(ABC):
    """A way to split spots that can be scored."""

    name: str
    seeded: ClassVar[bool]
    """Whether its result depends on the seed."""

    @abstractmethod
    def missing(self, case: Case) -> str | None:
        """Say what a case has not got that this method needs, or return ``None``."""

    @abstractmethod
    def split(self, bench: Bench, seed: int, folder: Path) -> tuple[dict[str, Split], Cost]:
        """Split every modality of a section; what has to be kept on the way goes into ``folder``."""


class BaselineMethod(Method):
    """One of the baselines; the same whatever the seed."""

    seeded = False

    def missing(self, case: Case) -> str | None:
        """Ask the baseline."""
        return BASELINES[self.name].missing(case.section, case.likelihood)

    def split(self, bench: Bench, seed: int, folder: Path) -> tuple[dict[str, Split], Cost]:
        """Split, and measure that alone."""
        with measured() as cost:
            splits = {m: BASELINES[self.name](c.section, m, c.likelihood) for m, c in bench.cases.items()}
        return splits, cost


class TrainedMethod(Method):
    """A model, trained and divided by the stages of `soscope train` in a run folder of its own."""

    seeded = True

    def missing(self, case: Case) -> str | None:
        """Models take whatever there is."""
        return None

    def split(self, bench: Bench, seed: int, folder: Path) -> tuple[dict[str, Split], Cost]:
        """Train what is not yet trained, and divide; the cost is that of both stages and of dividing."""
        run = self.run(bench, seed, folder)
        run.folder.claim(run.cfg)
        run.loggers = make_loggers(run.cfg, folder)
        do_stages(run, TRAINING.stages, list(TRAINED))
        with measured() as cost:
            section, divider = next(divide(run))
            splits = divider.split(np.arange(section.n_subspots), with_cdf=True)
        marks = run.folder.marks()
        before = [Cost(marks[stage]["seconds"], marks[stage]["peak_mb"]) for stage in TRAINED]
        return splits, Cost.total([*before, cost])

    def run(self, bench: Bench, seed: int, folder: Path) -> Run:
        """Return the run that trains it, on the benchmark's prepared section."""
        cfg = model_config(bench.run.cfg, self.name, seed)
        kept = RunFolder(folder, prepared_in=bench.run.folder.prepared_in)
        return Run(cfg, kept, [], bench.run.inputs)


def model_config(cfg: Any, name: str, seed: int) -> Any:
    """Return the config a model is trained with: the command's, with ``benchmark.models.<name>`` and the seed over it."""
    own: Any = copy.deepcopy(cfg)
    with open_dict(own):  # some settings are dictionaries of free keys; others stay as typed as they are
        own.merge_with(cfg.benchmark.models[name])
    own.seed = seed
    return own


def choose_methods(cfg: Any) -> list[Method]:
    """Return the methods of ``benchmark.methods`` in their order; all baselines, then ours, by default.

    Raises
    ------
    ConfigError
        For an unknown method, and for a model whose settings cannot run.
    """
    known: dict[str, Method] = {name: BaselineMethod(name) for name in BASELINES}
    known |= {name: TrainedMethod(name) for name in cfg.benchmark.models}
    wanted = [*BASELINES, OURS] if cfg.benchmark.methods is None else list(cfg.benchmark.methods)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(f"benchmark.methods: '{unknown[0]}' is unknown. Choose from: {', '.join(known)}.")
    for name in cfg.benchmark.models:
        if name in wanted:
            check(model_config(cfg, name, cfg.benchmark.seeds[0]))
    return [known[name] for name in dict.fromkeys(wanted)]
