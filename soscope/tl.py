"""Training and enhancing: `soscope.tl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import open_dict
from spatialdata import SpatialData

from soscope import contract, made
from soscope.errors import ConfigError, RunFolderError
from soscope.fitted import TRAINED, FittedModel, load, speaking
from soscope.folder import RunFolder
from soscope.kinds import GIVEN_AS, kind_of
from soscope.read.base import hash_files
from soscope.run import APPLYING, execute, unseen_config
from soscope.schema import STAGES
from soscope.settings import changed, check_noted, config
from soscope.validating import training_plan

__all__ = ["FittedModel", "apply", "enhance", "fit"]


def enhance(
    data: Any,
    model: Any = "nb",
    platform: str | None = None,
    image: str | None = None,
    features: Any = None,
    subspots: int | None = None,
    seed: int | None = None,
    run_dir: str | Path | None = None,
    name: str = "section",
    layer: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Any:
    """Sharpen spots to subspots: prepare, pretrain, finetune, enhance.

    Parameters
    ----------
    data
        A section (`soscope.pp.read_section`), or AnnData, MuData or SpatialData that `soscope.pp.to_section` makes one of; or
        a list of these, trained together. It is left as it is.
    model
        A file of ``conf/model``, or one for each table: ``{"rna": "nb", "protein": "poisson"}``.
    platform, image
        Files of ``conf/platform`` and ``conf/image``; those given to `soscope.pp`, or ``visium`` and ``efficientnet_lite0``.
    features
        A number (500 by default, by Moran's I), ``"all"``, names, or one of these for each table.
    subspots
        Subspots per spot; those given to `soscope.pp`, or the platform's own number.
    seed
        Of everything drawn; 0 by default.
    run_dir
        Run folder, which keeps all files, the report among them: the same call comes back to it and goes on. Without it a
        temporary folder is used.
    name, layer
        Of data that is no section yet: its name, and the layer that holds the counts. In a list names are numbered.
    progress
        Whether to show bars and what is being done.
    settings
        Any group or key of the config: ``objective="released"``, ``**{"enhance.posterior": "prior"}``,
        ``finetune={"max_epochs": 8}``. ``soscope train --cfg job`` prints all.

    Returns
    -------
    A new object of the kind that was given, in memory. SpatialData: image, spots, subspots, observed and enhanced tables.
    AnnData, MuData: the enhanced tables, rows being subspots. The table in docs/data-contract.md says what lies where.

    Raises
    ------
    ConfigError
        For unknown settings, with the choices; for settings that cannot run.
    DataError
        For data that cannot be used.
    RunFolderError
        When ``run_dir`` holds another run.
    """
    given = {
        "model": model,
        "platform": platform,
        "image": image,
        "features": features,
        "subspots": subspots,
        "seed": seed,
    }
    stages = [s for s in STAGES if run_dir is not None or s != "report"]
    return _run(data, {**given, "progress": progress, **settings}, run_dir, name, layer, stages).results()


def fit(
    data: Any,
    model: Any = "nb",
    run_dir: str | Path | None = None,
    name: str = "section",
    layer: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> FittedModel:
    """Train a model and return it; it enhances its sections (`FittedModel.enhance`) and can be saved (`FittedModel.save`).

    Parameters and errors are those of `enhance`, whose other parameters are ``settings`` here.
    """
    return _run(data, {"model": model, "progress": progress, **settings}, run_dir, name, layer, list(TRAINED))


def apply(
    model: FittedModel | str | Path,
    data: Any,
    run_dir: str | Path | None = None,
    name: str = "unseen",
    layer: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Any:
    """Sharpen a section that a trained model has not seen; nothing is trained.

    Parameters
    ----------
    model
        What `fit` or `soscope.load` returned, or the folder of a saved model or a run.
    data, run_dir, name, layer, progress
        As of `enhance`. Features of the model that the data lacks are left out. A model that is in no folder of the user's is
        saved in ``run_dir``.
    settings
        Of ``enhance``, ``cluster``, ``report``, ``trainer``; ``image.features`` of a model of precomputed ones, ``image.cache``
        and ``image.batch_size``. All else is the model's.

    Returns
    -------
    As `enhance`.

    Raises
    ------
    ConfigError
        For settings that are the model's, and data that `soscope.pp` has worked on with others than it.
    DataError
        For data that shares no feature with the model, or cannot be used.
    RunFolderError, ModelFileError
        When ``run_dir`` holds another run, or the model is damaged.
    """
    trained = model if isinstance(model, FittedModel) else load(model)
    stages = [s for s in APPLYING.stages if run_dir is not None or s != "report"]
    cfg = changed(unseen_config(trained.cfg, trained.folder.path, stages), {**settings, "trainer.progress": progress})
    given = _Given.of(data, name, layer)
    for section in given.sections:
        check_noted(made.settings_of(section), trained.cfg, contract.facts(section)["section"])
    given.check(cfg, run_dir)
    folder, keeps = _folder(run_dir)
    if trained.is_temporary and run_dir is not None:  # or run_dir would name a folder that goes with the model
        cfg.run = str(trained.save(folder.path / "model").absolute())
    cfg.data.reader, cfg.data.options, cfg.data.path = "section", {}, given.hand_over(folder)
    with speaking(progress):
        execute(cfg, folder.path, APPLYING)
    return FittedModel(folder, cfg, keeps, given.several).results()


@dataclass(frozen=True)
class _Given:
    """What a function was given, as sections; ``several`` says whether in a list."""

    data: list[Any]
    sections: list[SpatialData]
    several: bool

    @classmethod
    def of(cls, data: Any, name: str, layer: str | None) -> _Given:
        several = isinstance(data, list | tuple)
        each = list(data) if several else [data]
        names = [f"{name}_{i + 1}" for i in range(len(each))] if several else [name]
        if not each:
            raise ConfigError("the list of sections is empty.")
        return cls(each, [_section(d, n, layer) for d, n in zip(each, names, strict=True)], several)

    def check(self, cfg: Any, run_dir: str | Path | None) -> None:
        """Refuse tables that the kinds of objects could not give back, and draws that would go with a temporary folder."""
        for source, section in zip(self.data, self.sections, strict=True):
            kind_of(source).check(contract.modalities(section), list(cfg.model.modalities))
        if cfg.enhance.draws and run_dir is None:
            raise ConfigError("enhance.draws writes draws into the run folder: give run_dir=FOLDER to keep it.")

    def noted(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings `soscope.pp` worked with that are not given anew; `ConfigError` where sections differ in them."""
        each = [{k: v for k, v in made.settings_of(s).items() if k not in settings} for s in self.sections]
        for section, other in zip(self.sections, each, strict=True):
            for key in sorted(set(each[0]) | set(other)):
                if each[0].get(key) != other.get(key):
                    raise ConfigError(
                        f"section '{contract.facts(section)['section']}': soscope.pp worked on it with {key}={other.get(key)!r}, "
                        f"on the first with {each[0].get(key)!r}. One model needs the same of all: give {key}, or do them alike."
                    )
        return each[0]

    def hand_over(self, folder: RunFolder) -> str | list[str]:
        """Write the sections where the run reads them; returns ``data.path``."""
        paths = [str(_hand_over(section, folder)) for section in self.sections]
        return paths[0] if len(paths) == 1 else paths


def _folder(run_dir: str | Path | None) -> tuple[RunFolder, TemporaryDirectory | None]:
    """Return the run folder, and what keeps it where it is a temporary one."""
    keeps = None if run_dir is not None else TemporaryDirectory(prefix="soscope-")
    return RunFolder(Path(keeps.name if keeps else str(run_dir)).expanduser()), keeps


def _run(
    data: Any, settings: dict[str, Any], run_dir: str | Path | None, name: str, layer: str | None, stages: Sequence[str]
) -> FittedModel:
    """Do stages of a run on data in memory."""
    said = {key: value for key, value in settings.items() if value is not None}
    config(**said)  # a mistyped setting is told before any data is looked at
    given = _Given.of(data, name, layer)
    cfg = config(**given.noted(said) | said)
    given.check(cfg, run_dir)
    folder, keeps = _folder(run_dir)
    with open_dict(cfg):
        cfg.data.path, cfg.stages = given.hand_over(folder), list(stages)
    with speaking(cfg.trainer.progress):
        execute(cfg, folder.path, training_plan(cfg))
    return FittedModel(folder, cfg, keeps, given.several)


def _section(data: Any, name: str, layer: str | None) -> SpatialData:
    """Return data as a section that knows what kind it was given as."""
    kind = kind_of(data)
    section = made.without_made(kind.section(data, name, {"layer": layer}))
    section.attrs[contract.ATTRS] = contract.facts(section) | {GIVEN_AS: kind.name}
    return section


def _hand_over(section: SpatialData, folder: RunFolder) -> Path:
    """Write a section where the run reads it; one that is there has to be the same."""
    name = contract.facts(section)["section"]
    path = folder.path / "raw" / name
    if not path.exists():
        contract.write_section(section, path)
        return path
    with TemporaryDirectory(prefix="soscope-") as there:
        contract.write_section(section, Path(there) / name)
        if _content(path) != _content(Path(there) / name):
            raise RunFolderError(
                f"'{folder.path}' was made from another section '{name}'. Name a new run_dir, or delete this one."
            )
    return path


def _content(path: Path) -> dict[str, str]:
    files = hash_files([f for f in path.rglob("*") if f.is_file()])
    return {str(Path(file).relative_to(path)): digest for file, digest in files.items()}
