"""Where the configs lie, and how a composed one takes on another objective."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from soscope.errors import ConfigError


def conf_dir() -> Path:
    """Return the folder of the configs: inside the installed package, or at the top of a checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "conf"


def composed(overrides: Sequence[str], root: str = "train") -> DictConfig:
    """Return the config that the command line would have made of these overrides, in any program.

    Raises
    ------
    ConfigError
        For a key, a group or a value that is not known; says what Hydra says.
    """
    from hydra import compose, initialize_config_dir

    from soscope.config import register

    register()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose(root, overrides=list(overrides))
    except Exception as error:
        if not type(error).__module__.startswith(("hydra", "omegaconf")):
            raise
        raise ConfigError(f"{error}") from error


def with_objective(cfg: Any, name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return a copy of a composed config as if ``objective=name`` had been the last word of the command.

    Parameters
    ----------
    cfg
        Config composed with another objective; what the new objective's file does not set stays.
    name
        File in ``conf/objective``; lengths and rates of both stages it sets replace those of ``cfg``.
    overrides
        Settings to change after that, as ``key=value``.
    """
    file = conf_dir() / "objective" / f"{name}.yaml"
    if not file.is_file():
        known = sorted(f.stem for f in file.parent.glob("*.yaml"))
        raise ConfigError(f"objective={name} is unknown. Choose from: {', '.join(known)}.")
    merged: Any = OmegaConf.merge(cfg, OmegaConf.load(file), OmegaConf.from_dotlist(list(overrides)))
    return merged
