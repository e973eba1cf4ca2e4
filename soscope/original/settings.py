"""The YAML files of the published program: which trainers and parameters there are, and what each becomes here."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from soscope.errors import ConfigError

WIDTHS = ("gene_dim", "protein_dim")
NUMBERS = {
    "sub_node": int,
    "sub_dim": int,
    "z_dim": int,
    "head_num": int,
    "gene_dim": int,
    "protein_dim": int,
    "lr": float,
    "weight_decay": float,
    "scale": float,
    "scale_p": float,
    "scale_g": float,
    "graph_loss_weight": float,
    "beta_start_value": float,
    "beta_end_value": float,
    "beta_n_iterations": int,
    "beta_start_iteration": int,
    "gamma_start_value": float,
    "gamma_end_value": float,
    "log_loss_every": int,
}
"""Parameters of its trainers that are numbers; the one other is ``optimizer_name``."""
OPTIMIZERS = {"Adam": "adam", "SGD": "sgd"}
ELSEWHERE = {
    "sc_NB": "single cells as subspots are read as such: see docs/recipes/single-cells.md",
    "VGAETrainer_Poisson_Deep": "there are three layers; use VGAETrainer_Poisson",
}


@dataclass(frozen=True)
class Table:
    """One table of a trainer: its name here, the parameter that gives its width, and whether it holds counts."""

    name: str
    width: str
    counts: bool


@dataclass(frozen=True)
class Trainer:
    """What a trainer's name means.

    Attributes
    ----------
    model
        Option of the config group ``model``.
    tables
        In the order of the columns of ``label.npy``.
    likelihood
        Entry of ``objective.released`` that holds its settings.
    """

    model: str
    tables: tuple[Table, ...]
    likelihood: str


RNA = Table("rna", "gene_dim", True)
KINDS = {
    "gaussian": Trainer("gaussian", (Table("rna", "gene_dim", False),), "gaussian"),
    "nb": Trainer("nb", (RNA,), "nb"),
    "poisson": Trainer("poisson", (RNA,), "poisson"),
    "joint": Trainer("joint_poisson_nb", (Table("protein", "protein_dim", True), RNA), "poisson"),
    "joint_gaussian": Trainer("joint_gaussian_nb", (Table("atac", "protein_dim", False), RNA), "gaussian"),
}
PRETRAIN = {
    "VGAETrainer": "gaussian",
    "VGAETrainer_NB": "nb",
    "VGAETrainer_Poisson": "poisson",
    "VGAETrainer_Joint_PNB": "joint",
    "VGAETrainer_Joint_GNB": "joint_gaussian",
}
FINETUNE = {
    "soScope_Gaussian": "gaussian",
    "soScope_NB": "nb",
    "soScope_Poisson": "poisson",
    "soScope_Joint": "joint",
    "soScope_JointGaussian": "joint_gaussian",
}


@dataclass(frozen=True)
class OriginalConfig:
    """A YAML file of the program, understood.

    Attributes
    ----------
    file, kind, params
        Where it was read, which of `KINDS` its trainer is, and its parameters as numbers.
    """

    file: Path
    kind: str
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def trainer(self) -> Trainer:
        """What its trainer means."""
        return KINDS[self.kind]

    def schedule(self, name: str) -> dict[str, Any]:
        """Return ``beta`` or ``gamma`` over steps, from the program's defaults where the file is silent."""
        start = {"beta": 1e-3, "gamma": 1.0}[name]
        end = {"beta": 1.0, "gamma": 1e-3}[name]
        return {
            "start": self.params.get(f"{name}_start_value", start),
            "end": self.params.get(f"{name}_end_value", end),
            "steps": self.params.get("beta_n_iterations", 100_000),
            "delay": self.params.get("beta_start_iteration", 50_000),
        }


def read_original_config(file: str | Path, trainers: Mapping[str, str]) -> OriginalConfig:
    """Read ``trainer:`` and ``params:``; ``0.00_05`` is 0.0005, as in the program.

    Raises
    ------
    ConfigError
        For a trainer or a parameter that is not known, by name, and for values that are no numbers.
    """
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"'{path}' is not a file. Give the YAML file of the stage, with 'trainer:' and 'params:'.")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"'{path}' is no YAML ({error}).") from error
    if (
        not isinstance(content, dict)
        or set(content) != {"trainer", "params"}
        or not isinstance(content["params"], dict)
    ):
        keys = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ConfigError(f"'{path}': expected the keys trainer and params, found {keys or 'nothing'}.")
    name = str(content["trainer"])
    if name in ELSEWHERE:
        raise ConfigError(f"'{path}': trainer '{name}' is not taken here: {ELSEWHERE[name]}.")
    if name not in trainers:
        raise ConfigError(f"'{path}': trainer '{name}' is unknown. Choose from: {', '.join(trainers)}.")
    return OriginalConfig(path, trainers[name], {k: _value(path, k, v) for k, v in content["params"].items()})


def _value(file: Path, key: str, value: Any) -> Any:
    if key == "optimizer_name":
        if value not in OPTIMIZERS:
            raise ConfigError(f"'{file}': optimizer_name '{value}' is unknown. Choose from: {', '.join(OPTIMIZERS)}.")
        return value
    if key not in NUMBERS:
        close = difflib.get_close_matches(key, NUMBERS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(
            f"'{file}': parameter '{key}' is unknown.{hint} Choose from: {', '.join([*NUMBERS, 'optimizer_name'])}."
        )
    try:
        number = float(value)
        whole = NUMBERS[key](number)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"'{file}': {key}={value!r} is not a number.") from error
    if whole != number:
        raise ConfigError(f"'{file}': {key}={value!r} must be a whole number.")
    return whole


def check_pair(pretrain: OriginalConfig, finetune: OriginalConfig) -> None:
    """Refuse two files that do not describe the same data or the same encoder, and what neither objective has."""
    if pretrain.kind != finetune.kind:
        raise ConfigError(
            f"'{pretrain.file}' is of kind {pretrain.kind}, '{finetune.file}' of kind {finetune.kind}: take both from one demo."
        )
    for key in (*WIDTHS, "sub_node", "sub_dim", "z_dim", "head_num"):
        values = [c.params[key] for c in (pretrain, finetune) if key in c.params]
        if len(set(values)) > 1:
            raise ConfigError(
                f"{key} is {values[0]} in '{pretrain.file}' and {values[1]} in '{finetune.file}': the encoder must fit both."
            )
    for config in (pretrain, finetune):
        if config.params.get("weight_decay"):
            raise ConfigError(
                f"'{config.file}': weight_decay={config.params['weight_decay']:g} is not had here. Leave it out."
            )
    missing = [t.width for t in finetune.trainer.tables if t.width not in finetune.params]
    if missing or "sub_node" not in finetune.params:
        raise ConfigError(f"'{finetune.file}': {(missing or ['sub_node'])[0]} is missing.")
