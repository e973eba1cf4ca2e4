"""Runs: a plan's stages in order, each skipped when the run folder already holds what it makes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from soscope import artifacts, stages
from soscope.benchmark.comparison import as_table
from soscope.config import features_wanted, paths_of, resolved, section_names
from soscope.config_checks import check
from soscope.cost import measured
from soscope.dry_run import say_estimates
from soscope.errors import ConfigError
from soscope.folder import RunFolder
from soscope.likelihoods import make_likelihood
from soscope.loggers import Artifact, check_logger, finish, make_loggers
from soscope.prepare.encoders.precomputed import PLACEHOLDER, feature_files
from soscope.provenance import check_inputs, note_stage
from soscope.read import make_reader
from soscope.read.base import hash_files
from soscope.sharing import is_main_process
from soscope.stages import Run, console

TRAINED_MODEL = "trained model"
"""Name of the model that is applied among the inputs of a run."""


@dataclass(frozen=True)
class Stage:
    """One step of a plan.

    Attributes
    ----------
    do
        What is done.
    settings
        Parts of the config, by full key, that may change afterwards; the stage is then done again.
    on_every_rank
        Whether all processes that train together do it.
    leaves
        Later stages that do not look at what this one makes, and so stay done when it is done again.
    makes
        Tells loggers what it has made, and from what.
    """

    do: Callable[[Run], None]
    settings: tuple[str, ...] = ()
    on_every_rank: bool = False
    leaves: tuple[str, ...] = ()
    makes: Callable[[Run], list[Artifact]] | None = None


@dataclass(frozen=True)
class Plan:
    """What a verb does.

    Attributes
    ----------
    stages
        In order.
    check
        Raises `ConfigError` for settings these stages cannot run with.
    say
        Tells at the end where the results are.
    asked
        Stages that a setting of their own asks for, besides those named by ``stages``.
    """

    stages: Mapping[str, Stage]
    check: Callable[[Any], None]
    say: Callable[[Run], None]
    asked: tuple[str, ...] = ()


def execute(
    cfg: Any,
    path: Path,
    plan: Plan | None = None,
    force: tuple[str, ...] = (),
    watching: Mapping[str, Sequence[Any]] | None = None,
) -> RunFolder:
    """Run the stages of a config in a folder.

    Parameters
    ----------
    cfg
        Config of `soscope.schema.Config`'s shape.
    path
        The run folder; what it already holds is not done again.
    plan
        The stages there are; `TRAINING` by default.
    force
        Stages to do again whatever is there.
    watching
        Callbacks of Lightning by stage, besides the stage's own.

    Raises
    ------
    SoScopeError
        One of its kinds, before anything earlier is touched, for settings or data that cannot be used.
    """
    plan = plan or TRAINING
    check(cfg)
    check_logger(cfg)
    plan.check(cfg)
    for modality in cfg.model.modalities.values():
        make_likelihood(modality.likelihood, 1, **dict(modality.options))
    reader = make_reader(cfg.data.reader, dict(cfg.data.options))
    folder = RunFolder(path)
    inputs = (_input_hashes(reader, cfg) if "prepare" in cfg.stages else {}) | _hash_of_model(cfg)
    check_inputs(folder, inputs)
    folder_is_new = not folder.config_file.is_file()
    folder.claim(cfg)
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    console.print(f"[bold]{path}[/bold]{'' if folder_is_new else '  (coming back)'}")
    if cfg.dry_run:
        run = Run(cfg, folder, [], inputs)
        do_stages(run, plan.stages, ["prepare"])
        say_estimates(run)
        return folder
    run = Run(cfg, folder, make_loggers(cfg, path), inputs, watching or {})
    do_stages(run, plan.stages, [s for s in plan.stages if s in (*cfg.stages, *plan.asked)], force)
    if is_main_process():
        folder.keep(cfg)
        plan.say(run)
    return folder


def do_stages(run: Run, known: Mapping[str, Stage], wanted: list[str], force: tuple[str, ...] = ()) -> None:
    """Do the wanted ones of the known stages, and close the loggers whatever happens."""
    status = "failed"
    try:
        for name in wanted:
            _stage(run, known, name, name in force)
        status = "success"
    finally:
        finish(run.loggers, status)


def _stage(run: Run, known: Mapping[str, Stage], name: str, force: bool) -> None:
    """Do one stage unless it is done, and note it."""
    stage, plain = known[name], resolved(run.cfg)
    settings = {key: reduce(getitem, key.split("."), plain) for key in stage.settings}
    if run.folder.is_done(name, settings) and not force:
        console.print(f"[dim]{name}: done before[/dim]")
        return
    if not stage.on_every_rank and not is_main_process():
        return
    again = " [dim](again: its settings have changed)[/dim]"
    console.print(f"[bold]{name}[/bold]{again if name in run.folder.marks() and not force else ''}")
    with measured() as cost:
        stage.do(run)
    if is_main_process():
        note_stage(run.folder, run.cfg, name, run.inputs)
        _tell(run, stage)
        names = list(known)
        later = [n for n in names[names.index(name) + 1 :] if n not in stage.leaves]
        run.folder.mark(name, settings, cost, tuple(later))
    console.print(f"  {name} took {cost.seconds:.1f} s")


def _tell(run: Run, stage: Stage) -> None:
    """Tell loggers what a stage has made; before it counts as done, so that a run stopped meanwhile comes back to it."""
    keepers = [logger for logger in run.loggers if logger.keeps_artifacts]
    if not (keepers and stage.makes):
        return
    for made in stage.makes(run):
        for logger in keepers:
            logger.keep(made)


def _say_where(run: Run) -> None:
    if "report" not in run.folder.marks():
        return
    if run.folder.comparison_file.is_file():
        console.print(as_table(pd.read_csv(run.folder.comparison_file)))
    console.print("Results")
    for section in run.sections:
        console.print(f"  {run.folder.result(section)}  (SpatialData)")
        for modality in run.modalities:
            console.print(f"  {run.folder.table(section, modality)}  (AnnData)")
            if run.cfg.enhance.draws:
                console.print(
                    f"  {run.folder.draws(section, modality)}  ({run.cfg.enhance.draws:,} posterior draws, zarr)"
                )
    console.print(f"  {run.folder.report_file}  (pictures; also one by one in {run.folder.pictures})")


def _check_devices(cfg: Any) -> None:
    """Refuse devices this machine has not got; whether there are enough tiles for them is known once sections are read."""
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu, but torch sees no CUDA device. Use trainer=cpu.")


def _input_hashes(reader: Any, cfg: Any) -> dict[str, str]:
    files = [f for path in paths_of(cfg) for f in (reader.inputs(path) if path or not reader.needs_path else [])]
    if reader.needs_path and None in paths_of(cfg):
        raise ConfigError(f"data={cfg.data.reader} needs data.path=FOLDER.")
    wanted = [features_wanted(cfg, modality) for modality in cfg.model.modalities]
    named = [cfg.image.weights, cfg.data.truth, *(w for w in wanted if isinstance(w, str))]
    features = [] if cfg.image.features is None else feature_files(cfg.image.features, section_names(cfg))
    given = [Path(n).expanduser() for n in named if n]
    return hash_files([f for f in (*files, *given, *features) if f.is_file()])


def _hash_of_model(cfg: Any) -> dict[str, str]:
    """Return the hash of the trained model that is applied, wherever it lies: another model is another input."""
    file = None if cfg.run is None else RunFolder(Path(cfg.run).expanduser()).model_file
    return {TRAINED_MODEL: hash_files([file])[str(file)]} if file and file.is_file() else {}


TRAINING = Plan(
    stages={
        "prepare": Stage(stages.prepare, makes=artifacts.prepared),
        "pretrain": Stage(stages.pretrain, on_every_rank=True, makes=artifacts.encoder),
        "finetune": Stage(stages.finetune, on_every_rank=True, makes=artifacts.model),
        "enhance": Stage(stages.enhance, settings=("enhance",), on_every_rank=True, makes=artifacts.results),
        "cluster": Stage(stages.cluster, settings=("cluster",)),
        "report": Stage(stages.report, settings=("report",)),
    },
    check=_check_devices,
    say=_say_where,
)

APPLYING = Plan(
    stages={name: TRAINING.stages[name] for name in ("prepare", "enhance", "cluster", "report")},
    check=_check_devices,
    say=_say_where,
)
"""A trained model for sections it has not seen."""


def unseen_config(trained: Any, folder: Path, stages: Sequence[str] = tuple(APPLYING.stages)) -> Any:
    """Return a trained run's config for sections it has not seen; the caller says in ``data`` which.

    Parameters
    ----------
    trained
        The config it was trained with; it is left as it is.
    folder
        Its run folder.
    stages
        What to do, of `APPLYING`.

    Notes
    -----
    What belongs to the sections it was trained on is reset: nothing is held out, there is no truth, nothing to validate and no
    feature to be shown; image features of a file are those of its sections, unless the file is named by section.
    """
    cfg = copy.deepcopy(trained)
    cfg.run, cfg.stages = str(folder.expanduser().absolute()), list(stages)
    cfg.data.held_out, cfg.data.truth, cfg.validate, cfg.report.features = 0.0, None, False, None
    if PLACEHOLDER not in str(cfg.image.features):
        cfg.image.features = None
    return cfg
