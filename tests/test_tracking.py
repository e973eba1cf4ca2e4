"""TensorBoard and W&B: read back from the files they write, against the files of the run."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import QUICK, TINY
from PIL import Image
from space_ranger import write_folder
from wandb_records import read_artifacts

from soscope import artifacts
from soscope.errors import RunFolderError
from soscope.folder import RunFolder, write_text
from soscope.loggers import make_loggers
from soscope.read.base import hash_files
from soscope.stages import Run

WITHOUT_SECTION = [word for word in TINY if "options" not in word]


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory, soscope: Callable, cache: Path) -> Path:
    """Run folder of two commands, the second of which comes back to what the first began."""
    folder = tmp_path_factory.mktemp("events") / "run"
    words = [
        "train",
        *TINY,
        *QUICK,
        "logger=tensorboard",
        f"image.cache={cache}",
        f"hydra.run.dir={folder}",
    ]
    assert soscope(*words, "stages=[prepare,pretrain]") == 0
    assert soscope(*words) == 0
    return folder


@pytest.fixture(scope="module")
def accumulated(events: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(events / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return accumulator.Reload()


def test_tensorboard_holds_the_values_of_metrics_csv(events: Path, accumulated: Any) -> None:
    table = pd.read_csv(events / "metrics.csv").melt(["stage", "step"]).dropna()
    expected = {(f"{r.stage}/{r.variable}", r.step): r.value for r in table.itertuples()}
    tags = accumulated.Tags()["scalars"]
    found = {(tag, event.step): event.value for tag in tags for event in accumulated.Scalars(tag)}
    assert len(found) == sum(len(accumulated.Scalars(tag)) for tag in tags) > 10
    assert found == pytest.approx(expected, rel=1e-6)


def test_tensorboard_holds_the_reports_pictures(events: Path, accumulated: Any) -> None:
    tags = accumulated.Tags()["images"]
    files = list((events / "pictures").glob("*.png"))
    assert len(tags) == len(files) > 2
    sizes = sorted(Image.open(f).size for f in files)
    assert sorted((i.width, i.height) for tag in tags for i in accumulated.Images(tag)) == sizes


def test_tensorboard_holds_the_settings(accumulated: Any) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    content = accumulated.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["model.modalities.rna.likelihood"].string_value == "nb"
    assert hparams["finetune.learning_rate"].number_value == pytest.approx(2e-3)


@pytest.mark.parametrize("extra", ["tensorboard", "wandb"])
def test_missing_extra_is_named(extra: str, refused: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    refused(["train", *TINY, f"logger={extra}"], [f"pip install 'soscope[{extra}]'"])


def test_what_was_never_opened_is_not_opened_to_be_closed(compose: Callable, tmp_path: Path) -> None:
    for kind in ("csv", "tensorboard", "wandb"):
        for logger in make_loggers(compose(f"logger={kind}"), tmp_path):
            logger.close("success")
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of what runs with W&B leave when it is offline."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DATA_DIR", str(folder / "staging"))
        yield folder


@pytest.fixture(scope="module")
def command(offline: Path, cache: Path) -> list[str]:
    section = write_folder(offline / "liver 1")
    words = ["train", *WITHOUT_SECTION, "logger=wandb", "data=visium", f"data.path='{section}'", f"image.cache={cache}"]
    return [*words, "stages=[prepare,pretrain,finetune,enhance]", f"hydra.run.dir={offline / 'run'}"]


@pytest.fixture(scope="module")
def logged(offline: Path, command: list[str], soscope: Callable) -> dict[str, Any]:
    """Artifacts of one command by name, as the transaction log has them."""
    assert soscope(*command) == 0
    (file,) = logs(offline)
    artifacts = read_artifacts(file)
    assert [a.name for a in artifacts] == [
        *("input-liver-1", "prepared-liver-1", "encoder-liver-1", "model-liver-1", "result-liver-1"),
    ]
    return {a.name.removesuffix("-liver-1"): a for a in artifacts}


def logs(offline: Path) -> list[Path]:
    return sorted((offline / "run").glob("wandb/offline-run-*/run-*.wandb"), key=lambda f: f.stat().st_mtime_ns)


def md5(file: Path) -> str:
    return base64.b64encode(hashlib.md5(file.read_bytes(), usedforsecurity=False).digest()).decode()


def files_under(*paths: Path) -> dict[str, str]:
    """Return the digest of every file in files and folders, by its path from where they lie."""
    files = [(p, f) for p in paths for f in ([p] if p.is_file() else [f for f in p.rglob("*") if f.is_file()])]
    return {f.relative_to(p.parent).as_posix(): md5(f) for p, f in files}


def test_wandb_artifacts_hold_the_files_of_the_run(offline: Path, logged: dict[str, Any]) -> None:
    run = offline / "run"
    expected = {
        "prepared": ("dataset", files_under(run / "prepared" / "liver 1.zarr")),
        "encoder": ("model", files_under(run / "pretrain" / "encoder.pt", run / "pretrain" / "best.ckpt")),
        "model": ("model", files_under(run / "finetune" / "model.pt", run / "finetune" / "best.ckpt")),
        "result": ("result", files_under(run / "liver 1.zarr", run / "liver 1_rna.h5ad")),
    }
    for name, (kind, digests) in expected.items():
        artifact = logged[name]
        assert artifact.type == kind
        assert {e.path: e.digest for e in artifact.manifest.contents} == digests
        assert len(digests) > 1
        assert all(bool(e.ref) != (kind == "model") for e in artifact.manifest.contents)
        for entry in artifact.manifest.contents:
            kept = Path(entry.ref.removeprefix("file://") or entry.local_path)
            assert md5(kept) == entry.digest


def test_wandb_artifacts_tell_what_they_were_made_from(offline: Path, logged: dict[str, Any]) -> None:
    lineage = {
        "input": None,
        "prepared": ["input"],
        "encoder": ["prepared"],
        "model": ["prepared", "encoder"],
        "result": ["prepared", "model"],
    }
    for name, sources in lineage.items():
        metadata = json.loads(logged[name].metadata)
        expected = None if sources is None else {logged[s].name: logged[s].digest for s in sources}
        assert metadata.get("made_from") == expected
        assert logged[name].use_after_commit == (name == "input")
        assert set(logged[name].aliases) == {"latest"} | (
            {metadata["fingerprint"]} - ({metadata["fingerprint"]} if sources is None else set())
        )


def test_wandb_artifacts_say_what_they_are(offline: Path, logged: dict[str, Any]) -> None:
    provenance = json.loads((offline / "run" / "provenance.json").read_text())["inputs"]
    section = offline / "liver 1"
    hashes = {Path(f).relative_to(section).as_posix(): digest for f, digest in provenance.items()}
    assert json.loads(logged["input"].metadata)["blake2b"] == hashes
    entries = logged["input"].manifest.contents
    assert {e.path: (e.ref, e.digest) for e in entries} == {
        f: (f"file://{section / f}", md5(section / f)) for f in hashes
    }
    assert len(hashes) > 3
    prepared = json.loads(logged["prepared"].metadata)
    assert (prepared["n_spots"], prepared["n_subspots"], prepared["n_features"]) == (72, 504, {"rna": 12})
    assert json.loads(logged["model"].metadata)["likelihood"] == {"rna": "nb"}


def test_a_command_that_comes_back_logs_what_it_does_alone(
    offline: Path, command: list[str], logged: dict[str, Any], soscope: Callable
) -> None:
    assert soscope(*command) == 0
    assert len(logs(offline)) == 1
    assert soscope(*command, "stages=[enhance]", "enhance.draws=2", "logger.artifacts=all") == 0
    first, second = logs(offline)
    assert first.name == second.name  # the run's id: on the server it is one run
    (result,) = read_artifacts(second)
    made_from = json.loads(result.metadata)["made_from"]
    assert made_from == {logged[s].name: logged[s].digest for s in ("prepared", "model")}
    assert any(e.path.startswith("liver 1_rna_draws.zarr/") for e in result.manifest.contents)
    assert all(md5(Path(e.local_path)) == e.digest for e in result.manifest.contents)
    assert not any(e.ref for e in result.manifest.contents)


def test_sections_prepared_elsewhere_are_used_and_not_made(offline: Path, logged: dict[str, Any]) -> None:
    """As in a benchmark, whose methods share them."""
    cfg = RunFolder(offline / "run").config()
    cfg.benchmark = {"merge": "hex7"}
    folder = RunFolder(offline / "method", prepared_in=offline / "run" / "prepared")
    with pytest.raises(RunFolderError, match=r"holds none of .*encoder\.pt"):
        artifacts.encoder(Run(cfg, folder, [], {}))
    write_text(folder.encoder_file, "weights")
    (encoder,) = artifacts.encoder(Run(cfg, folder, [], {}))
    assert encoder.inside
    assert [(a.name, a.inside) for a in encoder.made_from] == [("benchmark-prepared-liver-1", False)]


def test_raw_files_belong_to_their_section_and_shared_ones_to_all(
    compose: Callable, trained: Path, tmp_path: Path
) -> None:
    names = ["a/matrix.h5", "b/matrix.h5", "weights/matrix.h5"]
    for name in names:
        write_text(tmp_path / name, name)
    cfg = compose(f"data.path=[{tmp_path / 'a'},{tmp_path / 'b'}]", "model=nb")
    for section in ("a", "b"):
        shutil.copytree(trained / "prepared" / "demo.zarr", tmp_path / "run" / "prepared" / f"{section}.zarr")
    run = Run(cfg, RunFolder(tmp_path / "run"), [], hash_files([tmp_path / n for n in names]))
    shared = (tmp_path / "weights" / "matrix.h5").as_posix().lstrip("/")
    for section, made in zip("ab", artifacts.prepared(run), strict=True):
        (given,) = made.made_from
        assert given.paths == {
            "matrix.h5": tmp_path / section / "matrix.h5",
            shared: tmp_path / "weights" / "matrix.h5",
        }
        assert not given.inside


@pytest.mark.slow
def test_no_artifacts_when_none_are_asked_for(
    offline: Path, command: list[str], logged: dict[str, Any], soscope: Callable
) -> None:
    before = len(logs(offline))
    words = [w.replace(f"{offline / 'run'}", f"{offline / 'other'}") for w in command]
    assert soscope(*words, "logger.artifacts=none", "stages=[prepare,pretrain]") == 0
    (file,) = (offline / "other").glob("wandb/offline-run-*/run-*.wandb")
    assert b"pretrain/train_loss" in file.read_bytes()
    assert not read_artifacts(file)
    assert len(logs(offline)) == before
