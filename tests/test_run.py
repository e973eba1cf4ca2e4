"""Whole runs on a tiny simulated section: outputs, coming back, resuming, refusing, sweeping."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import spatialdata
import torch
import yaml
from conftest import QUICK, TINY

from soscope.build import build_finetune, build_pretrain
from soscope.data.module import SectionsDataModule
from soscope.folder import RunFolder
from soscope.provenance import commands
from soscope.result import shrunk
from soscope.training import fit_stage


def test_result_opens_in_spatialdata_and_adds_up(trained: Path) -> None:
    sdata = spatialdata.read_zarr(trained / "demo.zarr")
    assert set(sdata.tables) == {"rna", "rna_enhanced", "image_features"}
    assert set(sdata.coordinate_systems) == {"global", "um"}
    observed, enhanced = sdata["rna"], sdata["rna_enhanced"]
    parent = sdata.shapes["subspots"]["parent"].to_numpy()
    sums = np.zeros(observed.shape)
    np.add.at(sums, parent, enhanced.X.toarray())
    np.testing.assert_allclose(sums, observed.X.toarray(), rtol=1e-9, atol=1e-9)
    mean, low, high = (m.toarray() for m in (enhanced.X, enhanced.layers["q05"], enhanced.layers["q95"]))
    assert (low <= mean + 1).all()
    assert (mean <= high + 1).all()
    assert (mean[observed.X.toarray()[parent] == 0] == 0).all()
    assert enhanced.layers["sd"].nnz > 0
    assert sdata.attrs["soscope"]["format_version"] == 3
    assert observed.obsm["X_soscope"].shape == (observed.n_obs, 128)


def test_h5ad_is_plotted_by_scanpy_and_squidpy_as_it_is(trained: Path) -> None:
    import matplotlib as mpl
    import squidpy as sq

    mpl.use("agg")
    table = anndata.read_h5ad(trained / "demo_rna.h5ad")
    gene = table.var_names[0]
    sc.pl.embedding(table, basis="spatial", color=gene, show=False)
    sq.pl.spatial_scatter(table, color=gene)
    sq.pl.spatial_scatter(table, color=gene, layer="sd", shape=None)
    assert {"sd", "q05", "q95"} <= set(table.layers)


def test_run_folder_holds_what_the_docs_promise(trained: Path) -> None:
    for name in ("config.yaml", "provenance.json", "metrics.csv", "report.html", "comparison.csv", "stages.json"):
        assert (trained / name).is_file(), name
    for name in ("pretrain/encoder.pt", "pretrain/last.ckpt", "finetune/model.pt", "finetune/last.ckpt"):
        torch.load(trained / name, weights_only=True)
    provenance = json.loads((trained / "provenance.json").read_text())
    assert provenance["stages"]["finetune"]["versions"]["torch"] == torch.__version__.split("+")[0]
    metrics = pd.read_csv(trained / "metrics.csv")
    assert set(metrics["stage"]) == {"pretrain", "finetune"}
    assert metrics["held_out_loss"].notna().all()
    assert yaml.safe_load((trained / "config.yaml").read_text())["platform"]["n_neighbours"] == 6
    assert not list(trained.rglob("*.partial"))


def test_report_is_self_contained(trained: Path) -> None:
    page = (trained / "report.html").read_text()
    assert page.count('<img src="data:image/png;base64,') == len(list((trained / "pictures").glob("*.png"))) > 6
    markup = re.sub(
        r"<script.*?</script>", "", page, flags=re.DOTALL
    )  # test_interactive.py looks at what scripts ask for
    assert len(markup) < len(page)
    assert not re.search(r'(src|href)="(?!data:)', markup)
    assert "spread over its whole cell" in page
    scores = pd.read_csv(trained / "comparison.csv")
    assert set(scores["method"]) == {"soscope", "copy_down"}
    assert (scores.loc[scores["method"] == "copy_down", "within_spot_r"].abs() < 1e-9).all()


def snapshot(folder: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}


def test_same_command_comes_back_and_does_nothing_twice(
    trained: Path, soscope: Callable, cache: Path, capsys: pytest.CaptureFixture
) -> None:
    before = snapshot(trained)
    assert soscope(*TINY, f"image.cache={cache}", f"hydra.run.dir={trained}") == 0
    out = capsys.readouterr().out
    assert out.count("done before") == 6
    changed = {Path(f).name for f, t in snapshot(trained).items() if before.get(f) != t}
    assert changed <= {"config.yaml"}


def test_a_refused_command_leaves_no_folder_of_its_own(
    soscope: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert soscope("train", "data=visium", f"data.path={tmp_path / 'nowhere'}", "data.options={}") == 1
    assert soscope(*TINY, "model=nb", "data.features=[nothing]", "image=none") == 1
    assert not list((tmp_path / "runs").iterdir())
    (tmp_path / "config.yaml").write_text("mine")
    assert soscope("doctor", "data=visium", f"data.path={tmp_path / 'nowhere'}", "data.options={}") == 1
    assert (tmp_path / "config.yaml").read_text() == "mine"


def test_commands_are_told_as_they_are_typed(tmp_path: Path) -> None:
    words = ["/env/bin/soscope", "train", "data.path=my folder"]
    again, module = ["/x/train.py", "seed=1"], ["/x/soscope/__main__.py", "report"]
    made = {"prepare": words, "pretrain": words, "finetune": again, "report": module}
    content = {"stages": {stage: {"command": command} for stage, command in made.items()}}
    (tmp_path / "provenance.json").write_text(json.dumps(content))
    expected = ["soscope train 'data.path=my folder'", "python train.py seed=1", "python -m soscope report"]
    assert commands(RunFolder(tmp_path)) == expected


def test_pictures_in_h5ad_are_small_and_in_place() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (30, 50, 3), dtype=np.uint8)
    picture = np.repeat(np.repeat(coarse, 4, 0), 4, 1)
    found, scale = shrunk(picture, 50)
    assert scale == 0.25
    np.testing.assert_array_equal(found, coarse)
    assert shrunk(coarse, 50) == (pytest.approx(coarse), 1.0)


def test_folder_with_another_config_is_refused_and_left_alone(
    trained: Path, soscope: Callable, cache: Path, capsys: pytest.CaptureFixture
) -> None:
    before = snapshot(trained)
    assert soscope(*TINY, f"image.cache={cache}", f"hydra.run.dir={trained}", "seed=5") == 1
    err = capsys.readouterr().err
    assert "seed is 0 there, 5 here" in err
    assert "hydra.run.dir" in err
    assert snapshot(trained) == before


def test_report_and_enhance_of_a_finished_run(trained: Path, soscope: Callable, capsys: pytest.CaptureFixture) -> None:
    gene = anndata.read_h5ad(trained / "demo_rna.h5ad").var_names[-1]
    assert soscope("report", f"run={trained}", f"report.features=[{gene}]") == 0
    assert f"demo, rna: {gene}" in (trained / "report.html").read_text()
    assert soscope("report", f"run={trained}", "report.features=[nothing]") == 1
    assert "'nothing' was not enhanced" in capsys.readouterr().err
    assert soscope("report", f"run={trained}", "seed=4") == 1
    assert "'seed' cannot be changed afterwards" in capsys.readouterr().err
    try:
        assert soscope("enhance", f"run={trained}", "enhance.posterior=prior") == 0
        assert "Profiles are the decoder" in (trained / "report.html").read_text()
        assert isinstance(anndata.read_h5ad(trained / "demo_rna.h5ad").X, np.ndarray)
    finally:
        assert soscope("enhance", f"run={trained}") == 0


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_resuming_equals_the_uninterrupted_run(stage: str, trained: Path, compose: Callable, tmp_path: Path) -> None:
    cfg = compose("data.held_out=0.2", f"{stage}.max_epochs=4")
    build = build_pretrain if stage == "pretrain" else build_finetune

    def train(folder: Path, stop_at: int | None) -> torch.nn.Module:
        data = SectionsDataModule([trained / "prepared" / "demo.zarr"], ["rna"], cfg.model.z_width, cfg.data.held_out)
        data.setup()
        module = build(cfg, data)

        def maybe_stop() -> None:
            if module.current_epoch == stop_at:
                raise Stopped

        module.on_train_epoch_start = maybe_stop  # type: ignore[method-assign]
        fit_stage(cfg, module, data, cfg[stage], folder, [])
        return module

    whole = train(tmp_path / "whole", None)
    with pytest.raises(Stopped):
        train(tmp_path / "parts", 2)
    resumed = train(tmp_path / "parts", None)
    last = [torch.load(tmp_path / f / "last.ckpt", weights_only=True) for f in ("whole", "parts")]
    assert last[0]["global_step"] == last[1]["global_step"] == 12
    kept = whole.state_dict(), resumed.state_dict()
    for a, b in (kept, (last[0]["state_dict"], last[1]["state_dict"])):
        for name in a:
            # a constant added to all keys leaves attention as it is: this gradient is rounding noise, which Adam scales up
            if not name.endswith("lin_key.bias"):
                torch.testing.assert_close(a[name], b[name], msg=name)


@pytest.mark.parametrize("model", ["poisson", "gaussian"])
def test_other_likelihoods_from_the_command_line(model: str, soscope: Callable, cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert soscope(*TINY, *QUICK, f"model={model}", f"image.cache={cache}", f"hydra.run.dir={folder}") == 0
    table = anndata.read_h5ad(folder / "demo_rna.h5ad")
    observed = spatialdata.read_zarr(folder / "demo.zarr")["rna"].X
    observed = observed.toarray() if hasattr(observed, "toarray") else observed
    mean = table.X.toarray() if hasattr(table.X, "toarray") else table.X
    spots = mean.reshape(len(observed), 7, -1)
    np.testing.assert_allclose(spots.mean(1) if model == "gaussian" else spots.sum(1), observed, rtol=1e-5, atol=1e-5)


def test_components_without_an_image_and_without_held_out_spots(soscope: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [*TINY[:-1], "experiment=components", "image=none", "data.held_out=0", f"hydra.run.dir={folder}"]
    short = [
        "pretrain.max_epochs=1",
        "finetune.max_epochs=1",
        "pretrain.steps_per_epoch=2",
        "finetune.steps_per_epoch=2",
    ]
    assert soscope(*words, *short, *QUICK) == 0
    assert anndata.read_h5ad(folder / "demo_rna.h5ad").var_names[0] == "PC1"


def test_multirun_gives_every_job_its_own_folder(soscope: Callable, cache: Path, tmp_path: Path) -> None:
    words = [*TINY, f"image.cache={cache}", f"hydra.sweep.dir={tmp_path}", "stages=[prepare,pretrain]"]
    assert soscope("-m", *words, "seed=0,1") == 0
    folders = sorted(tmp_path.glob("demo-nb-*"))
    assert len(folders) == 2
    seeds = {yaml.safe_load((f / "config.yaml").read_text())["seed"] for f in folders}
    assert seeds == {0, 1}


def test_configs_of_ones_own(soscope: Callable, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "conf" / "platform").mkdir(parents=True)
    (tmp_path / "conf" / "platform" / "mine.yaml").write_text(
        "name: mine\nlattice: hex\npitch_um: 60\nn_neighbours: 6\nsubspots: 13\n"
    )
    folder = tmp_path / "run"
    words = [*TINY, "platform=mine", "stages=[prepare]", f"image.cache={cache}", f"hydra.run.dir={folder}"]
    assert soscope("prepare", "--config-dir", tmp_path / "conf", *words[:-4], *words[-3:], words[-4]) == 0
    sdata = spatialdata.read_zarr(folder / "prepared" / "demo.zarr")
    assert len(sdata.shapes["subspots"]) == 13 * len(sdata.shapes["spots"])


def test_wandb_offline_writes_one_run_per_job(
    soscope: Callable, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb_data"))
    words = [*TINY, *QUICK, "logger=wandb", f"image.cache={cache}", f"hydra.sweep.dir={tmp_path}"]
    assert soscope("-m", *words, "seed=0,1") == 0
    files = sorted(tmp_path.glob("demo-nb-*/wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    assert len({f.parents[2] for f in files}) == 2
    for file in files:
        content = file.read_bytes()
        assert b"pretrain/train_kl" in content
        assert b"finetune/held_out_loss" in content
        assert b"n_neighbours" in content
        assert b"clusters by leiden" in content


def prepare_command(section: Path, cache: Path, run: Path) -> list[str]:
    words = [w for w in TINY if "options" not in w]
    return ["prepare", *words, "data=visium", f"data.path={section}", f"image.cache={cache}", f"hydra.run.dir={run}"]


def test_changed_input_is_noticed(
    soscope: Callable, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from space_ranger import write_folder

    folder = write_folder(tmp_path / "liver")
    command = prepare_command(folder, cache, tmp_path / "run")
    assert soscope(*command) == 0
    file = folder / "spatial" / "scalefactors_json.json"
    file.write_text(file.read_text().replace("40.0", "41.0"))
    assert soscope(*command) == 1
    assert "another version of scalefactors_json.json" in capsys.readouterr().err


def test_input_that_was_refused_can_be_mended(soscope: Callable, cache: Path, tmp_path: Path) -> None:
    from space_ranger import write_folder

    folder = write_folder(tmp_path / "liver")
    file = folder / "spatial" / "tissue_positions_list.csv"
    good = file.read_text()
    file.write_text(good.replace(",1,", ",0,", 1).replace("-1,1,", "-1,0,").replace(",1,", ",0,"))
    command = prepare_command(folder, cache, tmp_path / "run")
    assert soscope(*command) == 1
    file.write_text(good)
    assert soscope(*command) == 0


def test_report_needs_neither_the_input_nor_the_folder_it_was_started_in(
    soscope: Callable, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from space_ranger import write_folder

    folder = write_folder(tmp_path / "a" / "liver")
    monkeypatch.chdir(tmp_path / "a")
    words = [w for w in TINY if "options" not in w] + QUICK
    assert (
        soscope(*words, "data=visium", "data.path=liver", f"image.cache={cache}", f"hydra.run.dir={tmp_path / 'run'}")
        == 0
    )
    folder.rename(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    made = json.loads((tmp_path / "run" / "provenance.json").read_text())["inputs"]
    assert soscope("report", "run=run", "report.n_features=2") == 0
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["inputs"] == made
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["report"]["n_features"], len(config["stages"])) == (2, 6)


def test_two_sections_are_trained_together_and_written_apart(soscope: Callable, cache: Path, tmp_path: Path) -> None:
    from space_ranger import write_folder

    paths = [write_folder(tmp_path / name) for name in ("left", "right")]
    words = [w for w in TINY if "options" not in w] + QUICK
    listed = ",".join(map(str, paths))
    assert (
        soscope(
            *words, "data=visium", f"data.path=[{listed}]", f"image.cache={cache}", f"hydra.run.dir={tmp_path / 'run'}"
        )
        == 0
    )
    for name in ("left", "right"):
        assert (tmp_path / "run" / f"{name}_rna.h5ad").is_file()
