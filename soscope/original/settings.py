"""The YAML files of the published program: which trainers and parameters there are, and what each becomes here."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from soscope.errors import ConfigError

WIDTHS = ("gene_dim", "protein_dim")
COUNTS = (
    "sub_node",
    "sub_dim",
    "z_dim",
    "head_num",
    *WIDTHS,
    "beta_n_iterations",
    "beta_start_iteration",
    "log_loss_every",
)
"""Parameters that are whole numbers; all others are numbers, but for ``optimizer_name``."""
OPTIMIZERS = {"Adam": "adam", "SGD": "sgd"}
BETA = ("beta_start_value", "beta_end_value", "beta_n_iterations", "beta_start_iteration")
VGAE = frozenset(("gene_dim", "sub_dim", "z_dim", "head_num", "optimizer_name", "lr", "scale", *BETA, "log_loss_every"))
"""Parameters that every trainer of the first stage takes."""
SOSCOPE = VGAE | {"sub_node", "weight_decay", "gamma_start_value", "gamma_end_value", "graph_loss_weight"}
"""The same of the second stage."""
ELSEWHERE = {
    "sc_NB": "single cells as subspots are read as such: see docs/recipes/single-cells.md",
    "VGAETrainer_Poisson_Deep": "there are three layers; use VGAETrainer_Poisson",
}


@dataclass(frozen=True)
class Table:
    """One table of a kind of data.

    Attributes
    ----------
    name
        Its name here.
    width
        The parameter that gives its number of columns.
    counts
        Whether it holds counts.
    scale
        The parameter that divides its squared error alone, where there is one.
    """

    name: str
    width: str
    counts: bool
    scale: str | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of data, which a trainer of either stage is for.

    Attributes
    ----------
    model
        Option of the config group ``model``.
    tables
        In the order of the columns of ``label.npy``.
    likelihood
        Entry of ``objective.released`` that holds its settings.
    divides
        Whether the program's second stage divides the squared error by ``scale``.
    """

    model: str
    tables: tuple[Table, ...]
    likelihood: str
    divides: bool = True


@dataclass(frozen=True)
class Trainer:
    """A trainer of the program.

    Attributes
    ----------
    kind
        Entry of `KINDS`.
    takes
        Its parameters.
    defaults
        Those that are taken where a file is silent, besides schedules.
    """

    kind: str
    takes: frozenset[str]
    defaults: Mapping[str, Any] = field(default_factory=dict)


RNA = Table("rna", "gene_dim", True)
KINDS = {
    "gaussian": Kind("gaussian", (Table("rna", "gene_dim", False),), "gaussian"),
    "nb": Kind("nb", (RNA,), "nb"),
    "poisson": Kind("poisson", (RNA,), "poisson", divides=False),
    "joint": Kind("joint_poisson_nb", (Table("protein", "protein_dim", True), RNA), "poisson"),
    "joint_gaussian": Kind(
        "joint_gaussian_nb",
        (Table("atac", "protein_dim", False, "scale_p"), Table("rna", "gene_dim", True, "scale_g")),
        "gaussian",
    ),
}
PRETRAIN = {
    "VGAETrainer": Trainer("gaussian", VGAE),
    "VGAETrainer_NB": Trainer("nb", VGAE | {"sub_node"}),
    "VGAETrainer_Poisson": Trainer("poisson", VGAE | {"sub_node"}),
    "VGAETrainer_Joint_PNB": Trainer("joint", VGAE | {"sub_node", "protein_dim"}),
    "VGAETrainer_Joint_GNB": Trainer("joint_gaussian", VGAE | {"sub_node", "protein_dim"}),
}
FINETUNE = {
    "soScope_Gaussian": Trainer("gaussian", SOSCOPE, {"sub_node": 9}),
    "soScope_NB": Trainer("nb", SOSCOPE),
    "soScope_Poisson": Trainer("poisson", SOSCOPE),
    "soScope_Joint": Trainer("joint", SOSCOPE | {"protein_dim"}),
    "soScope_JointGaussian": Trainer("joint_gaussian", SOSCOPE | {"protein_dim", "scale_p", "scale_g"}),
}


@dataclass(frozen=True)
class OriginalConfig:
    """A YAML file of the program, understood.

    Attributes
    ----------
    file, trainer, params
        Where it was read, its trainer, and its parameters as numbers.
    """

    file: Path
    trainer: Trainer
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """The kind of data its trainer is for."""
        return KINDS[self.trainer.kind]

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


def read_original_config(file: str | Path, trainers: Mapping[str, Trainer]) -> OriginalConfig:
    """Read ``trainer:`` and ``params:``; ``0.00_05`` is 0.0005, as in the program.

    Raises
    ------
    ConfigError
        For a trainer that is not known, a parameter that it does not take, by name, and for values that are no numbers.
    """
    path = Path(file).expanduser()
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
    trainer = trainers[name]
    _check_keys(path, name, trainer, content["params"])
    given = {k: _value(path, k, v) for k, v in content["params"].items()}
    return OriginalConfig(path, trainer, {**trainer.defaults, **given})


def _check_keys(file: Path, name: str, trainer: Trainer, params: Mapping[Any, Any]) -> None:
    """Refuse a parameter that a trainer does not take, as the program does."""
    wrong = [str(key) for key in params if key not in trainer.takes]
    if wrong:
        close = difflib.get_close_matches(wrong[0], sorted(trainer.takes), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(
            f"'{file}': trainer {name} takes no parameter '{wrong[0]}'.{hint} It takes: {', '.join(sorted(trainer.takes))}."
        )


def _value(file: Path, key: str, value: Any) -> Any:
    if key == "optimizer_name":
        if value not in OPTIMIZERS:
            raise ConfigError(f"'{file}': optimizer_name '{value}' is unknown. Choose from: {', '.join(OPTIMIZERS)}.")
        return value
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"'{file}': {key}={value!r} is not a number.") from error
    if not math.isfinite(number):
        raise ConfigError(f"'{file}': {key}={value!r} is not a finite number.")
    if key in COUNTS and number != int(number):
        raise ConfigError(f"'{file}': {key}={value!r} must be a whole number.")
    if key == "log_loss_every" and number < 1:
        raise ConfigError(f"'{file}': log_loss_every={value!r} must be at least 1, the steps between two entries.")
    return int(number) if key in COUNTS else number


def check_pair(pretrain: OriginalConfig, finetune: OriginalConfig) -> None:
    """Refuse two files that do not describe the same data or the same encoder, and what neither objective has."""
    kinds = (pretrain.trainer.kind, finetune.trainer.kind)
    if kinds[0] != kinds[1]:
        raise ConfigError(
            f"'{pretrain.file}' is of kind {kinds[0]}, '{finetune.file}' of kind {kinds[1]}: take both from one demo."
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
    missing = [t.width for t in finetune.kind.tables if t.width not in finetune.params]
    if missing or "sub_node" not in finetune.params:
        raise ConfigError(f"'{finetune.file}': {(missing or ['sub_node'])[0]} is missing.")
