"""The published program's YAML files: its demos as they stand in its repository, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from test_read_released import K

from soscope.conf_files import composed
from soscope.config_checks import check
from soscope.demos import demo_of
from soscope.errors import ConfigError
from soscope.original.overrides import _length, device_words, notes_of, settings_of
from soscope.original.settings import FINETUNE, PRETRAIN, OriginalConfig, check_pair, read_original_config
from soscope.training import count_devices

SIZES = {"gene_dim": 3, "sub_dim": 5, "z_dim": 16, "head_num": 1}
JOINT = {"protein_dim": 1, "gene_dim": 2}


def write_yaml(file: Path, trainer: str, **params: object) -> Path:
    file.write_text(yaml.safe_dump({"trainer": trainer, "params": params}))
    return file


def two_files(folder: Path, first: str, second: str, **params: object) -> tuple[Path, Path]:
    """Write both stages' files with the parameters each trainer takes."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {"sub_node": K} | params
    takes = [(PRETRAIN | FINETUNE)[name].takes for name in (first, second)]
    own = [{k: v for k, v in given.items() if k in t or k not in FINETUNE[second].takes} for t in takes]
    return write_yaml(folder / "VGAE.yml", first, **own[0]), write_yaml(folder / "soScope.yml", second, **own[1])


def read_pair(files: tuple[Path, Path]) -> tuple[OriginalConfig, OriginalConfig]:
    first, second = read_original_config(files[0], PRETRAIN), read_original_config(files[1], FINETUNE)
    check_pair(first, second)
    return first, second


# The demos ---------------------------------------------------------------------------------------------------------------

FLAT = "z_dim: 128, sub_dim: 2048, beta_start_value: 1, beta_end_value: 1"
DEMOS = {
    "Gaussian_x5": (
        f"""params: {{{FLAT}, gene_dim: 2, head_num: 1, lr: 0.0001, optimizer_name: SGD, beta_n_iterations: 10000,
          beta_start_iteration: 5000}}
trainer: VGAETrainer
""",
        f"""params: {{{FLAT}, gene_dim: 2, head_num: 1, lr: 0.001, optimizer_name: Adam, scale: 1, sub_node: 25,
          graph_loss_weight: 1, gamma_start_value: 1, gamma_end_value: 0.0001, beta_n_iterations: 80000,
          beta_start_iteration: 25000}}
trainer: soScope_Gaussian
""",
    ),
    "NB": (
        f"""trainer: VGAETrainer_NB
params:  {{{FLAT}, gene_dim: 9, sub_node: 7, optimizer_name: 'Adam', scale: 10, lr: 0.00_1, beta_n_iterations: 10000,
          beta_start_iteration: 5000}}""",
        f"""trainer: soScope_NB
params:  {{{FLAT}, gene_dim: 9, sub_node: 7, optimizer_name: 'Adam', scale: 1, lr: 0.00_05, gamma_start_value: 1,
          gamma_end_value: 0.01, beta_n_iterations: 10000, beta_start_iteration: 5000}}""",
    ),
    "Poisson": (
        """trainer: VGAETrainer_Poisson
params:  {gene_dim: 60, sub_dim: 2048, z_dim: 128, sub_node: 4, optimizer_name: 'Adam', lr: 0.00_1, beta_start_value: 0.001,
          beta_end_value: 1, beta_n_iterations: 10000, head_num: 1, beta_start_iteration: 5000}""",
        f"""params: {{{FLAT}, graph_loss_weight: 1, gamma_start_value: 1, gamma_end_value: 0.00_1, gene_dim: 60, lr: 0.00_01,
          optimizer_name: 'Adam', scale: 5, head_num: 1, sub_node: 4, beta_n_iterations: 20000, beta_start_iteration: 10000}}
trainer: soScope_Poisson""",
    ),
    "Multiomics_all": (
        f"""trainer: VGAETrainer_Joint_PNB
params:  {{{FLAT}, protein_dim: 283, gene_dim: 114, sub_node: 4, optimizer_name: 'Adam', lr: 0.00_1, head_num: 1,
          beta_n_iterations: 10000, beta_start_iteration: 10000}}""",
        f"""params: {{{FLAT}, gamma_end_value: 0.001, gamma_start_value: 1, gene_dim: 114, graph_loss_weight: 1, head_num: 1,
          lr: 0.000_1, optimizer_name: Adam, protein_dim: 283, scale: 1, sub_node: 4, beta_n_iterations: 20000,
          beta_start_iteration: 20000}}
trainer: soScope_Joint""",
    ),
    "MultiomicsGaussian": (
        f"""trainer: VGAETrainer_Joint_GNB
params:  {{{FLAT}, protein_dim: 25, gene_dim: 25, sub_node: 9, optimizer_name: 'Adam', lr: 0.00_1, head_num: 1,
          beta_n_iterations: 10000, beta_start_iteration: 10000}}""",
        f"""params: {{{FLAT}, gamma_end_value: 0.001, gamma_start_value: 1, gene_dim: 25, graph_loss_weight: 1, head_num: 1,
          lr: 0.000_1, optimizer_name: Adam, protein_dim: 25, scale_p: 0.05, scale_g: 1, scale: 1, sub_node: 9,
          beta_n_iterations: 20000, beta_start_iteration: 20000}}
trainer: soScope_JointGaussian""",
    ),
    "NB_sc": (
        f"""trainer: VGAETrainer_NB
params:  {{{FLAT}, gene_dim: 10, sub_node: 9, optimizer_name: 'Adam', scale: 1, lr: 0.00_1, beta_n_iterations: 10000,
          beta_start_iteration: 5000}}""",
        f"""params: {{{FLAT}, gamma_end_value: 0.01, gamma_start_value: 1, gene_dim: 10, lr: 0.0001, optimizer_name: Adam,
          scale: 0.5, sub_node: 1, beta_n_iterations: 10000, beta_start_iteration: 5000}}
trainer: sc_NB""",
    ),
}
"""The six pairs of ``soScope_demo/config``, numbers spelled as there."""


