"""The stages of a run, each from what the one before has left in the run folder."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import read_h5ad
from rich.console import Console
from spatialdata import SpatialData

from soscope import contract
from soscope.benchmark.comparison import compare
from soscope.benchmark.verdicts import read_table
from soscope.build import build_finetune, build_pretrain, describe
from soscope.config import paths_of, section_names
from soscope.data.module import SectionsDataModule
from soscope.data.section import Section
from soscope.draws import Drawing, write_draws
from soscope.enhance import add_result, posteriors, split_tile, write_h5ad
from soscope.folder import RunFolder, write_text
from soscope.likelihoods import Likelihood, make_likelihood
from soscope.loggers import log_images
from soscope.model_file import load_module, save_module
from soscope.prepare.pipeline import prepare_sections
from soscope.read import make_reader
from soscope.report.page import write_report
from soscope.split import Split
from soscope.stage_module import StageModule
from soscope.training import fit_stage, is_main_process, wait_for_all

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

    def likelihood(self, modality: str) -> Likelihood:
        """Return a modality's likelihood, not fitted to anything: what kind of values it is for."""
        choice = self.cfg.model.modalities[modality]
        return make_likelihood(choice.likelihood, 1, **dict(choice.options))

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
    module.calibrate(data.result_tiles)
    if is_main_process():
        save_module(module, describe(run.cfg, data, "model"), run.folder.model_file)
    wait_for_all()


class Divided(NamedTuple):
    """A section and how the trained model divides it: a split per modality, the latent mean of spots."""

    section: Section
    splits: dict[str, Split]
    latent: np.ndarray


def divide(run: Run, with_cdf: bool = False) -> Iterator[Divided]:
    """Divide the spots of every section with the trained model; ``with_cdf`` keeps the distribution functions."""
    data = run.data()
    model = load_model(run)
    for section, tile in zip(data.sections, data.result_tiles, strict=True):
        yield Divided(section, *split_tile(model, tile, run.cfg.enhance.posterior, with_cdf))


def load_model(run: Run) -> StageModule:
    """Return the trained model of a run, its intervals as wide as `validate` found they have to be."""
    model = build_finetune(run.cfg, run.data())
    load_module(model, describe(run.cfg, run.data(), "model"), run.folder.model_file)
    if run.folder.intervals_file.is_file():
        found = pd.read_csv(run.folder.intervals_file, dtype={"modality": str})
        model.widening = dict(zip(found["modality"], found["widening"], strict=True))
    return model


def enhance(run: Run) -> None:
    """Divide the spots of every section with the trained model and write the results."""
    scores = []
    for section, splits, latent in divide(run):
        prepared = contract.open_section(run.folder.prepared(section.name))
        result = add_result(prepared, section, splits, latent, run.cfg.enhance.posterior)
        _note_verdicts(run, result, section)
        contract.write_section(result, run.folder.result(section.name))
        for modality in splits:
            write_h5ad(result, modality, run.folder.table(section.name, modality))
        scores += _against_truth(run, section, splits, prepared.shapes[contract.SUBSPOTS].index)
    if scores:
        write_text(run.folder.comparison_file, pd.concat(scores).to_csv(index=False))
    _draw(run)


def _draw(run: Run) -> None:
    """Write posterior draws where they were asked for; where not, remove those of an earlier result."""
    number, posterior = run.cfg.enhance.draws, run.cfg.enhance.posterior
    if not number:
        for name, modality in itertools.product(run.sections, run.modalities):
            shutil.rmtree(run.folder.draws(name, modality), ignore_errors=True)
        return
    model, data = load_model(run), run.data()
    for section, tile in zip(data.sections, data.result_tiles, strict=True):
        subspots = contract.open_section(run.folder.prepared(section.name)).shapes[contract.SUBSPOTS].index.tolist()
        for modality, features in section.features.items():
            drawing = Drawing(section.name, modality, number, run.cfg.seed, posterior)
            blocks = posteriors(model, tile, posterior, (modality,))
            write_draws(run.folder.draws(section.name, modality), blocks, subspots, features, drawing)


def _note_verdicts(run: Run, result: SpatialData, section: Section) -> None:
    """Add to the features of enhanced tables what `validate` found, where it was asked for."""
    if not run.folder.validation_file.is_file():
        return
    found = read_table(run.folder.validation_file).query("section == @section.name")
    for modality in section.modalities:
        var = result.tables[contract.enhanced_name(modality)].var
        rows = found[found["modality"] == modality].set_index("feature").reindex(var.index)
        var["soscope_verdict"] = rows["verdict"].to_numpy()
        var["validation_within_spot_r"] = rows["within_spot_r"].to_numpy()


def _against_truth(run: Run, section: Section, splits: dict[str, Split], subspots: pd.Index) -> list[pd.DataFrame]:
    """Score a simulated section; real ones have no truth, and other splits than the simulated one no counterpart."""
    file = run.folder.truth(section.name)
    if not file.is_file():
        return []
    truth = read_h5ad(file)
    rows = []
    for modality, split in splits.items():
        likelihood = run.likelihood(modality)
        known = set(section.modalities[modality].features) <= set(truth.var_names)
        if likelihood.sparse_result and known and truth.obs_names.equals(subspots):
            rows.append(compare(section, modality, likelihood, split, truth))
    return rows


def report(run: Run) -> None:
    """Draw the pictures, write the page, and send pictures to the loggers that take any."""
    pictures = write_report(run.cfg, run.folder, run.sections, run.modalities)
    log_images(run.loggers, pictures)
