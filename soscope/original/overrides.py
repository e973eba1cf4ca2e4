"""From the published program's parameters to settings of this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from soscope.errors import ConfigError
from soscope.original.settings import OPTIMIZERS, OriginalConfig
from soscope.read.released import FEATURES

TRAINERS = {"cpu": "cpu", "cuda": "gpu"}
"""Option of the config group ``trainer`` by the kind of a device."""
PLATFORMS = {4: "dbit", 6: "visium", 8: "dbit"}
"""A platform whose lattice has as many neighbours; its pitch only gives lengths a unit."""
STEPS_PER_EPOCH = 25
RELEASED_ALONE = ("scale", "scale_p", "scale_g", "gamma_start_value", "gamma_end_value")
"""Parameters that the exact likelihood has no use for."""


def settings_of(
    pretrain: OriginalConfig,
    finetune: OriginalConfig,
    data_dir: Path,
    epochs: tuple[int, int],
    num_neighbors: int,
    device: str,
    objective: str,
) -> list[str]:
    """Return overrides of `soscope train` that say the same; `notes_of` tells what has no counterpart.

    Raises
    ------
    ConfigError
        For values that have no counterpart.
    """
    if int(num_neighbors) not in PLATFORMS:
        raise ConfigError(f"num_neighbors={num_neighbors} is unknown. Choose from: {', '.join(map(str, PLATFORMS))}.")
    if not isinstance(epochs, tuple | list) or len(epochs) != 2 or min(epochs) < 1:
        raise ConfigError(f"epochs={epochs!r} must be two numbers, the steps of pretraining and of soScope.")
    words = [
        f"model={finetune.kind.model}",
        f"platform={PLATFORMS[int(num_neighbors)]}",
        f"platform.n_neighbours={int(num_neighbors)}",
        f"objective={objective}",
        *device_words(device),
        *_data(finetune, data_dir),
        *_networks(finetune),
        *_length("pretrain", epochs[0]),
        *_length("finetune", epochs[1]),
    ]
    return words + OBJECTIVES[objective](pretrain, finetune, epochs)


def device_words(device: str) -> list[str]:
    """Return the trainer of a device as the program names it, ``cuda:1`` being the second of several."""
    kind, colon, index = str(device).partition(":")
    if kind not in TRAINERS or (colon and not index.isdigit()):
        raise ConfigError(f"device={device!r} is unknown. Choose from: cpu, cuda, or cuda:0, cuda:1, ... of several.")
    return [f"trainer={TRAINERS[kind]}", *([f"trainer.devices=[{int(index)}]"] if colon and kind == "cuda" else [])]


def notes_of(pretrain: OriginalConfig, finetune: OriginalConfig, data_dir: Path, objective: str) -> list[str]:
    """Return what of the two files and the folder is left aside, a sentence each."""
    notes = []
    if objective == "exact":
        parts = [(c.file.name, _unused(c, pretrain, finetune)) for c in (pretrain, finetune)]
        notes += [f"{name}: objective=exact has no use for {', '.join(unused)}" for name, unused in parts if unused]
    if not (data_dir / FEATURES).is_file():
        unused_too = "; sub_dim has no use" if "sub_dim" in finetune.params else ""
        notes.append(f"'{data_dir}' holds no {FEATURES}: trained without image features{unused_too}")
    return notes


def _unused(config: OriginalConfig, pretrain: OriginalConfig, finetune: OriginalConfig) -> list[str]:
    """Return the parameters of a file that the exact likelihood has no use for."""
    unused = [k for k in RELEASED_ALONE if k in config.params]
    unused += ["optimizer_name"] * (config.params.get("optimizer_name", "Adam") != "Adam")
    if config is pretrain and config.schedule("beta") != finetune.schedule("beta"):
        unused += ["beta_* (those of the other file are taken)"]
    return unused


def _data(config: OriginalConfig, data_dir: Path) -> list[str]:
    tables = config.kind.tables
    widths = {t.name: config.params[t.width] for t in tables}
    options: dict[str, Any] = {"tables": widths, "counts": [t.name for t in tables if t.counts]}
    words = ["data=soscope", f"data.path={quoted(data_dir)}", "data.features=all"]
    words += [f"data.options.{k}={as_override(v)}" for k, v in options.items()]
    words += [f"model.modalities.{t.name}.representation=values" for t in tables if not t.counts]
    if not (data_dir / FEATURES).is_file():
        return [*words, "image=none"]
    return words + ([f"data.options.n_image={config.params['sub_dim']}"] if "sub_dim" in config.params else [])


def _networks(config: OriginalConfig) -> list[str]:
    p = config.params
    words = [f"split.subspots={p['sub_node']}", f"platform.subspots={p['sub_node']}"]
    words.append(f"image.weight={p.get('graph_loss_weight', 1.0)}")  # there is a graph, with an image or without
    same = {"z_dim": "model.n_latent", "head_num": "model.n_heads"}
    return words + [f"{key}={p[name]}" for name, key in same.items() if name in p]


def _length(stage: str, steps: int) -> list[str]:
    """Return epochs of about `STEPS_PER_EPOCH` steps that add up to ``steps``; where none do, to the next number that can be had.

    Epochs of very few steps would end training early, which is decided by epochs.
    """
    longest = min(STEPS_PER_EPOCH, steps)
    per_epoch = next((n for n in range(longest, STEPS_PER_EPOCH // 2, -1) if steps % n == 0), longest)
    return [f"{stage}.steps_per_epoch={per_epoch}", f"{stage}.max_epochs={-(-steps // per_epoch)}"]


def _exact(pretrain: OriginalConfig, finetune: OriginalConfig, epochs: Any) -> list[str]:
    """Take rates and the KL's weight."""
    words = [f"pretrain.learning_rate={pretrain.params.get('lr', 1e-4)}"]
    words += [f"finetune.learning_rate={finetune.params.get('lr', 1e-4)}"]
    return words + [f"objective.beta.{k}={v}" for k, v in finetune.schedule("beta").items()]


def _released(pretrain: OriginalConfig, finetune: OriginalConfig, epochs: Any) -> list[str]:
    """Take everything, as one more demo."""
    key = f"objective.released.{finetune.kind.likelihood}"
    words = []
    for stage, config, steps in (("pretrain", pretrain, epochs[0]), ("finetune", finetune, epochs[1])):
        p = config.params
        demo: dict[str, Any] = {
            "steps": steps,
            "learning_rate": p.get("lr", 1e-4),
            "optimizer": OPTIMIZERS[p.get("optimizer_name", "Adam")],
            "beta": config.schedule("beta"),
        }
        demo["scale"] = p.get("scale", 11.16418) if config is pretrain else p.get("scale", 1.0)
        if config is finetune:
            demo["gamma"] = config.schedule("gamma")
            scales = {t.name: p[t.scale] for t in config.kind.tables if t.scale in p}
            demo |= {"scales": scales} if scales else {}
            demo["scale"] = demo["scale"] if config.kind.divides else 1.0
        words.append(f"++{key}.{stage}={as_override(demo)}")
    if "sub_dim" in finetune.params:
        words.append(f"image.n_components={finetune.params['sub_dim']}")
    return words


OBJECTIVES = {"exact": _exact, "released": _released}


def as_override(value: Any) -> str:
    """Write nested mappings and lists as Hydra reads them."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{as_override(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_override, value)) + "]"
    return str(value)


def quoted(path: Path) -> str:
    """Write a path as Hydra reads it, whatever it holds."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
