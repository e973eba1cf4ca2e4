"""The published program's interface: its folders, `two_step_train` and `infer`."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import QUICK
from test_original_settings import JOINT, SIZES, two_files
from test_read_released import K, N, write_released

from soscope import infer, two_step_train
from soscope.errors import ConfigError, DataError, RunFolderError
from soscope.original.files import Events

SHORT = [*QUICK, "stages=[prepare,pretrain,finetune,enhance]", "trainer.progress=false", "graph.n_pairs=64"]


def train(tmp_path: Path, data: Path, files: tuple[Path, Path], epochs: list[int], **more: object) -> Path:
    arguments: dict = {"logging": None, "device": "cpu", "checkpoint_every": 4, "backup_every": 3, "num_neighbors": 4}
    folders = {"vgae_experiment_dir": tmp_path / "vgae", "soScope_experiment_dir": tmp_path / "soscope"}
    configs = dict(zip(("vgae_config_file", "soScope_config_file"), files, strict=True))
    arguments |= folders | configs | {"data_dir": data, "epochs": epochs, "overrides": SHORT} | more
    return two_step_train(**arguments).folder


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


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.mark.parametrize(
    ("every", "expected"), [(50, [(50, 1.5), (100, 3.5)]), (None, [(25, 1), (50, 2), (75, 3), (100, 4)])]
)
def test_entries_are_as_far_apart_as_the_file_says(every: int | None, expected: list, tmp_path: Path) -> None:
    module = SimpleNamespace(stage="finetune", settings=SimpleNamespace(beta=SimpleNamespace(at=float)))
    callback, trainer = Events(tmp_path, every), SimpleNamespace(global_step=0, is_global_zero=True)
    callback.on_fit_start(trainer, module)
    callback.on_train_start(trainer, module)
    for epoch in range(1, 5):
        trainer.global_step, trainer.callback_metrics = 25 * epoch, {"finetune/train_kl": torch.tensor(float(epoch))}
        callback.on_train_epoch_end(trainer, module)
    callback.on_fit_end(trainer, module)
    assert events(tmp_path)["loss/kl_loss"] == expected


def test_coming_back_leaves_files_as_they_are(joint: Path) -> None:
    own = {folder: joint / folder / "config.yml" for folder in ("vgae", "soscope")}
    before = sorted(f.name for f in joint.rglob("*tfevents*"))
    train(joint, joint / "data", (own["vgae"], own["soscope"]), [8, 6], logging="yes")
    assert sorted(f.name for f in joint.rglob("*tfevents*")) == before
    written = own["soscope"].read_text()
    files = two_files(joint / "other", "VGAETrainer_Joint_PNB", "soScope_Joint", **SIZES | JOINT | {"lr": 0.1})
    with pytest.raises(RunFolderError, match="learning_rate is"):
        train(joint, joint / "data", files, [8, 6], logging="yes")
    assert own["soscope"].read_text() == written


def unseen(folder: Path) -> tuple[Path, np.ndarray]:
    """Another folder, which has counts of the feature that was zero where the model was trained, and its ``label.npy``."""
    data = write_released(folder, features=5, counts=True)
    label = np.load(data / "label.npy")[::-1].copy()
    np.save(data / "label.npy", label)
    return data, label


def another_model(run: Path, to: Path) -> Path:
    """Copy a run with other weights, as one that was trained on another section with the same files."""
    shutil.copytree(run, to)
    content = torch.load(to / "finetune" / "model.pt", weights_only=True)
    for name, value in content["state"].items():
        if name.startswith("decoder."):
            content["state"][name] = 10 * value
    torch.save(content, to / "finetune" / "model.pt")
    return to


def test_every_model_and_folder_has_a_result_of_its_own(joint: Path, tmp_path: Path) -> None:
    data, label = unseen(tmp_path / "one" / "section")
    same_name, _ = unseen(tmp_path / "two" / "section")
    np.save(same_name / "label.npy", label[::-1])
    other, result = another_model(joint / "soscope", tmp_path / "other"), tmp_path / "result"
    first, second = (infer(run, True, 4, data, result) for run in (joint / "soscope", other))
    third = infer(other, True, 4, same_name, result)
    for found, means in ((first, label), (second, label), (third, label[::-1])):
        np.testing.assert_allclose(found.reshape(N, K, 3).mean(1), means, atol=1e-5)
        np.testing.assert_allclose(found[:, 2], np.repeat(means[:, 2], K), rtol=1e-6, err_msg="unknown to the model")
    assert np.abs(first - second).max() > 0.01
    np.testing.assert_array_equal(infer(joint / "soscope", True, 4, data, result), first)


def test_a_result_that_does_not_belong_to_the_folder_is_refused(joint: Path, tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    from soscope.original.result import all_columns

    infer(joint / "soscope", True, 4, joint / "data", tmp_path / "result")
    cfg = OmegaConf.load(joint / "soscope" / "config.yaml")
    tables = {"protein": joint / "soscope" / "data_protein.h5ad", "rna": joint / "soscope" / "data_rna.h5ad"}
    cfg.data.options.feature_names = ["a", "b", "c"]
    with pytest.raises(DataError, match="data_protein.h5ad' has 100 subspots and 1 features that are not of"):
        all_columns(cfg, joint / "data", tables)


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


def test_what_is_left_aside_is_printed_and_enhancing_can_wait(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write_released(tmp_path / "data")
    files = two_files(tmp_path, "VGAETrainer", "soScope_Gaussian", **SIZES | {"gene_dim": 2, "scale": 5})
    stages = "stages=[prepare,pretrain,finetune]"
    run = train(tmp_path, data, files, [2, 2], overrides=[*SHORT, stages])
    said = " ".join(capsys.readouterr().out.split())
    assert "soScope.yml: objective=exact has no use for scale" in said
    assert "label.npy: columns 3 to 3 are left out" in said
    assert "holds no support_feature.npy: trained without image features; sub_dim has no use" in said
    found = infer(run, False, 4, data, tmp_path / "result")
    np.testing.assert_allclose(found[:, :2].reshape(N, K, 2).mean(1), np.load(data / "label.npy")[:, :2], atol=1e-4)


@pytest.mark.parametrize(
    ("params", "more", "kind", "says"),
    [
        ({"sub_node": 9}, {}, ConfigError, "sub_node=9, but .* has 4 subspots per spot.*or write sub_node: 4"),
        ({"gene_dim": 4}, {}, DataError, "has 3 columns, data.options.tables asks for 4 rna"),
        ({"sub_dim": 6}, {}, DataError, "has 5 columns, 6 are asked for"),
        ({}, {"device": "tpu"}, ConfigError, "device='tpu' is unknown. Choose from: cpu, cuda"),
        ({}, {"epochs": [5]}, ConfigError, "epochs=.5,. must be two numbers"),
        ({}, {"num_neighbors": 5}, ConfigError, "num_neighbors=5 is unknown. Choose from: 4, 6, 8"),
        ({}, {"objective": "best"}, ConfigError, "objective='best' is unknown. Choose from: exact, released"),
        ({}, {"checkpoint_every": 0}, ConfigError, "checkpoint_every=0 must be at least 1"),
        ({}, {"overrides": ["stages=[prepare]"]}, ConfigError, "leaves out pretrain, which two_step_train is for"),
    ],
)
def test_bad_calls_stop_before_training(params: dict, more: dict, kind: type, says: str, tmp_path: Path) -> None:
    data = write_released(tmp_path / "data", features=5)
    files = two_files(tmp_path, "VGAETrainer", "soScope_Gaussian", **SIZES | params)
    with pytest.raises(kind, match=says):
        train(tmp_path, data, files, **{"epochs": [2, 2], "logging": "yes"} | more)
    assert not (tmp_path / "vgae").exists()
    assert not list(tmp_path.rglob("config.yml")) + list(tmp_path.rglob("*tfevents*"))
