"""The command line: `soscope [VERB] key=value ...`."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from soscope.conf_files import conf_dir
from soscope.errors import ConfigError, SoScopeError
from soscope.verbs import VERBS


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; one clear line on standard error and status 1 for anything a user can cause."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = "train"
    try:
        verb, rest = _verb(words)
        _check_groups(verb, rest)
        errors = _hydra(verb, rest if words else ["--help"])
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise SoScopeError("\n".join(dict.fromkeys(_explain(e, verb) for e in errors)))
    except KeyboardInterrupt:
        _complain("Stopped. The same command goes on from what is finished.")
        sys.exit(130)
    except Exception as error:
        if _wants_traceback(words):
            traceback.print_exc()
        else:
            _complain(_explain(error, verb))
        sys.exit(1)


def _verb(words: list[str]) -> tuple[str, list[str]]:
    """Take the verb off; without one, `train`."""
    if words and words[0] in VERBS:
        return words[0], words[1:]
    if words and re.fullmatch(r"[A-Za-z_-]+", words[0]) and not words[0].startswith("-"):
        close = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(
            f"'{words[0]}' is no verb.{hint} Choose from: {', '.join(VERBS)}, or give settings as key=value."
        )
    return "train", words


def _check_groups(verb: str, words: list[str]) -> None:
    """Refuse settings of a group that only another verb has; Hydra would stumble over it."""
    foreign = [w for w in words if re.match(r"[+~]*benchmark\b", w)]
    if foreign and verb != "benchmark":
        raise ConfigError(f"'{foreign[0]}' is a setting of `soscope benchmark`, not of `soscope {verb}`.")


def _hydra(verb: str, rest: list[str]) -> list[Exception]:
    """Let Hydra compose the config of ``verb`` and run the job, or the jobs of a sweep; returns the errors of jobs.

    A job that fails does not take the rest of a sweep with it.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed in part
    import hydra

    from soscope.config import register

    register(verb, VERBS[verb].root)
    original = sys.argv
    errors: list[Exception] = []

    def job(cfg: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        sys.argv = original  # Lightning's DDP children replay it
        launcher = str(HydraConfig.get().launcher.get("_target_", ""))
        if "Basic" not in launcher:  # a process of its own, whose errors Hydra hands over
            _job(verb, cfg)
            return
        try:
            _job(verb, cfg)
        except Exception as error:
            errors.append(error)

    with _arguments([original[0], *rest]):
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=verb)(job)()
    return errors


@contextmanager
def _arguments(words: list[str]) -> Iterator[None]:
    original, sys.argv = sys.argv, words
    try:
        yield
    finally:
        sys.argv = original


def _job(verb: str, cfg: Any) -> None:
    from hydra.core.hydra_config import HydraConfig

    hydra_cfg = HydraConfig.get()
    for category in (FutureWarning, DeprecationWarning):
        warnings.filterwarnings("ignore", category=category)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    _check_launch(cfg, hydra_cfg)
    _set_up_logging()  # after the imports: Lightning sets its own level when imported
    try:
        VERBS[verb].do(cfg, hydra_cfg)
    except SoScopeError:
        if Path(hydra_cfg.runtime.output_dir).resolve() != Path.cwd() and not any(
            word.startswith("hydra.run.dir") for word in hydra_cfg.overrides.hydra
        ):
            _leave_no_trace(Path(hydra_cfg.runtime.output_dir))
        raise


def _leave_no_trace(folder: Path) -> None:
    """Remove a run folder that a refused command has made and left nothing in but its settings."""
    if folder.is_dir() and {f.name for f in folder.iterdir()} <= {"config.yaml"}:
        (folder / "config.yaml").unlink(missing_ok=True)
        with suppress(OSError):  # another process is there, or was faster
            folder.rmdir()


