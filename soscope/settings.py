"""The config of the Python functions: the command line's groups and keys as keyword arguments, composed by Hydra."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from soscope.conf_files import composed, conf_dir
from soscope.config_checks import check
from soscope.errors import ConfigError
from soscope.schema import ModalityConfig
from soscope.training import count_devices

SHORT = {
    "features": "data.features",
    "subspots": "split.subspots",
    "extent": "split.extent",
    "progress": "trainer.progress",
}
"""Full keys of the settings that functions know by a short name."""
ELSEWHERE = {
    "data.path": "the data is what the function is given",
    "data.reader": "the data is what the function is given; files are read by soscope.pp.read_section",
    "data.options": "options of a reader belong to soscope.pp.read_section",
    "data.truth": "it is for `soscope benchmark`",
    "benchmark": "it is for `soscope benchmark`",
    "run": "a finished run is opened by soscope.load",
    "stages": "the functions do the stages they need",
    "dry_run": "it is for `soscope train`",
    "traceback": "Python shows its own",
}
"""Keys of the command line that would have no effect here, and why."""
FREE = ("enhance", "cluster", "report", "trainer", "image.features", "image.cache", "image.batch_size")
"""What is not the model's when it is applied to sections it has not seen."""


def config(**settings: Any) -> DictConfig:
    """Compose the config of a run on data in memory.

    Parameters
    ----------
    settings
        A group's name with one of its files (``platform="dbit"``); a key, in full (``**{"data.held_out": 0}``) or nested
        (``data={"held_out": 0}``), with its value; a short name of `SHORT`. ``model`` also takes a file of ``conf/model``
        for each table: ``{"rna": "nb", "protein": "poisson"}``. What is ``None`` stays as the files have it.

    Raises
    ------
    ConfigError
        For a group, file or key that is unknown, with the choices; for values that cannot run.
    """
    given = {SHORT.get(key, key): value for key, value in settings.items() if value is not None}
    models = given.pop("model") if isinstance(given.get("model"), Mapping) and _per_table(given["model"]) else {}
    if models:
        given["model"] = next(iter(models.values()))
    groups = {key: value for key, value in given.items() if key in _groups() and isinstance(value, str)}
    for group, choice in groups.items():
        _check_choice(group, choice)
    cfg = composed(["data=section", *(f"{group}={choice}" for group, choice in groups.items())])
    if models:
        _model_each_table(cfg, models)
    for key, value in given.items():
        if key not in groups:
            _set(cfg, key, value)
    if cfg.benchmark is not None:
        raise ConfigError(f"experiment={given['experiment']!r} cannot be used here: it is for `soscope benchmark`.")
    check(cfg)
    _check_devices(cfg)
    return cfg


def changed(cfg: DictConfig, settings: Mapping[str, Any]) -> DictConfig:
    """Set, in the config of a model that is applied, what is not the model's; `ConfigError` for all else.

    Parameters
    ----------
    cfg
        The config, changed in place.
    settings
        Keys in full or nested, as of `config`.
    """
    for key, value in _flat(settings):
        if not any(f"{key}.".startswith(f"{free}.") for free in FREE):
            raise ConfigError(f"{key} cannot be set here: it is the model's. Settings are: {', '.join(FREE)}.")
        _set(cfg, key, value)
    check(cfg)
    return cfg


def check_noted(noted: Mapping[str, Any], cfg: DictConfig, section: str) -> None:
    """Refuse a section that `soscope.pp` has worked on with other settings than the model's."""
    if not noted:
        return
    theirs = config(**noted)
    for group in ("platform", "split", "image"):
        for name, value in theirs[group].items():
            key = f"{group}.{name}"
            if key not in FREE and value != cfg[group][name]:
                raise ConfigError(
                    f"soscope.pp worked on section '{section}' with {key}={value}, the model has {cfg[group][name]}. Give the "
                    "section as it was read: what soscope.pp does is done here, with the model's settings."
                )


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _groups() -> dict[str, list[str]]:
    """Return the groups there are, each with its files."""
    return {
        folder.name: sorted(f.stem for f in folder.glob("*.yaml")) for folder in conf_dir().iterdir() if folder.is_dir()
    }


def _check_choice(group: str, choice: str) -> None:
    if group == "data":
        raise ConfigError(f"data={choice!r} cannot be set here: {ELSEWHERE['data.reader']}.")
    _known(choice, _groups()[group], f"{group}={choice!r}", f"Choices of {group}")


def _known(name: str, choices: Iterable[Any], said: str, whose: str) -> None:
    """Refuse a name that is not among the choices; lists them, the nearest first."""
    names = [str(c) for c in choices]
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise ConfigError(f"{said} is unknown.{hint} {whose}: {', '.join(names)}.")


def _set(cfg: DictConfig, key: str, value: Any) -> None:
    """Set one key, or all that a dictionary names below it."""
    for full, why in ELSEWHERE.items():
        if key == full or key.startswith(f"{full}."):
            raise ConfigError(f"{key} cannot be set here: {why}.")
    parent, _, name = key.rpartition(".")
    above = OmegaConf.select(cfg, parent) if parent else cfg
    if not OmegaConf.is_dict(above):
        _set(cfg, parent, {name: value})  # names the part of the key that is unknown
        raise ConfigError(f"{key} is unknown: {parent} is no group of settings.")
    choices = dict.fromkeys([*above.keys(), *([] if parent else [*SHORT, *_groups()])])
    here = [str(c) for c in choices if f"{parent}.{c}".strip(".") not in ELSEWHERE]
    _known(name, here, key, f"Keys of {parent or 'the config'}")
    if isinstance(value, Mapping) and OmegaConf.is_dict(OmegaConf.select(cfg, key)):
        for inner, each in value.items():
            _set(cfg, f"{key}.{inner}", each)
        return
    try:
        OmegaConf.update(cfg, key, value, merge=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key}={value!r} cannot be used: {str(error).splitlines()[0]}") from error


def _per_table(model: Mapping[str, Any]) -> bool:
    """Tell a likelihood for each table from keys of the group ``model``."""
    return all(isinstance(v, str) for v in model.values()) and "name" not in model


def _model_each_table(cfg: DictConfig, models: Mapping[str, str]) -> None:
    """Give each table the likelihood that a file of ``conf/model`` gives its one table."""
    entries = {}
    for modality, name in models.items():
        _check_choice("model", name)
        found = yaml.safe_load((conf_dir() / "model" / f"{name}.yaml").read_text()).get("modalities") or {}
        if len(found) != 1:
            raise ConfigError(
                f"model={name!r} is for {len(found)} tables together ({', '.join(found)}). Give it alone, model={name!r}, or a "
                "model of one table for each."
            )
        (entry,) = found.values()
        entries[modality] = OmegaConf.merge(OmegaConf.structured(ModalityConfig), entry)
    with open_dict(cfg.model):
        cfg.model.modalities = entries
    cfg.model.name = "-".join(f"{modality}_{name}" for modality, name in models.items())


def _check_devices(cfg: DictConfig) -> None:
    if count_devices(cfg) > 1:
        raise ConfigError(
            f"trainer.devices={cfg.trainer.devices}: several devices start this program several times, which a session cannot "
            "be. Use one, or `soscope train` on the command line."
        )