def demo(name: str, folder: Path) -> tuple[Path, Path]:
    files = folder / "VGAE.yml", folder / "soScope.yml"
    for file, text in zip(files, DEMOS[name], strict=True):
        file.write_text(text)
    return files


@pytest.mark.parametrize(
    ("name", "model", "tables", "rates", "gamma_end", "subspots"),
    [
        ("Gaussian_x5", "gaussian", {"rna": 2}, (1e-4, 1e-3), 1e-4, 25),
        ("NB", "nb", {"rna": 9}, (1e-3, 5e-4), 1e-2, 7),
        ("Poisson", "poisson", {"rna": 60}, (1e-3, 1e-4), 1e-3, 4),
        ("Multiomics_all", "joint_poisson_nb", {"protein": 283, "rna": 114}, (1e-3, 1e-4), 1e-3, 4),
        ("MultiomicsGaussian", "joint_gaussian_nb", {"atac": 25, "rna": 25}, (1e-3, 1e-4), 1e-3, 9),
    ],
)
def test_demos_files_become_the_released_objective(
    name: str, model: str, tables: dict, rates: tuple, gamma_end: float, subspots: int, tmp_path: Path
) -> None:
    first, second = read_pair(demo(name, tmp_path))
    cfg = composed(settings_of(first, second, tmp_path, (50, 50), 4, "cpu", "released"))
    check(cfg)
    assert (cfg.model.name, dict(cfg.data.options.tables)) == (model, tables)
    assert (cfg.split.subspots, cfg.model.n_latent, cfg.image.weight) == (subspots, 128, 1)
    assert (cfg.pretrain.learning_rate, cfg.finetune.learning_rate) == pytest.approx(rates)
    assert demo_of(cfg).finetune.gamma.end == pytest.approx(gamma_end)


