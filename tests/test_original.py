"""The published program's interface: its YAML files, its folders, `two_step_train` and `infer`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import QUICK
from test_read_released import K, N, write_released

from soscope import infer, two_step_train
from soscope.conf_files import composed
from soscope.config_checks import check
from soscope.demos import demo_of
from soscope.errors import ConfigError
from soscope.original.overrides import _length, settings_of
from soscope.original.settings import FINETUNE, PRETRAIN, check_pair, read_original_config

SIZES = {"gene_dim": 3, "sub_node": K, "sub_dim": 5, "z_dim": 16, "head_num": 1}
JOINT = {"protein_dim": 1, "gene_dim": 2}
SHORT = [*QUICK, "trainer.progress=false", "graph.n_pairs=64"]


def write_yaml(file: Path, trainer: str, **params: object) -> Path:
    file.write_text(yaml.safe_dump({"trainer": trainer, "params": params}))
    return file


def two_files(folder: Path, first: str, second: str, **params: object) -> tuple[Path, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return write_yaml(folder / "VGAE.yml", first, **params), write_yaml(folder / "soScope.yml", second, **params)


def train(tmp_path: Path, data: Path, files: tuple[Path, Path], epochs: list[int], **more: object) -> Path:
    arguments: dict = {"logging": None, "device": "cpu", "checkpoint_every": 4, "backup_every": 3, "num_neighbors": 4}
    folders = {"vgae_experiment_dir": tmp_path / "vgae", "soScope_experiment_dir": tmp_path / "soscope"}
    configs = dict(zip(("vgae_config_file", "soScope_config_file"), files, strict=True))
    arguments |= folders | configs | {"data_dir": data, "epochs": epochs, "overrides": SHORT} | more
    return two_step_train(**arguments).folder


# YAML files ----------------------------------------------------------------------------------------------------------------


def test_numbers_as_the_program_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "soScope.yml"
    file.write_text(
        "trainer: soScope_NB\nparams:\n  # widths\n  gene_dim: 9\n  sub_node: 7\n  lr: 0.00_05\n  scale: 1e-1\n"
    )
    found = read_original_config(file, FINETUNE)
    assert found.params == {"gene_dim": 9, "sub_node": 7, "lr": 5e-4, "scale": 0.1}
    assert found.schedule("beta") == {
        "start": 1e-3,
        "end": 1.0,
        "steps": 100_000,
        "delay": 50_000,
    }  # its constructors' defaults


@pytest.mark.parametrize(
    ("trainer", "params", "says"),
    [
        ("soScope_Nb", SIZES, "trainer 'soScope_Nb' is unknown. Choose from: soScope_Gaussian, soScope_NB"),
        ("sc_NB", SIZES, "trainer 'sc_NB' is not taken here: single cells"),
        ("soScope_NB", SIZES | {"gama_end_value": 1}, "'gama_end_value' is unknown. Did you mean 'gamma_end_value'"),
        ("soScope_NB", SIZES | {"lr": "fast"}, "lr='fast' is not a number"),
        ("soScope_NB", SIZES | {"sub_node": 6.5}, "sub_node=6.5 must be a whole number"),
        ("soScope_NB", SIZES | {"optimizer_name": "Adagrad"}, "'Adagrad' is unknown. Choose from: Adam, SGD"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(trainer: str, params: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says.replace(".", r"\.")):
        read_original_config(write_yaml(tmp_path / "a.yml", trainer, **params), FINETUNE)


def test_two_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    first = read_original_config(write_yaml(tmp_path / "a.yml", "VGAETrainer_NB", **SIZES), PRETRAIN)
    for trainer, other, says in (
        ("soScope_Poisson", {}, "kind nb.*kind poisson"),
        ("soScope_NB", {"z_dim": 8}, "z_dim is 16 in .* and 8"),
        ("soScope_NB", {"weight_decay": 0.1}, "weight_decay=0.1 is not had"),
    ):
        second = read_original_config(write_yaml(tmp_path / "b.yml", trainer, **SIZES | other), FINETUNE)
        with pytest.raises(ConfigError, match=says):
            check_pair(first, second)


@pytest.mark.parametrize(("steps", "total", "longest"), [(2500, 2500, 25), (26, 26, 13), (6, 6, 6), (2018, 2025, 25)])
def test_steps_become_epochs_of_about_25(steps: int, total: int, longest: int) -> None:
    words = dict(word.split("=") for word in _length("finetune", steps))
    per_epoch, epochs = (int(words[f"finetune.{key}"]) for key in ("steps_per_epoch", "max_epochs"))
    assert (per_epoch * epochs, per_epoch) == (total, longest)


@pytest.mark.parametrize("objective", ["exact", "released"])
@pytest.mark.parametrize("pair", list(zip(PRETRAIN, FINETUNE, strict=True)))
def test_every_trainer_becomes_a_config(pair: tuple[str, str], objective: str, tmp_path: Path) -> None:
    more = JOINT if "Joint" in pair[1] else {}
    rates = {
        "lr": 0.002,
        "beta_start_value": 0.5,
        "beta_end_value": 0.75,
        "beta_n_iterations": 30,
        "beta_start_iteration": 2,
    }
    files = two_files(tmp_path, *pair, **SIZES | more | rates | {"gamma_end_value": 0.25, "graph_loss_weight": 3})
    first, second = read_original_config(files[0], PRETRAIN), read_original_config(files[1], FINETUNE)
    check_pair(first, second)
    cfg = composed(settings_of(first, second, tmp_path, (50, 26), 4, "cpu", objective))
    check(cfg)
    assert cfg.pretrain.max_epochs * cfg.pretrain.steps_per_epoch == 50
    assert cfg.finetune.max_epochs * cfg.finetune.steps_per_epoch == 26
    assert (cfg.model.n_latent, cfg.image.weight, cfg.platform.n_neighbours) == (16, 3, 4)
    assert cfg.pretrain.learning_rate == cfg.finetune.learning_rate == 0.002
    beta = {"start": 0.5, "end": 0.75, "steps": 30, "delay": 2}
    if objective == "exact":
        assert dict(cfg.objective.beta) == beta
    else:
        assert dict(demo_of(cfg).finetune.beta) == beta
        assert demo_of(cfg).finetune.gamma.end == 0.25
    widths = (
        [("protein", 1), ("rna", 2)] if second.kind == "joint" else [("atac", 1), ("rna", 2)] if more else [("rna", 3)]
    )
    assert list(cfg.data.options.tables.items()) == widths


# Training and inference -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A joint model on a folder with image features, of which the last column of counts is zero throughout."""
    folder = tmp_path_factory.mktemp("joint")
    data = write_released(folder / "data", features=5, counts=True)
    label = np.load(data / "label.npy")
    np.save(data / "label.npy", label * [1, 1, 0])
    files = two_files(folder, "VGAETrainer_Joint_PNB", "soScope_Joint", **SIZES | JOINT)
    train(folder, data, files, [8, 6], logging="yes")
    return folder


