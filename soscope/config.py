"""What a config says of sections and run folders: paths, names, and the fingerprints that name folders."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import ListConfig, OmegaConf

from soscope.demos import demo_epochs, demo_rate
from soscope.names import section_name
from soscope.schema import Config

WITHOUT_EFFECT = ("stages", "traceback", "dry_run", "logger", "run", "enhance", "cluster", "report", "validate")
"""Groups that do not change what is trained, and so do not name a run folder; neither do these keys:"""
WITHOUT_EFFECT_INSIDE = {
    "data": ("workers",),
    "trainer": ("progress", "threads"),
    "image": ("cache",),
    "benchmark": ("name", "seeds", "methods", "models"),
}
RETIRED = {"report": ("n_clusters",)}
"""Settings of earlier versions that a run folder may hold; they have no counterpart today."""


def register(verb: str = "train", root: type = Config) -> None:
    """Make the schemas and the run folder's name known to Hydra; called once by the command line.

    The root of a verb that makes no run is known as ``soscope_<verb>``, that of runs as ``soscope_schema``.
    """
    ConfigStore.instance().store(name="soscope_schema", node=Config)
    if root is not Config:
        ConfigStore.instance().store(name=f"soscope_{verb}", node=root)
    OmegaConf.register_new_resolver("soscope_run", lambda *, _root_: run_name(_root_), replace=True)
    OmegaConf.register_new_resolver("soscope_applied", lambda *, _root_: applied_name(_root_), replace=True)
    OmegaConf.register_new_resolver("soscope_or", lambda value, other: other if value is None else value, replace=True)
    OmegaConf.register_new_resolver("soscope_demo_epochs", demo_epochs, replace=True)
    OmegaConf.register_new_resolver("soscope_demo_rate", demo_rate, replace=True)


def paths_of(cfg: Any) -> list[Path | None]:
    """Return the folders of ``data.path``, one per section; ``[None]`` for readers that need none."""
    path = cfg.data.path
    if path is None:
        return [None]
    many = path if isinstance(path, list | tuple | ListConfig) else [path]
    return [Path(str(p)).expanduser() for p in many]


def features_wanted(cfg: Any, modality: str) -> Any:
    """Return what ``data.features`` asks of a table: the same of all tables, or what a mapping says of this one."""
    wanted = cfg.data.features
    wanted = OmegaConf.to_container(wanted, resolve=True) if OmegaConf.is_config(wanted) else wanted
    return wanted.get(modality) if isinstance(wanted, dict) else wanted


def section_names(cfg: Any) -> list[str]:
    """Return the name of every section: its folder's name, or the reader's where there is no folder."""
    return [str(cfg.data.reader) if path is None else section_name(path) for path in paths_of(cfg)]


def run_name(cfg: Any) -> str:
    """Return ``<section>-<model>-<hash of the resolved config>``."""
    return f"{_first_of(section_names(cfg))}-{cfg.model.name}-{fingerprint(cfg)}"


def applied_name(cfg: Any) -> str:
    """Return ``<section>-by-<folder of the trained run>``."""
    return f"{_first_of(section_names(cfg))}-by-{os.path.basename(os.path.abspath(str(cfg.run)))}"


def _first_of(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]}+{len(names) - 1}"


def resolved(cfg: Any) -> dict[str, Any]:
    """Return the config as plain containers: interpolations resolved, data paths absolute, Hydra's own node left out."""
    keys = [k for k in cfg if k != "hydra"]
    plain: dict[str, Any] = {k: _plain(v) for k, v in _items(cfg, keys)}
    if "data" in plain:
        paths = [None if p is None else os.path.abspath(p) for p in paths_of(cfg)]
        plain["data"]["path"] = paths[0] if len(paths) == 1 else paths
        if plain["data"].get("truth"):
            plain["data"]["truth"] = os.path.abspath(Path(plain["data"]["truth"]).expanduser())
    return json.loads(json.dumps(plain, default=str))


def _plain(value: Any) -> Any:
    """Resolve interpolations, but for those in ``models``, which mean the config of that model."""
    if not OmegaConf.is_config(value):
        return value
    if "models" not in value:
        return OmegaConf.to_container(value, resolve=True)
    others = OmegaConf.masked_copy(value, [k for k in value if k != "models"])
    others._set_parent(value._get_parent())
    plain: Any = OmegaConf.to_container(others, resolve=True)
    return plain | {"models": OmegaConf.to_container(value.models)}


def _items(cfg: Any, keys: list[str]) -> list[tuple[str, Any]]:
    return [(k, cfg[k]) for k in keys if not OmegaConf.is_missing(cfg, k)]


def fingerprint(cfg: Any) -> str:
    """Return a short hash of everything in the config that changes what is trained."""
    return hash_of(relevant(resolved(cfg)))


def relevant(plain: dict[str, Any]) -> dict[str, Any]:
    """Return what changes what is trained, out of a plain config."""
    kept = {k: v for k, v in plain.items() if k not in WITHOUT_EFFECT and v is not None}
    for group in kept.keys() & WITHOUT_EFFECT_INSIDE.keys():
        kept[group] = {k: v for k, v in kept[group].items() if k not in WITHOUT_EFFECT_INSIDE[group]}
    return kept


def hash_of(value: Any) -> str:
    """Return eight hexadecimal digits that identify a plain value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=4).hexdigest()