def test_what_divides_the_squared_error(tmp_path: Path) -> None:
    scale, scales, of_first = {}, {}, {}
    for name in ("Gaussian_x5", "NB", "Poisson", "MultiomicsGaussian"):
        first, second = read_pair(demo(name, tmp_path))
        stages = demo_of(composed(settings_of(first, second, tmp_path, (50, 50), 4, "cpu", "released")))
        scale[name], scales[name] = stages.finetune.scale, dict(stages.finetune.scales)
        of_first[name] = (stages.pretrain.scale, stages.pretrain.optimizer, stages.finetune.optimizer)
    assert scale == {"Gaussian_x5": 1, "NB": 1, "Poisson": 1, "MultiomicsGaussian": 1}, (
        "its Poisson model divides by none"
    )
    assert scales == {"Gaussian_x5": {}, "NB": {}, "Poisson": {}, "MultiomicsGaussian": {"atac": 0.05, "rna": 1.0}}
    assert of_first["NB"] == (10, "adam", "adam")
    assert of_first["Gaussian_x5"] == (11.16418, "sgd", "adam"), "the default of its constructor"


def test_single_cells_are_refused_with_the_recipe(tmp_path: Path) -> None:
    first, second = demo("NB_sc", tmp_path)
    assert read_original_config(first, PRETRAIN).params["lr"] == 1e-3
    with pytest.raises(ConfigError, match="trainer 'sc_NB' is not taken here: single cells.*single-cells.md"):
        read_original_config(second, FINETUNE)


def test_what_exact_leaves_aside_is_told(tmp_path: Path) -> None:
    notes = notes_of(*read_pair(demo("Poisson", tmp_path)), tmp_path, "exact")
    assert notes[0] == "VGAE.yml: objective=exact has no use for beta_* (those of the other file are taken)"
    assert notes[1] == "soScope.yml: objective=exact has no use for scale, gamma_start_value, gamma_end_value"
    assert "holds no support_feature.npy: trained without image features; sub_dim has no use" in notes[2]
    assert len(notes_of(*read_pair(demo("Poisson", tmp_path)), tmp_path, "released")) == 1


# Trainers and parameters --------------------------------------------------------------------------------------------------


def test_the_programs_defaults_where_a_file_is_silent(tmp_path: Path) -> None:
    found = read_original_config(write_yaml(tmp_path / "a.yml", "soScope_Gaussian", **SIZES), FINETUNE)
    assert found.params["sub_node"] == 9
    assert found.schedule("beta") == {"start": 1e-3, "end": 1.0, "steps": 100_000, "delay": 50_000}
    first = read_original_config(write_yaml(tmp_path / "b.yml", "VGAETrainer_NB", **SIZES), PRETRAIN)
    second = read_original_config(write_yaml(tmp_path / "c.yml", "soScope_NB", **SIZES), FINETUNE)
    with pytest.raises(ConfigError, match="sub_node is missing"):
        check_pair(first, second)