def _check_launch(cfg: Any, hydra_cfg: Any) -> None:
    """Refuse sweeps that would restart themselves, and a cluster's launcher without a sweep."""
    from hydra.types import RunMode

    if "trainer" not in cfg:
        return
    from soscope.training import count_devices

    if hydra_cfg.mode == RunMode.MULTIRUN and count_devices(cfg) > 1 and "spawn" not in cfg.trainer.strategy:
        raise ConfigError(
            f"multirun with trainer.strategy={cfg.trainer.strategy} on several devices would restart the whole sweep in every "
            "process. Use trainer.strategy=ddp_spawn, or a Hydra launcher that starts one process per job."
        )
    if hydra_cfg.mode == RunMode.RUN and hydra_cfg.runtime.choices.get("trainer") == "slurm":
        raise ConfigError(
            "trainer=slurm hands the jobs of a sweep to Slurm, and this is no sweep. Add -m, as in `soscope train -m "
            "trainer=slurm seed=0,1`, or use trainer=gpu inside a job of your own."
        )


def _set_up_logging() -> None:
    """Let soscope speak, its libraries only when something is wrong."""
    logger = logging.getLogger("soscope")
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("  %(message)s"))
        logger.addHandler(handler)
    logger.disabled = False  # Hydra disables a logger made before it sets up its own
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)


def _wants_traceback(words: list[str]) -> bool:
    return any(w.lower() in ("traceback=true", "+traceback=true") for w in words)


def _explain(error: BaseException, verb: str) -> str:
    """Say in one paragraph what was wrong and what to do."""
    if isinstance(error, SoScopeError):
        return str(error)
    if type(error).__module__.startswith(("hydra", "omegaconf", "antlr4")):
        return _explain_hydra(error, verb)
    return (
        f"{type(error).__name__}: {error}\nThis is a fault in soscope or in what it stands on. "
        "traceback=true shows where; please report it with that."
    )


def _explain_hydra(error: BaseException, verb: str) -> str:
    text = "\n".join(dict.fromkeys(str(e).strip() for e in _chain(error)))
    unknown = re.search(r"Key '([^']+)' is not in struct|Key '([^']+)' not in '|Could not override '([^']+)'", text)
    lines = [
        line for line in text.splitlines() if line.strip() and not line.strip().startswith(("object_type", "reference"))
    ]
    message = "\n".join(lines)
    missing = re.search(r"[Mm]issing mandatory value: (\S+)", text)
    if missing:
        return f"{missing[1]} is not set: give {missing[1]}=... on the command line."
    option = re.search(r"Could not find '([^'/]+)/([^']+)'\s+Available options in '[^']+':\n((?:\t.+\n?)+)", text)
    if option:
        return _unknown_option(option[1], option[2], option[3].split())
    if unknown:
        named = re.search(r"full_key: (\S+)", text), re.search(r"Could not override '([^']+)'", text)
        key, choices = next((m[1] for m in named if m), ""), _choices(verb, *named)
        message = f"{key} is unknown.{choices}" if key and choices else message + choices
    if (
        "LexerNoViableAlt" in text
        or "mismatched input" in text
        or "no viable alternative" in text
        or "token recognition" in text
    ):
        message += "\nA value with blanks, commas or brackets is quoted twice: 'data.path=\"my folder (1)\"'."
    return message


def _unknown_option(group: str, name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"{group}={name} is unknown. {hint}Choose from: {', '.join(known)}."


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _choices(verb: str, *matches: re.Match[str] | None) -> str:
    """List the keys beside the unknown one, nearest first."""
    from omegaconf import OmegaConf

    key = next((m[1] for m in matches if m), "")
    parent, _, name = key.rpartition(".")
    root = OmegaConf.structured(VERBS[verb].everything())
    node = OmegaConf.select(root, parent) if parent else root
    if not OmegaConf.is_dict(node):
        return ""
    keys = list(node.keys())
    if not keys:  # a reader's own
        return f"\n`soscope {verb} data=... --cfg job` lists what {parent} holds for that reader."
    close = difflib.get_close_matches(name, keys, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return f"\n{hint}Keys of {parent or 'the config'}: {', '.join(map(str, keys))}."


def _complain(text: str) -> None:
    print(f"soscope: {text}", file=sys.stderr)
