"""``two_step_train`` and ``infer`` with the published program's parameters, over this program's stages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from soscope.arrays import save_array
from soscope.build import describe
from soscope.conf_files import composed
from soscope.config import section_names
from soscope.data.module import SectionsDataModule
from soscope.errors import ConfigError
from soscope.folder import RunFolder
from soscope.model_file import save_module
from soscope.original.files import MODEL, Events, Snapshots, keep_copy
from soscope.original.overrides import OBJECTIVES, PLATFORMS, device_words, notes_of, settings_of
from soscope.original.result import all_columns, run_of_unseen
from soscope.original.settings import FINETUNE, PRETRAIN, OriginalConfig, check_pair, read_original_config
from soscope.read import ReleasedReader, make_reader
from soscope.run import APPLYING, execute, unseen_config
from soscope.schema import Config
from soscope.stages import console

CONFIG = "config.yml"
RESULT = "infer_subspot.npy"


@dataclass(frozen=True)
class OriginalModel:
    """What `two_step_train` returns and `infer` takes as ``saved_model``: a trained run.

    Attributes
    ----------
    folder
        The run's folder, as of `soscope train`.
    """

    folder: Path


def two_step_train(
    logging: Any,
    vgae_experiment_dir: str | Path,
    soScope_experiment_dir: str | Path,  # noqa: N803 - the program's name
    data_dir: str | Path,
    vgae_config_file: str | Path,
    soScope_config_file: str | Path,  # noqa: N803
    device: str,
    checkpoint_every: int,
    backup_every: int,
    epochs: Sequence[int],
    num_neighbors: int,
    *,
    objective: str = "exact",
    overrides: Sequence[str] = (),
) -> OriginalModel:
    """Pretrain the graph autoencoder and train soScope, as the published program's function of this name.

    Parameters
    ----------
    logging
        Not ``None`` or false: TensorBoard event files in both experiment folders.
    vgae_experiment_dir, soScope_experiment_dir
        Folders for what each stage leaves: ``config.yml``, ``model.pt``, ``checkpoint_N.pt``. The second is a run folder of
        `soscope train` besides, with report and results.
    data_dir
        Folder with ``label.npy``, ``adj.npy``, ``sub_adj.npy``, positions of subspots and, where there is an image,
        ``support_feature.npy``.
    vgae_config_file, soScope_config_file
        YAML files with ``trainer:`` and ``params:``.
    device
        ``cpu``, ``cuda``, or ``cuda:1`` of several.
    checkpoint_every, backup_every
        Steps between checkpoints, and between backups of the model.
    epochs
        Steps of both stages, each over the whole section; with ``objective="exact"`` the most there can be.
    num_neighbors
        Neighbours of a spot on its lattice: 4, 6 or 8.
    objective
        ``exact``, ours, or ``released``, the program's own.
    overrides
        Further settings of `soscope train`, as ``key=value``.

    Returns
    -------
    The trained run.

    Raises
    ------
    ConfigError, DataError
        For parameters and files that are not understood, by name, before anything is trained.

    Notes
    -----
    The interface is that of github.com/deng-ai-lab/soScope (``soScope_model/train.py``); docs/moving-over.md lists what differs.
    """
    if objective not in OBJECTIVES:
        raise ConfigError(f"objective={objective!r} is unknown. Choose from: {', '.join(OBJECTIVES)}.")
    for name, every in (("checkpoint_every", checkpoint_every), ("backup_every", backup_every)):
        if int(every) < 1:
            raise ConfigError(f"{name}={every} must be at least 1.")
    first, second = (
        read_original_config(vgae_config_file, PRETRAIN),
        read_original_config(soScope_config_file, FINETUNE),
    )
    check_pair(first, second)
    data = Path(data_dir).expanduser()
    words = settings_of(first, second, data, tuple(epochs), num_neighbors, device, objective)  # type: ignore[arg-type]
    cfg = composed([*words, *overrides])
    _check_stages(cfg)
    surplus = _checked_reader(cfg, second, data).left_out(data)
    folders = [Path(f).expanduser() for f in (vgae_experiment_dir, soScope_experiment_dir)]
    watching = _watching(cfg, folders, (first, second), int(checkpoint_every), int(backup_every), bool(logging))
    for note in [*notes_of(first, second, data, objective), *([surplus] if surplus else [])]:
        console.print(note, markup=False, highlight=False)
    run = execute(cfg, folders[1], watching=watching)
    for folder, config, made in zip(folders, (first, second), (run.encoder_file, run.model_file), strict=True):
        keep_copy(config.file, folder / CONFIG)
        if made.is_file():  # a dry run makes none
            keep_copy(made, folder / MODEL)
    return OriginalModel(folders[1])


def infer(
    experiment_dir: str | Path,
    non_negative: bool,
    num_neighbors: int,
    data_dir: str | Path,
    result_dir: str | Path,
    device: str = "cpu",
    saved_model: OriginalModel | None = None,
) -> np.ndarray:
    """Write the enhanced profiles as ``infer_subspot.npy``, as the published program's function of this name.

    Parameters
    ----------
    experiment_dir
        ``soScope_experiment_dir`` of `two_step_train`.
    non_negative
        Whether negative values, which only real-valued tables have, become zero.
    num_neighbors
        As the model was trained with.
    data_dir
        The folder it was trained on, or another with the same columns, which it has not seen.
    result_dir
        Folder of the result, made when it is missing; for an unseen section it gets a run folder in ``run``, as of
        `soscope apply`, one for each model and section.
    device
        ``cpu`` or ``cuda``; profiles are divided on the CPU either way.
    saved_model
        What `two_step_train` returned; its folder is then taken instead of ``experiment_dir``.

    Returns
    -------
    The array written, ``(n_subspots, n_features)`` of float32: rows in the order of ``data_dir``'s subspots, columns in that of
    ``label.npy``.

    Raises
    ------
    ConfigError, DataError, RunFolderError
        When nothing was trained there, or it was trained on other columns.
    """
    device_words(device)
    folder = RunFolder(Path(experiment_dir).expanduser() if saved_model is None else saved_model.folder)
    cfg = folder.config()
    _check_neighbours(cfg, int(num_neighbors))
    if not folder.model_file.is_file():
        raise ConfigError(f"'{folder.path}' holds no trained model. Run two_step_train into it first.")
    data, result = Path(data_dir).expanduser(), Path(result_dir).expanduser()
    own: Any = OmegaConf.merge(OmegaConf.structured(Config), cfg)
    plan = None
    if os.path.abspath(data) != os.path.abspath(str(cfg.data.path)):
        stages = [stage for stage in APPLYING.stages if stage in own.stages]
        own = unseen_config(own, folder.path, stages)
        folder, plan = run_of_unseen(result, data, folder), APPLYING
        own.data.path = str(data)
        own.trainer.accelerator, own.trainer.strategy = "cpu", "auto"
        own.trainer.devices, own.trainer.num_nodes = 1, 1
    own.stages = [*own.stages, *(["enhance"] if "enhance" not in own.stages else [])]
    (section,) = section_names(own)
    tables = {m: folder.table(section, m) for m in own.model.modalities}
    lost = folder.config_file.is_file() and any(not file.is_file() for file in tables.values())
    execute(own, folder.path, plan, force=("enhance",) if lost else ())
    values = all_columns(own, data, tables)
    if non_negative:
        values = np.maximum(values, 0)
    save_array(result / RESULT, values)
    return values


def _check_stages(cfg: Any) -> None:
    """Refuse overrides that leave out what makes a model."""
    missing = [stage for stage in ("prepare", "pretrain", "finetune") if stage not in cfg.stages]
    if missing:
        raise ConfigError(f"stages={list(cfg.stages)} leaves out {missing[0]}, which two_step_train is for. Add it.")


def _checked_reader(cfg: Any, config: OriginalConfig, data: Path) -> ReleasedReader:
    """Return the folder's reader; refuse a folder with another number of subspots per spot than the files say."""
    reader = make_reader(cfg.data.reader, dict(cfg.data.options))
    if not isinstance(reader, ReleasedReader):
        raise ConfigError(
            f"data.reader={cfg.data.reader} does not read the published program's folders. Leave data= out."
        )
    found = reader.subspots_per_spot(data)
    if found != config.params["sub_node"]:
        raise ConfigError(
            f"'{config.file}': sub_node={config.params['sub_node']}, but '{data}' has {found} subspots per spot. Take the file "
            f"that belongs to this folder, or write sub_node: {found}."
        )
    return reader


