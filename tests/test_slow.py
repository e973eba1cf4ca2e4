"""Full-size runs on real sections, and the installed wheel: minutes each, run by `make test-slow`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
import torch
from space_ranger import write_folder

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
SHORT = ["trainer.progress=false", "debug=fast"]


def assert_adds_up(folder: Path, section: str, k: int) -> None:
    sdata = spatialdata.read_zarr(folder / f"{section}.zarr")
    sums = sdata["rna_enhanced"].X.toarray().reshape(-1, k, sdata["rna"].n_vars).sum(1)
    np.testing.assert_allclose(sums, sdata["rna"].X.toarray(), rtol=1e-9, atol=1e-9)


@pytest.mark.real
def test_muscle_at_the_defaults_ends_within_ten_minutes(soscope: Callable, data: Path, tmp_path: Path) -> None:
    folder, start = tmp_path / "run", time.perf_counter()
    words = ["model=nb", "platform=visium", "data=visium", f"data.path={data / 'visium_mouse_muscle_2dpi'}"]
    assert soscope(*words, "trainer.progress=false", f"image.cache={tmp_path}", f"hydra.run.dir={folder}") == 0
    assert time.perf_counter() - start < 600
    assert_adds_up(folder, "visium_mouse_muscle_2dpi", 7)
    losses = pd.read_csv(folder / "metrics.csv").query("stage == 'finetune'")["held_out_loss"]
    assert losses.min() < losses.iloc[0]


@pytest.mark.real
@pytest.mark.parametrize("model", ["poisson", "gaussian"])
def test_muscle_with_other_likelihoods(model: str, soscope: Callable, data: Path, tmp_path: Path) -> None:
    words = [f"model={model}", "data=visium", f"data.path={data / 'visium_mouse_muscle_2dpi'}", "data.features=100"]
    assert soscope(*words, *SHORT, f"image.cache={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}") == 0
    assert anndata.read_h5ad(tmp_path / "run" / "visium_mouse_muscle_2dpi_rna.h5ad").n_vars == 100


@pytest.mark.real
def test_square_grid_with_lowres_image_and_mtx(soscope: Callable, data: Path, tmp_path: Path) -> None:
    words = ["platform=dbit", "data=visium", f"data.path={data / 'grid50_human_breast'}", "data.features=100"]
    assert soscope(*words, *SHORT, f"image.cache={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}") == 0
    assert_adds_up(tmp_path / "run", "grid50_human_breast", 9)


def test_demo_at_the_defaults_is_no_worse_than_equal_division(soscope: Callable, tmp_path: Path) -> None:
    folder, start = tmp_path / "run", time.perf_counter()
    assert soscope("data=demo", "trainer.progress=false", f"image.cache={tmp_path}", f"hydra.run.dir={folder}") == 0
    assert time.perf_counter() - start < 180
    scores = pd.read_csv(folder / "comparison.csv").groupby("method")[["pearson", "within_spot_r"]].mean()
    assert scores.loc["soscope", "pearson"] > scores.loc["copy_down", "pearson"] - 0.005
    assert scores.loc["soscope", "within_spot_r"] > 0.15


@pytest.mark.real
def test_the_script_on_more_data_scores_every_feature_of_every_training(data: Path, tmp_path: Path) -> None:
    words = [
        "data=visium",
        f"data.path={data / 'visium_mouse_muscle_2dpi'}",
        "platform=visium",
        "data.features=12",
        *SHORT,
    ]
    command = [sys.executable, str(ROOT / "scripts" / "more_data.py"), "tables", str(tmp_path / "out"), *words]
    settings = ["benchmark.seeds=[0]", f"image.cache={tmp_path}"]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(tmp_path / "out" / "tables.csv")
    assert (table.groupby("trained")["feature"].nunique() == 12).all()
    assert set(table["trained"]) == {"apart", "together", "one table"}
    assert table[["pearson", "within_spot_r", "coverage90"]].notna().all(axis=None)


@pytest.mark.real
def test_the_script_on_unseen_sections_scores_the_same_features_of_each_model(data: Path, tmp_path: Path) -> None:
    sections = ",".join(str(data / "st_her2_breast" / name) for name in ("C2", "C3"))
    words = ["data=st", f"data.path=[{sections}]", "platform=st", "image=color", "data.features=12", *SHORT]
    command = [sys.executable, str(ROOT / "scripts" / "unseen_sections.py"), str(tmp_path / "out"), *words]
    settings = ["benchmark.seeds=[0]", f"image.cache={tmp_path}"]
    done = subprocess.run([*command, *settings], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(tmp_path / "out" / "unseen.csv")
    assert set(table["model_of"]) == {"others", "itself", "copy_down"}
    for _, part in table.groupby("section"):
        names = [set(p["feature"]) for _, p in part.groupby("model_of")]
        assert names[0] == names[1] == names[2]
        assert len(names[0]) == 12


def test_two_processes_share_two_sections(tmp_path: Path) -> None:
    """Lightning's DDP on the CPU: each process trains on its own section, one writes the results."""
    paths = ",".join(str(write_folder(tmp_path / name)) for name in ("left", "right"))
    words = ["data=visium", f"data.path=[{paths}]", "data.features=12", f"image.cache={tmp_path}", *SHORT]
    command = [sys.executable, str(ROOT / "train.py"), *words, "trainer=ddp", "trainer.accelerator=cpu"]
    done = subprocess.run(
        [*command, f"hydra.run.dir={tmp_path / 'run'}"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "MEMBER: 2/2" in done.stdout + done.stderr
    for name in ("left", "right"):
        assert_adds_up(tmp_path / "run", name, 7)


def test_two_processes_take_the_step_of_both_their_tiles(tmp_path: Path) -> None:
    """The parameters after some steps of Lightning's DDP are those of the mean over both tiles' losses."""
    found = []
    for devices in (1, 2):
        command = [sys.executable, str(ROOT / "tests" / "ddp_step.py"), str(tmp_path / f"{devices}.pt"), str(devices)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(torch.load(tmp_path / f"{devices}.pt", weights_only=True))
    moved = 0.0
    for name, after in found[0]["after"].items():
        torch.testing.assert_close(found[1]["after"][name], after, rtol=1e-5, atol=1e-6)
        moved = max(moved, float((after - found[0]["before"][name]).abs().max()))
    assert moved > 1e-3


def test_two_processes_share_the_tiles_of_one_section(tmp_path: Path) -> None:
    """Two processes on two tiles come as far as one does, and write the same kind of result."""
    losses = []
    words = ["data.options.rows=16", "data.options.columns=12", "data.features=12", f"image.cache={tmp_path}", *SHORT]
    longer = ["pretrain.max_epochs=4", "finetune.max_epochs=6", "finetune.steps_per_epoch=10", "data.tile_spots=40"]
    for i, devices in enumerate(([], ["trainer=ddp", "trainer.accelerator=cpu", "trainer.threads=1"])):
        command = [
            sys.executable,
            str(ROOT / "train.py"),
            *words,
            *longer,
            *devices,
            f"hydra.run.dir={tmp_path / str(i)}",
        ]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        table = pd.read_csv(tmp_path / str(i) / "metrics.csv").query("stage == 'finetune'")
        losses.append(table["held_out_loss"].dropna().to_numpy())
        assert_adds_up(tmp_path / str(i), "demo", 7)
    assert "MEMBER: 2/2" in done.stdout + done.stderr
    assert losses[1].min() < losses[0].min() + 0.02 * abs(losses[0].min())


def test_the_speed_script_measures_every_method(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench_speed.py"), str(tmp_path)]
    few = ["--sizes", "700", "2100", "--repeats", "1", "--rounds", "1"]
    done = subprocess.run([*command, *few], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    table = pd.read_csv(tmp_path / "bench_speed.csv")
    assert len(table) == 2 * 2 * 3
    assert (table[["seconds_per_pass", "peak_mb"]] > 0).all(axis=None)
    for part in ("dense / ours", "ours / bare", "ours grows as", "relative standard error"):
        assert part in done.stdout
    assert (tmp_path / "bench_speed.png").stat().st_size > 10_000


def test_jobs_of_a_sweep_run_in_processes_of_their_own(tmp_path: Path) -> None:
    """What trainer=slurm does, with the launcher that needs no cluster."""
    words = ["data.options.rows=8", "data.options.columns=8", "data.features=8", f"image.cache={tmp_path}", *SHORT]
    launcher = ["hydra/launcher=submitit_local", f"hydra.sweep.dir={tmp_path / 'runs'}"]
    command = [sys.executable, str(ROOT / "train.py"), "-m", *words, *launcher, "seed=0,1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "runs").glob("demo-nb-*/report.html"))) == 2


def test_tuning_goes_on_where_it_was(tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(
        "objective: held_out\nspace:\n  finetune.learning_rate: {low: 1.0e-3, high: 1.0e-2, log: true}\n"
    )
    words = ["data.options.rows=8", "data.options.columns=8", "data.features=8", f"image.cache={tmp_path}", *SHORT]
    command = [sys.executable, str(ROOT / "scripts" / "tune.py"), str(tmp_path / "out")]
    for trials in (1, 2):
        more = ["--space", str(tmp_path / "space.yaml"), "--trials", str(trials), *words]
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        assert f"{trials} trials, best held_out" in done.stdout
    table = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert table["value"].notna().all()
    assert len(table) == 2


def test_installed_wheel_runs_from_another_folder(tmp_path: Path) -> None:
    """The wheel in an environment of its own (libraries shared), far from the checkout."""
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    wheel = next(tmp_path.glob("soscope-*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet", "--target", str(site), str(wheel)]
    subprocess.run(pip, check=True)
    libraries = os.pathsep.join(p for p in sys.path if p.endswith("site-packages"))
    (tmp_path / "work").mkdir()
    words = ["data.options.rows=8", "data.options.columns=8", "data.features=8", f"image.cache={tmp_path}", *SHORT]
    script = "import sys; sys.argv[0] = 'soscope'; from soscope.cli import main; main()"
    command = [str(tmp_path / "env" / "bin" / "python"), "-c", script, "train", *words]
    paths = os.pathsep.join([str(site), libraries])
    done = subprocess.run(
        command, cwd=tmp_path / "work", env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list((tmp_path / "work" / "runs").glob("demo-nb-*/report.html"))) == 1
    assert (site / "soscope" / "conf" / "train.yaml").is_file()
