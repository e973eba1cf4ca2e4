"""The stages of a run, each from what the one before has left in the run folder."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import read_h5ad
from rich.console import Console
from rich.progress import track
from spatialdata import SpatialData

from soscope import contract
from soscope.benchmark.comparison import compare
from soscope.benchmark.verdicts import read_table
from soscope.build import build_finetune, build_pretrain, describe
from soscope.cluster.section import Result, cluster_section
from soscope.config import paths_of, section_names
from soscope.data.module import SectionsDataModule, Tiling
from soscope.data.section import Section
from soscope.draws import Drawing, blocks_to_draw, write_draws
from soscope.enhance import Divider, latent_means
from soscope.errors import RunFolderError
from soscope.folder import RunFolder, write_text
from soscope.likelihoods import Likelihood, make_likelihood
from soscope.loggers import log_images
from soscope.model_file import load_module, save_module
from soscope.prepare.learnt import Learnt
from soscope.prepare.pipeline import prepare_sections
from soscope.read import make_reader
from soscope.report.page import write_report
from soscope.result import result_without_values, write_result
from soscope.sharing import is_main_process, shared_out, wait_for_all
from soscope.split import Split
from soscope.stage_module import StageModule
from soscope.training import count_devices, fit_stage
from soscope.unseen import load_unseen

console = Console(stderr=False, soft_wrap=True)


@dataclass
class Run:
    """Config, folder, loggers and input hashes of a run, and its data once a stage needs them.

    ``watching`` holds callbacks of Lightning by stage, called besides the stage's own.
    """

    cfg: Any
    folder: RunFolder
    loggers: list[Any]
    inputs: dict[str, str]
    watching: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    _data: SectionsDataModule | None = None

    @property
    def sections(self) -> list[str]:
        """Names of the sections."""
        return section_names(self.cfg)

    @property
    def trained_in(self) -> RunFolder | None:
        """The run whose model is applied to sections it has not seen; ``None`` where a run trains its own."""
        return None if self.cfg.run is None else RunFolder(Path(self.cfg.run).expanduser())

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
                paths,
                self.modalities,
                self.cfg.model.z_width,
                self.cfg.data.held_out,
                self.cfg.seed,
                tiling_of(self.cfg),
                self.folder.model_file.parent,
            )
            self._data.setup()
        return self._data


def tiling_of(cfg: Any) -> Tiling:
    """Return how a config cuts sections into tiles."""
    data = cfg.data
    return Tiling(data.tile_spots, data.memory_gb, cfg.model.n_hidden, count_devices(cfg), data.workers)


def prepare(run: Run) -> None:
    """Read, check and prepare all sections; the truth of a simulated one is kept aside."""
    reader = make_reader(run.cfg.data.reader, dict(run.cfg.data.options))
    paths = paths_of(run.cfg)
    raw = [reader.read(path) for path in paths]
    learnt = None if run.trained_in is None else _learnt(run.trained_in, run.modalities)
    sections = prepare_sections(run.cfg, [r.sdata for r in raw], learnt)
    for source, sdata in zip(raw, sections, strict=True):
        contract.write_section(sdata, run.folder.prepared(source.name))
        if source.truth is not None:
            contract.write_table(source.truth, run.folder.truth(source.name))
        spots, subspots = len(sdata.shapes[contract.SPOTS]), len(sdata.shapes[contract.SUBSPOTS])
        console.print(f"  {source.name}: {spots:,} spots, {subspots:,} subspots")


def _learnt(trained: RunFolder, modalities: list[str]) -> Learnt:
    """Return what preparing the sections of a trained run has learnt, the same of all of them."""
    return Learnt.of(trained.prepared(section_names(trained.config())[0]), modalities)


def pretrain(run: Run) -> None:
    """Train the graph autoencoder and write its encoder."""
    data = run.data()
    module = build_pretrain(run.cfg, data)
    folder = run.folder.encoder_file.parent
    fit_stage(run.cfg, module, data, run.cfg.pretrain, folder, run.loggers, run.watching.get("pretrain", ()))
    if is_main_process():
        save_module(module.encoder, describe(run.cfg, data, "encoder"), run.folder.encoder_file)
    wait_for_all()


def finetune(run: Run) -> None:
    """Train the spatial VAE from the pretrained encoder and write the model."""
    data = run.data()
    if not is_main_process():
        wait_for_all()
    module = build_finetune(run.cfg, data)
    if is_main_process():
        wait_for_all()  # the others read what was kriged
    load_module(module.encoder, describe(run.cfg, data, "encoder"), run.folder.encoder_file)
    folder = run.folder.model_file.parent
    fit_stage(run.cfg, module, data, run.cfg.finetune, folder, run.loggers, run.watching.get("finetune", ()))
    module.calibrate(data.result_tiles)
    if is_main_process():
        save_module(module, describe(run.cfg, data, "model"), run.folder.model_file)
    wait_for_all()


class Divided(NamedTuple):
    """A section, and what divides it."""

    section: Section
    divider: Divider


def divide(run: Run) -> Iterator[Divided]:
    """Go through the sections with what divides their spots: the trained model, every spot seen."""
    data, model = run.data(), load_model(run)
    latent = latent_means(model, data.result_tiles, [s.n_spots for s in data.sections])
    for section, cutter, mean in zip(data.sections, data.result_cutters, latent, strict=True):
        yield Divided(section, Divider(model, cutter, mean, run.cfg.enhance.posterior))


def load_model(run: Run) -> StageModule:
    """Return the trained model of a run, its intervals as wide as `validate` found they have to be."""
    trained = run.trained_in
    if trained is not None:
        model = load_unseen(trained.config(), trained.model_file, run.data())
    else:
        model = build_finetune(run.cfg, run.data())
        load_module(model, describe(run.cfg, run.data(), "model"), run.folder.model_file)
    intervals = (trained or run.folder).intervals_file
    if intervals.is_file():
        found = pd.read_csv(intervals, dtype={"modality": str})
        model.widening = dict(zip(found["modality"], found["widening"], strict=True))
    return model


def enhance(run: Run) -> None:
    """Divide the spots of every section with the trained model and write the results."""
    scores = []
    for section, divider in divide(run):
        parts = divider.row_blocks()
        blocks = track(
            shared_out(divider.split, parts, run.folder.model_file.parent / "parts"),
            f"enhance {section.name}",
            total=len(parts),
            console=console,
            transient=True,
            disable=not (run.cfg.trainer.progress and is_main_process()),
        )
        if not is_main_process():
            deque(blocks, maxlen=0)
            continue
        files = {m: run.folder.table(section.name, m) for m in run.modalities}
        frame = partial(_result_without_values, run, section, divider.latent)
        write_result(frame, run.folder.result(section.name), files, blocks)
        scores += _against_truth(run, section)
        _draw(run, section, divider)
    if is_main_process():
        run.folder.clusters_file.unlink(missing_ok=True)  # they were those of the earlier result
    if scores:
        write_text(run.folder.comparison_file, pd.concat(scores).to_csv(index=False))


def _result_without_values(run: Run, section: Section, latent: np.ndarray) -> SpatialData:
    prepared = contract.open_section(run.folder.prepared(section.name))
    result = result_without_values(prepared, section, run.modalities, latent, run.cfg.enhance.posterior)
    _note_verdicts(run, result, section)
    return result


def _draw(run: Run, section: Section, divider: Divider) -> None:
    """Write posterior draws where they were asked for; where not, remove those of an earlier result."""
    number = run.cfg.enhance.draws
    paths = {m: run.folder.draws(section.name, m) for m in section.features}
    if not number:
        for path in paths.values():
            shutil.rmtree(path, ignore_errors=True)
        return
    subspots = contract.open_tables(run.folder.prepared(section.name))[1][contract.IMAGE_FEATURES].obs_names.tolist()
    for modality, path in paths.items():
        drawing = Drawing(section.name, modality, number, run.cfg.seed, divider.posterior)
        write_draws(path, blocks_to_draw(divider, modality), subspots, section.features[modality], drawing)


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


def _against_truth(run: Run, section: Section) -> list[pd.DataFrame]:
    """Score a simulated section; real ones have no truth, and other splits than the simulated one no counterpart."""
    file = run.folder.truth(section.name)
    if not file.is_file():
        return []
    truth = read_h5ad(file)
    rows = []
    for modality in run.modalities:
        likelihood = run.likelihood(modality)
        known = set(section.modalities[modality].features) <= set(truth.var_names)
        if not (likelihood.sparse_result and known):
            continue
        enhanced = read_h5ad(run.folder.table(section.name, modality))
        if truth.obs_names.equals(enhanced.obs_names):
            rows.append(compare(section, modality, likelihood, Split(enhanced.X), truth))
    return rows


def cluster(run: Run) -> None:
    """Group the subspots of every enhanced section, write the groups into its tables, and what was tried into a file."""
    if "enhance" not in run.folder.marks():
        raise RunFolderError(
            f"'{run.folder.path}' holds no enhanced profiles to cluster. Finish the run first, or write them again: "
            "soscope enhance run=DIR."
        )

    def progress(parts: Iterable[Any], what: str, n_parts: int) -> Iterable[Any]:
        hidden = not run.cfg.trainer.progress
        return track(parts, what, total=n_parts, console=console, transient=True, disable=hidden)

    tried = []
    for name in run.sections:
        files = {m: run.folder.table(name, m) for m in run.modalities}
        counted = {m: run.likelihood(m).sparse_result for m in run.modalities}
        result = Result(name, run.folder.result(name), files, counted)
        tried.append(cluster_section(result, run.cfg.model.z_width, run.cfg.cluster, run.cfg.seed, progress))
    write_text(run.folder.clusters_file, pd.concat(tried).to_csv(index=False))


def report(run: Run) -> None:
    """Draw the pictures, write the page, and send pictures to the loggers that take any."""
    pictures = write_report(run.cfg, run.folder, run.sections, run.modalities)
    log_images(run.loggers, pictures)