def test_result_has_the_programs_rows_and_columns_and_keeps_totals(joint: Path) -> None:
    found = infer(joint / "soscope", True, 4, joint / "data", joint / "result")
    written = np.load(joint / "result" / "infer_subspot.npy")
    np.testing.assert_array_equal(found, written)
    label = np.load(joint / "data" / "label.npy")
    assert written.shape == (N * K, 3)
    np.testing.assert_allclose(written.reshape(N, K, 3).mean(1), label, atol=1e-5)
    assert (written[:, 2] == 0).all()


def test_experiment_folders_hold_what_the_program_leaves(joint: Path) -> None:
    for folder, n in (("vgae", 2), ("soscope", 1)):
        assert {f"checkpoint_{i + 1}.pt" for i in range(n)} <= {f.name for f in (joint / folder).iterdir()}
        assert (joint / folder / "model.pt").is_file()
        assert yaml.safe_load((joint / folder / "config.yml").read_text())["params"]["protein_dim"] == 1


def test_event_files_have_the_programs_tags(joint: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = pd.read_csv(joint / "soscope" / "metrics.csv")
    for folder, stage in (("vgae", "pretrain"), ("soscope", "finetune")):
        events = EventAccumulator(str(joint / folder)).Reload()
        assert {"loss/kl_loss", "loss/node_loss", "loss/graph_loss", "loss/beta"} <= set(events.Tags()["scalars"])
        expected = metrics.loc[metrics["stage"] == stage, "train_kl"].dropna()
        np.testing.assert_allclose([e.value for e in events.Scalars("loss/kl_loss")], expected, rtol=1e-5)


def test_another_folder_is_enhanced_by_the_same_model(joint: Path, tmp_path: Path) -> None:
    data = write_released(tmp_path / "other", features=5, counts=True)
    label = np.load(data / "label.npy")[::-1] * [1, 1, 0]
    np.save(data / "label.npy", label)
    found = infer(joint / "soscope", True, 4, data, tmp_path / "result")
    np.testing.assert_allclose(found.reshape(N, K, 3).mean(1), label, atol=1e-5)


def test_another_neighbourhood_is_refused(joint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_neighbors=6, but the model was trained with 4"):
        infer(joint / "soscope", True, 6, joint / "data", tmp_path)


def test_the_published_objective_takes_the_same_call(tmp_path: Path) -> None:
    data = write_released(tmp_path / "data", features=5)
    files = two_files(tmp_path, "VGAETrainer", "soScope_Gaussian", **SIZES | {"optimizer_name": "SGD", "lr": 1e-4})
    run = train(tmp_path, data, files, [2, 2], objective="released")
    plain = infer(run, False, 4, data, tmp_path / "result")
    positive = infer(run, True, 4, data, tmp_path / "result")
    assert plain.min() < 0
    np.testing.assert_array_equal(positive, np.maximum(plain, 0))


@pytest.mark.parametrize(
    ("params", "more", "says"),
    [
        ({"sub_node": 9}, {}, "sub_node=9, but .* has 4 subspots per spot"),
        ({"gene_dim": 4}, {}, "has 3 columns, data.options.tables asks for 4 rna"),
        ({"sub_dim": 6}, {}, "has 5 columns, 6 are asked for"),
        ({}, {"device": "tpu"}, "device='tpu' is unknown. Choose from: cpu, cuda"),
        ({}, {"epochs": [5]}, "epochs=.5,. must be two numbers"),
        ({}, {"num_neighbors": 5}, "num_neighbors=5 is unknown. Choose from: 4, 6, 8"),
        ({}, {"objective": "best"}, "objective='best' is unknown. Choose from: exact, released"),
        ({}, {"checkpoint_every": 0}, "checkpoint_every=0 must be at least 1"),
    ],
)
def test_bad_calls_stop_before_training(params: dict, more: dict, says: str, tmp_path: Path) -> None:
    data = write_released(tmp_path / "data", features=5)
    files = two_files(tmp_path, "VGAETrainer", "soScope_Gaussian", **SIZES | params)
    with pytest.raises(Exception, match=says):
        train(tmp_path, data, files, **{"epochs": [2, 2]} | more)
    assert not (tmp_path / "soscope" / "pretrain").exists()
