"""What each verb of the command line does; a new one is a row of `VERBS` and a root config of its name in ``conf/``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from soscope.errors import ConfigError


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes
    ----------
    do
        What is done with the composed config and Hydra's own.
    schema
        Module and class of the config's typed root.
    changes
        For verbs that start from a finished run: groups of its settings they may change.
    """

    do: Callable[[Any, Any], None]
    schema: str = "soscope.schema:Config"
    changes: tuple[str, ...] = ()

    @property
    def root(self) -> Any:
        """The typed root of the verb's config, imported when asked for."""
        return _imported(self.schema)

    def everything(self) -> Any:
        """Return the root with the groups that only some verbs set, for messages that list keys."""
        return getattr(self.root, "with_all", self.root)()


def _imported(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def _tool(name: str, schema: str) -> Verb:
    """Return a verb that makes no run: a function of its config, ``module:function``, and a schema of its own."""
    return Verb(lambda cfg, hydra_cfg: _imported(name)(cfg), schema)


def _training(cfg: Any, hydra_cfg: Any) -> None:
    from soscope.run import execute
    from soscope.validating import training_plan

    _names_no_run(cfg)
    if cfg.benchmark is not None:
        chosen = hydra_cfg.runtime.choices.get("experiment")
        raise ConfigError(f"experiment={chosen} sets benchmark.*: it is for `soscope benchmark`, not for training.")
    execute(cfg, Path(hydra_cfg.runtime.output_dir), training_plan(cfg))


def _benchmark(cfg: Any, hydra_cfg: Any) -> None:
    from soscope.benchmarking import BENCHMARK
    from soscope.run import execute

    _names_no_run(cfg)
    execute(cfg, Path(hydra_cfg.runtime.output_dir), BENCHMARK)


def _doctor(cfg: Any, hydra_cfg: Any) -> None:
    from soscope.doctor.examine import examine

    _names_no_run(cfg)
    examine(cfg, Path(hydra_cfg.runtime.output_dir))


def _names_no_run(cfg: Any) -> None:
    if cfg.run is not None:
        raise ConfigError(
            "this verb starts from a section: it takes no run=DIR, and names its folder by hydra.run.dir=."
        )


def _again(verb: str, changes: tuple[str, ...]) -> Verb:
    """Return a verb that does stages of a finished run again."""

    def do(cfg: Any, hydra_cfg: Any) -> None:
        from soscope.run import execute

        if cfg.run is None:
            raise ConfigError(f"`soscope {verb}` needs run=DIR, the folder of a finished run.")
        stored, folder = _stored(verb, changes, cfg, list(hydra_cfg.overrides.task))
        execute(stored, folder, force=tuple(stored.stages))

    return Verb(do, changes=changes)


APPLIES = ("data", "image", "enhance", "cluster", "report", "trainer", "stages")


def _apply(cfg: Any, hydra_cfg: Any) -> None:
    """Enhance sections that a trained model has not seen, in a folder of their own."""
    from soscope.run import APPLYING, execute, unseen_config

    words = [w.lstrip("+~") for w in hydra_cfg.overrides.task]
    if cfg.run is None or not any(re.match(r"data[.=@]", w) for w in words):
        raise ConfigError(
            "`soscope apply` needs run=DIR, the folder of a finished run, and data.path of another section."
        )
    other = [w for w in words if re.match(r"image[.=@]", w) and not re.match(r"image\.(features|cache|batch_size)=", w)]
    if other:
        raise ConfigError(f"'{other[0]}': the model knows image features as it was trained with them. Leave it out.")
    learnt = [w for w in words if re.match(r"data\.(features|held_out|truth)\b", w)]
    if learnt:
        raise ConfigError(
            f"'{learnt[0]}': the features are those of the model that the section has, and nothing is held out. Leave it out."
        )
    stored, _ = _stored("apply", APPLIES, cfg, words, unseen_config)
    execute(stored, Path(hydra_cfg.runtime.output_dir), APPLYING)


def _stored(
    verb: str,
    changes: tuple[str, ...],
    cfg: Any,
    overrides: list[str],
    start: Callable[[Any, Path], Any] = lambda stored, folder: stored,
) -> tuple[Any, Path]:
    """Return the config of a finished run, what ``start`` makes of it, with overrides of what may be changed afterwards."""
    from omegaconf import OmegaConf

    from soscope.folder import RunFolder
    from soscope.schema import Config

    keys = [re.split(r"[.@=]", o.lstrip("+~"))[0] for o in overrides]
    fixed = [k for k in keys if k not in (*changes, "run", "traceback", "logger")]
    if fixed:
        raise ConfigError(
            f"`soscope {verb}` takes its settings from the run; '{fixed[0]}' cannot be changed afterwards. "
            f"It takes run=DIR and {' and '.join(f + '.*' for f in changes)}."
        )
    folder = Path(cfg.run).expanduser()
    stored: Any = OmegaConf.merge(OmegaConf.structured(Config), RunFolder(folder).config())
    if stored.benchmark is not None:
        raise ConfigError(
            f"run='{folder}' holds a benchmark; the `soscope benchmark` command that made it comes back to it and draws its "
            f"page again. `soscope {verb}` takes the folder of `soscope train`."
        )
    stored = start(stored, folder)
    for word, group in zip(overrides, keys, strict=True):
        if group in changes:
            key = word.lstrip("+~").partition("=")[0]
            OmegaConf.update(stored, key, OmegaConf.select(cfg, key), merge=False)
    stored.stages, stored.logger = cfg.stages, cfg.logger
    return stored, folder


VERBS = {
    "train": Verb(_training),
    "prepare": Verb(_training),
    "enhance": _again("enhance", ("enhance", "cluster", "report")),
    "cluster": _again("cluster", ("cluster", "report")),
    "report": _again("report", ("report",)),
    "apply": Verb(_apply),
    "benchmark": Verb(_benchmark),
    "features": _tool("soscope.tools.features:run", "soscope.tools.features:FeaturesConfig"),
    "graph": _tool("soscope.tools.graph:run", "soscope.tools.graph:GraphConfig"),
    "doctor": Verb(_doctor),
}
