"""The ordered stages of a run, each skipped when the run folder already holds what it makes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from anndata import read_h5ad
from rich.console import Console

from soscope import contract
from soscope.benchmark.comparison import as_table, compare
from soscope.build import build_finetune, build_pretrain, describe
from soscope.config import STAGES, check, paths_of, resolved, section_names
from soscope.data.module import SectionsDataModule
from soscope.data.section import Section
from soscope.enhance import add_result, split_tile, write_h5ad
from soscope.errors import ConfigError
from soscope.finetune import SpatialVAE
from soscope.folder import RunFolder, write_text
from soscope.likelihoods import Likelihood, make_likelihood
from soscope.loggers import check_logger, finish, log_images, make_loggers
from soscope.model_file import load_module, save_module
from soscope.prepare.pipeline import prepare_sections
from soscope.provenance import check_inputs, note_stage
from soscope.read import make_reader
from soscope.read.base import hash_files
from soscope.report.page import write_report
from soscope.split import Split
from soscope.training import count_devices, fit_stage, is_main_process, wait_for_all

log = logging.getLogger("soscope")
console = Console(stderr=False, soft_wrap=True)


@dataclass
class Run:
    """Config, folder, loggers and input hashes of a run, and its data once a stage needs them."""

    cfg: Any
    folder: RunFolder
    loggers: list[Any]
    inputs: dict[str, str]
    _data: SectionsDataModule | None = None

    @property
    def sections(self) -> list[str]:
        """Names of the sections."""
        return section_names(self.cfg)

    @property
    def modalities(self) -> list[str]:
        """Names of the tables the model uses."""
        return list(self.cfg.model.modalities)

    def data(self) -> SectionsDataModule:
        """Load the prepared sections, once."""
        if self._data is None:
            paths = [self.folder.prepared(s) for s in self.sections]
            self._data = SectionsDataModule(
                paths, self.modalities, self.cfg.model.z_width, self.cfg.data.held_out, self.cfg.seed
            )
            self._data.setup()
        return self._data


def prepare(run: Run) -> None:
    """Read, check and prepare all sections; the truth of a simulated one is kept aside."""
    reader = make_reader(run.cfg.data.reader, dict(run.cfg.data.options))
    paths = paths_of(run.cfg)
    raw = [reader.read(path) for path in paths]
    sections = prepare_sections(run.cfg, [r.sdata for r in raw])
    for source, sdata in zip(raw, sections, strict=True):
        contract.write_section(sdata, run.folder.prepared(source.name))
        if source.truth is not None:
            contract.write_table(source.truth, run.folder.truth(source.name))
        spots, subspots = len(sdata.shapes[contract.SPOTS]), len(sdata.shapes[contract.SUBSPOTS])
        console.print(f"  {source.name}: {spots:,} spots, {subspots:,} subspots")


def pretrain(run: Run) -> None:
    """Train the graph autoencoder and write its encoder."""
    data = run.data()
    module = build_pretrain(run.cfg, data)
    fit_stage(run.cfg, module, data, run.cfg.pretrain, run.folder.encoder_file.parent, run.loggers)
    if is_main_process():
        save_module(module.encoder, describe(run.cfg, data, "encoder"), run.folder.encoder_file)
    wait_for_all()


def finetune(run: Run) -> None:
    """Train the spatial VAE from the pretrained encoder and write the model."""
    data = run.data()
    module = build_finetune(run.cfg, data)
    load_module(module.encoder, describe(run.cfg, data, "encoder"), run.folder.encoder_file)
    fit_stage(run.cfg, module, data, run.cfg.finetune, run.folder.model_file.parent, run.loggers)
    if is_main_process():
        save_module(module, describe(run.cfg, data, "model"), run.folder.model_file)
    wait_for_all()


def enhance(run: Run) -> None:
    """Divide the spots of every section with the trained model and write the results."""
    data = run.data()
    model = build_finetune(run.cfg, data)
    load_module(model, describe(run.cfg, data, "model"), run.folder.model_file)
    scores = []
    for section, tile in zip(data.sections, data.tiles, strict=True):
        splits, latent = split_tile(model, tile, run.cfg.enhance.posterior)
        prepared = contract.open_section(run.folder.prepared(section.name))
        result = add_result(prepared, section, splits, latent, run.cfg.enhance.posterior)
        contract.write_section(result, run.folder.result(section.name))
        for modality in splits:
            write_h5ad(result, modality, run.folder.table(section.name, modality))
        scores += _against_truth(run, model, section, splits, prepared.shapes[contract.SUBSPOTS].index)
    if scores:
        write_text(run.folder.comparison_file, pd.concat(scores).to_csv(index=False))


def _against_truth(
    run: Run, model: SpatialVAE, section: Section, splits: dict[str, Split], subspots: pd.Index
) -> list[pd.DataFrame]:
    """Score a simulated section; real ones have no truth, and other splits than the simulated one no counterpart."""
    file = run.folder.truth(section.name)
    if not file.is_file():
        return []
    truth = read_h5ad(file)
    rows = []
    for modality, split in splits.items():
        likelihood: Likelihood = model.likelihoods[modality]  # type: ignore[assignment]
        known = set(section.modalities[modality].features) <= set(truth.var_names)
        if likelihood.sparse_result and known and truth.obs_names.equals(subspots):
            rows.append(compare(section, modality, likelihood, split, truth))
    return rows


def report(run: Run) -> None:
    """Draw the pictures, write the page, and send pictures to the loggers that take any."""
    pictures = write_report(run.cfg, run.folder, run.sections, run.modalities)
    log_images(run.loggers, pictures)


STAGE_FUNCTIONS: dict[str, Callable[[Run], None]] = {
    "prepare": prepare,
    "pretrain": pretrain,
    "finetune": finetune,
    "enhance": enhance,
    "report": report,
}
ON_EVERY_RANK = ("pretrain", "finetune")


def execute(cfg: Any, path: Path, force: tuple[str, ...] = ()) -> RunFolder:
    """Run the stages of a config in a folder.

    Parameters
    ----------
    cfg
        Config of `soscope.config.Config`'s shape.
    path
        The run folder; what it already holds is not done again.
    force
        Stages to do again whatever is there.

    Raises
    ------
    SoScopeError
        One of its kinds, before anything earlier is touched, for settings or data that cannot be used.
    """
    check(cfg)
    check_logger(cfg)
    _check_devices(cfg)
    for modality in cfg.model.modalities.values():
        make_likelihood(modality.likelihood, 1, **dict(modality.options))
    reader = make_reader(cfg.data.reader, dict(cfg.data.options))
    folder = RunFolder(path)
    inputs = _input_hashes(reader, cfg) if "prepare" in cfg.stages else {}
    check_inputs(folder, inputs)
    folder_is_new = not folder.config_file.is_file()
    folder.claim(cfg)
    if cfg.trainer.threads:
        torch.set_num_threads(cfg.trainer.threads)
    console.print(f"[bold]{path}[/bold]{'' if folder_is_new else '  (coming back)'}")
    run = Run(cfg, folder, make_loggers(cfg, path), inputs)
    status = "failed"
    try:
        for stage in [s for s in STAGES if s in cfg.stages]:
            _stage(run, stage, stage in force)
        status = "success"
    finally:
        finish(run.loggers, status)
    if is_main_process():
        folder.keep(cfg)
    _say_where(run)
    return folder


def _stage(run: Run, stage: str, force: bool) -> None:
    """Do one stage unless it is done, and note it."""
    settings = resolved(run.cfg)[stage] if stage in ("enhance", "report") else {}
    if run.folder.is_done(stage, settings) and not force:
        console.print(f"[dim]{stage}: done before[/dim]")
        return
    if stage not in ON_EVERY_RANK and not is_main_process():
        return
    console.print(f"[bold]{stage}[/bold]")
    start = time.perf_counter()
    STAGE_FUNCTIONS[stage](run)
    seconds = time.perf_counter() - start
    if is_main_process():
        note_stage(run.folder, run.cfg, stage, run.inputs)
        run.folder.mark(stage, settings, seconds, STAGES[STAGES.index(stage) + 1 :])
    console.print(f"  {stage} took {seconds:.1f} s")


def _say_where(run: Run) -> None:
    if not is_main_process() or "report" not in run.folder.marks():
        return
    if run.folder.comparison_file.is_file():
        console.print(as_table(pd.read_csv(run.folder.comparison_file)))
    console.print("Results")
    for section in run.sections:
        console.print(f"  {run.folder.result(section)}  (SpatialData)")
        for modality in run.modalities:
            console.print(f"  {run.folder.table(section, modality)}  (AnnData)")
    console.print(f"  {run.folder.report_file}  (pictures; also one by one in {run.folder.pictures})")


def _check_devices(cfg: Any) -> None:
    """Refuse devices this machine has not got, and more devices than there are sections to share."""
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu, but torch sees no CUDA device. Use trainer=cpu.")
    n_devices, n_sections = count_devices(cfg), len(paths_of(cfg))
    if n_devices > n_sections:
        raise ConfigError(
            f"trainer.devices={cfg.trainer.devices} x num_nodes={cfg.trainer.num_nodes} makes {n_devices} devices, but there is "
            f"one training unit per section and {n_sections} section(s): the other devices would repeat the same work. "
            f"Use trainer.devices={n_sections}, or give more sections in data.path."
        )


def _input_hashes(reader: Any, cfg: Any) -> dict[str, str]:
    files = [f for path in paths_of(cfg) for f in (reader.inputs(path) if path or not reader.needs_path else [])]
    if reader.needs_path and None in paths_of(cfg):
        raise ConfigError(f"data={cfg.data.reader} needs data.path=FOLDER.")
    named = [cfg.image.weights, cfg.data.features if isinstance(cfg.data.features, str) else None]
    return hash_files([f for f in (*files, *(Path(n) for n in named if n)) if f.is_file()])
