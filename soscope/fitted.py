"""A trained model with the sections it was trained on: enhance, save, load."""

from __future__ import annotations

import copy
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf

from soscope import contract
from soscope.config import section_names
from soscope.errors import ModelFileError, RunFolderError
from soscope.folder import RunFolder, write_text
from soscope.kinds import GIVEN_AS, KINDS
from soscope.run import execute
from soscope.schema import STAGES, Config
from soscope.stages import Run, console, load_model

TRAINED = STAGES[: STAGES.index("finetune") + 1]
RESULTS = tuple(s for s in STAGES if s not in (*TRAINED, "report"))
"""Stages that make a model, and those that make a result of it."""


class FittedModel:
    """A model and the sections it was trained on; what `soscope.tl.fit` and `soscope.load` return.

    Parameters
    ----------
    folder
        The run folder with both.
    cfg
        Its config.
    keeps
        The temporary folder it lies in, which goes with the model; ``None`` where the folder is the user's.
    several
        Whether results are returned as a list.
    """

    def __init__(
        self, folder: RunFolder, cfg: Any, keeps: TemporaryDirectory | None = None, several: bool = False
    ) -> None:
        self.folder, self.cfg = folder, cfg
        self._keeps, self._several = keeps, several

    def __repr__(self) -> str:
        modalities = ", ".join(f"{m}: {c.likelihood}" for m, c in self.cfg.model.modalities.items())
        return f"FittedModel({modalities}; sections {', '.join(self.sections)}; in '{self.folder.path}')"

    @property
    def is_temporary(self) -> bool:
        """Whether its folder goes with it."""
        return self._keeps is not None

    @property
    def sections(self) -> list[str]:
        """Names of the sections it was trained on."""
        return section_names(self.cfg)

    @property
    def modalities(self) -> list[str]:
        """Names of the tables it models."""
        return list(self.cfg.model.modalities)

    def enhance(self, posterior: str | None = None, progress: bool = True) -> Any:
        """Divide the spots of its sections.

        Parameters
        ----------
        posterior
            ``conditional`` on the observed spots, to which subspots then add up, or ``prior``, the decoder alone; as the model
            was fitted by default.
        progress
            Whether to show bars and what is being done.

        Returns
        -------
        The kind of object the model was fitted to, of subspots, in memory; a list where it was fitted to a list. The run
        folder holds the same as files.
        """
        cfg = copy.deepcopy(self.cfg)
        cfg.stages = list(RESULTS)
        cfg.enhance.posterior = posterior or cfg.enhance.posterior
        cfg.trainer.progress = progress
        with speaking(progress):
            execute(cfg, self.folder.path)
        self.folder.keep(self.cfg)  # what was asked for once is not the model's own
        return self.results()

    def results(self) -> Any:
        """Return what the run folder holds, as `enhance` does."""
        found = [self._result(name) for name in self.sections]
        return found if self._several else found[0]

    def _result(self, section: str) -> Any:
        facts = contract.facts(contract.open_section(self.folder.prepared(section)))
        return KINDS[facts.get(GIVEN_AS, "SpatialData")]().result(self.folder, section, self.modalities)

    def save(self, path: str | Path) -> Path:
        """Write model, config and prepared sections into one folder, which `soscope.load` opens.

        Parameters
        ----------
        path
            A new folder, or one that holds a saved model, which is replaced.

        Raises
        ------
        RunFolderError
            For a folder that holds something else.
        """
        path = Path(path).expanduser()
        if path.resolve() == self.folder.path.resolve():
            return path
        if path.exists() and not (path.is_dir() and (RunFolder(path).config_file.is_file() or not any(path.iterdir()))):
            raise RunFolderError(f"'{path}' is there and holds no model. Name a new folder.")
        with contract.beside(path) as new:
            new.mkdir()
            for part in _parts(self.folder):
                if part.exists():
                    to = new / part.relative_to(self.folder.path)
                    to.parent.mkdir(parents=True, exist_ok=True)
                    (shutil.copytree if part.is_dir() else shutil.copy2)(part, to)
            marks = {stage: mark for stage, mark in self.folder.marks().items() if stage in (*TRAINED, "validate")}
            write_text(RunFolder(new).marks_file, json.dumps(marks, indent=2))
        return path


def load(path: str | Path) -> FittedModel:
    """Open a saved model, or any run folder of `soscope train`.

    Parameters
    ----------
    path
        The folder. Results of `FittedModel.enhance` are written there too.

    Raises
    ------
    RunFolderError, ModelFileError, DataError
        For a folder that holds no trained run, and parts that are damaged or do not fit together. Nothing but tensors and
        plain values is read from files.
    """
    folder = RunFolder(Path(path).expanduser())
    cfg: Any = OmegaConf.merge(OmegaConf.structured(Config), folder.config())
    if cfg.benchmark is not None:
        raise RunFolderError(f"'{folder.path}' holds a benchmark, not a model. Give the folder of `soscope train`.")
    for file in (folder.encoder_file, folder.model_file):
        if not file.is_file():
            raise ModelFileError(
                f"'{folder.path}' holds no trained model: {file.name} is missing. Train it to the end first."
            )
    load_model(Run(cfg, folder, [], {}))
    return FittedModel(folder, cfg, several=len(section_names(cfg)) > 1)


def _parts(folder: RunFolder) -> Sequence[Path]:
    return [
        *(folder.config_file, folder.provenance_file, folder.metrics_file, folder.encoder_file, folder.model_file),
        *(folder.validation_file, folder.advice_file, folder.intervals_file),
        *sorted(folder.model_file.parent.glob("field-*.npy")),
        *(folder.prepared_in, folder.path / "truth"),
    ]


@contextmanager
def speaking(progress: bool) -> Iterator[None]:
    """Let a run say what it does, or nothing, and silence libraries' notes meanwhile; what is set is set back."""
    lightning = logging.getLogger("pytorch_lightning")
    level, quiet = lightning.level, console.quiet
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", category=category)
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        lightning.setLevel(logging.WARNING)
        console.quiet = not progress
        try:
            yield
        finally:
            lightning.setLevel(level)
            console.quiet = quiet