def _check_neighbours(cfg: Any, num_neighbors: int) -> None:
    """Refuse another number of neighbours than the model was trained with."""
    if num_neighbors != cfg.platform.n_neighbours or num_neighbors not in PLATFORMS:
        raise ConfigError(f"num_neighbors={num_neighbors}, but the model was trained with {cfg.platform.n_neighbours}.")


def _watching(
    cfg: Any,
    folders: Sequence[Path],
    configs: Sequence[OriginalConfig],
    checkpoint_every: int,
    backup_every: int,
    logging: bool,
) -> dict[str, Any]:
    """Return the callbacks of both stages."""

    def keep_encoder(module: Any, data: SectionsDataModule, file: Path) -> None:
        save_module(module.encoder, describe(cfg, data, "encoder"), file)

    def keep_model(module: Any, data: SectionsDataModule, file: Path) -> None:
        save_module(module, describe(cfg, data, "model"), file)

    watching: dict[str, Any] = {}
    keeps = (keep_encoder, keep_model)
    for stage, folder, config, keep in zip(("pretrain", "finetune"), folders, configs, keeps, strict=True):
        events = [Events(folder, config.params.get("log_loss_every"))] if logging else []
        watching[stage] = [Snapshots(folder, checkpoint_every, backup_every, keep), *events]
    return watching