@pytest.mark.parametrize(
    ("trainer", "params", "says"),
    [
        ("soScope_Nb", {}, "trainer 'soScope_Nb' is unknown. Choose from: soScope_Gaussian, soScope_NB"),
        ("soScope_NB", {"gama_end_value": 1}, "takes no parameter 'gama_end_value'. Did you mean 'gamma_end_value'"),
        ("soScope_NB", {"lr": "fast"}, "lr='fast' is not a number"),
        ("soScope_NB", {"lr": float("nan")}, "lr=nan is not a finite number"),
        ("soScope_NB", {"z_dim": float("inf")}, "z_dim=inf is not a finite number"),
        ("soScope_NB", {"sub_node": 6.5}, "sub_node=6.5 must be a whole number"),
        ("soScope_NB", {"log_loss_every": 0}, "log_loss_every=0 must be at least 1"),
        ("soScope_NB", {"optimizer_name": "Adagrad"}, "'Adagrad' is unknown. Choose from: Adam, SGD"),
        ("soScope_NB", {"protein_dim": 3}, "trainer soScope_NB takes no parameter 'protein_dim'"),
        ("soScope_NB", {"scale_g": 5}, "trainer soScope_NB takes no parameter 'scale_g'"),
        ("soScope_Joint", {"scale_p": 5}, "trainer soScope_Joint takes no parameter 'scale_p'"),
        ("VGAETrainer", {"sub_node": 4}, "trainer VGAETrainer takes no parameter 'sub_node'"),
        ("VGAETrainer_NB", {"graph_loss_weight": 2}, "VGAETrainer_NB takes no parameter 'graph_loss_weight'"),
        ("VGAETrainer_NB", {"gamma_end_value": 2}, "VGAETrainer_NB takes no parameter 'gamma_end_value'"),
        ("VGAETrainer_NB", {"weight_decay": 0}, "VGAETrainer_NB takes no parameter 'weight_decay'"),
        ("VGAETrainer_Joint_GNB", {"scale_p": 1}, "VGAETrainer_Joint_GNB takes no parameter 'scale_p'"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(trainer: str, params: dict, says: str, tmp_path: Path) -> None:
    trainers = PRETRAIN if trainer.startswith("VGAE") else FINETUNE
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
        read_original_config(write_yaml(tmp_path / "a.yml", trainer, **SIZES | params), trainers)


def test_two_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    sizes = SIZES | {"sub_node": K}
    first = read_original_config(write_yaml(tmp_path / "a.yml", "VGAETrainer_NB", **sizes), PRETRAIN)
    for trainer, other, says in (
        ("soScope_Poisson", {}, "kind nb.*kind poisson"),
        ("soScope_NB", {"z_dim": 8}, "z_dim is 16 in .* and 8"),
        ("soScope_NB", {"weight_decay": 0.1}, "weight_decay=0.1 is not had"),
    ):
        second = read_original_config(write_yaml(tmp_path / "b.yml", trainer, **sizes | other), FINETUNE)
        with pytest.raises(ConfigError, match=says):
            check_pair(first, second)


# From both to a config ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "total", "longest"), [(2500, 2500, 25), (26, 26, 13), (6, 6, 6), (2018, 2025, 25)])
def test_steps_become_epochs_of_about_25(steps: int, total: int, longest: int) -> None:
    words = dict(word.split("=") for word in _length("finetune", steps))
    per_epoch, epochs = (int(words[f"finetune.{key}"]) for key in ("steps_per_epoch", "max_epochs"))
    assert (per_epoch * epochs, per_epoch) == (total, longest)


@pytest.mark.parametrize(("device", "devices"), [("cuda:1", [1]), ("cuda", 1), ("cpu", 1), ("cpu:0", 1)])
def test_a_device_keeps_its_index(device: str, devices: object) -> None:
    cfg = composed(device_words(device))
    assert cfg.trainer.accelerator == ("cpu" if device.startswith("cpu") else "gpu")
    assert cfg.trainer.devices == devices
    assert count_devices(cfg) == 1
    with pytest.raises(ConfigError, match="'cuda:second' is unknown"):
        device_words("cuda:second")


@pytest.mark.parametrize("objective", ["exact", "released"])
@pytest.mark.parametrize("pair", list(zip(PRETRAIN, FINETUNE, strict=True)))
def test_every_trainer_becomes_a_config(pair: tuple[str, str], objective: str, tmp_path: Path) -> None:
    more = JOINT if "Joint" in pair[1] else {}
    beta = {"beta_start_value": 0.5, "beta_end_value": 0.75, "beta_n_iterations": 30, "beta_start_iteration": 2}
    params = SIZES | more | beta | {"lr": 0.002, "gamma_end_value": 0.25, "graph_loss_weight": 3}
    first, second = read_pair(two_files(tmp_path, *pair, **params))
    cfg = composed(settings_of(first, second, tmp_path, (50, 26), 4, "cpu", objective))
    check(cfg)
    assert cfg.pretrain.max_epochs * cfg.pretrain.steps_per_epoch == 50
    assert cfg.finetune.max_epochs * cfg.finetune.steps_per_epoch == 26
    assert (cfg.model.n_latent, cfg.image.weight, cfg.platform.n_neighbours) == (16, 3, 4)
    assert cfg.pretrain.learning_rate == cfg.finetune.learning_rate == 0.002
    expected = {"start": 0.5, "end": 0.75, "steps": 30, "delay": 2}
    if objective == "exact":
        assert dict(cfg.objective.beta) == expected
    else:
        assert dict(demo_of(cfg).finetune.beta) == expected
        assert demo_of(cfg).finetune.gamma.end == 0.25
    other = "protein" if second.trainer.kind == "joint" else "atac"
    assert list(cfg.data.options.tables.items()) == ([(other, 1), ("rna", 2)] if more else [("rna", 3)])
