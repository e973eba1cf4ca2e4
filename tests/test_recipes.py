"""The six recipes at reduced size: each as its page gives it, on a small section of the same kind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
from space_ranger import write_folder
from test_read_released import K, N, write_released

from soscope import contract, infer, two_step_train
from soscope.errors import ConfigError, DataError
from soscope.read import DemoReader, TableReader

ROOT = Path(__file__).parents[1]
SHORT = ["debug=fast", "trainer.progress=false", "report.n_features=1", "report.dpi=30"]
WITHOUT_IMAGE = [*SHORT, "image=none"]  # debug=fast chooses an encoder


def script(name: str, *words: object) -> str:
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def cook(soscope: Callable[..., int], cache: Path, tmp_path: Path) -> Callable[..., spatialdata.SpatialData]:
    """Run a recipe, and return the enhanced section."""

    def run(recipe: str, path: Path, *words: str) -> spatialdata.SpatialData:
        folder = tmp_path / "run"
        settings = [f"data.path={path}", f"image.cache={cache}", f"hydra.run.dir={folder}", *words]
        assert soscope("train", f"experiment=recipe_{recipe}", *settings) == 0
        assert (folder / "report.html").is_file()
        (result,) = folder.glob("*.zarr")
        return spatialdata.read_zarr(result)

    return run


def dense(x: Any) -> np.ndarray:
    return np.asarray(x.toarray() if hasattr(x, "toarray") else x, dtype=np.float64)


def sums(sdata: spatialdata.SpatialData, modality: str) -> np.ndarray:
    """Add the enhanced profiles of a spot up, subspot by subspot."""
    enhanced = sdata.tables[contract.enhanced_name(modality)]
    out = np.zeros(sdata.tables[modality].shape)
    for parent, profile in zip(enhanced.obs["parent"], dense(enhanced.X), strict=True):
        if parent >= 0:
            out[parent] += profile
    return out


def test_visium_rna(cook: Callable, tmp_path: Path) -> None:
    sdata = cook("visium_rna", write_folder(tmp_path / "liver"), "data.features=12", *SHORT)
    np.testing.assert_allclose(sums(sdata, "rna"), dense(sdata["rna"].X), atol=1e-9)
    assert sdata["rna_enhanced"].n_obs == 7 * sdata["rna"].n_obs


# Simulated peaks on a Space Ranger folder's lattice --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peaks")
    assert "simulated" in script(
        "peaks_on_lattice", write_folder(folder / "liver"), folder / "liver.h5ad", "--peaks", 9
    )
    return folder / "liver.h5ad"


def test_simulated_peaks_stand_beside_the_measured_rna(peaks: Path) -> None:
    spots = anndata.read_h5ad(peaks)
    truth = anndata.read_h5ad(peaks.with_name("liver_truth.h5ad"))
    measured = DemoReader(rows=10, columns=8, n_features=40).read(None).sdata["rna"]
    kinds = spots.var["feature_types"].to_numpy()
    np.testing.assert_array_equal(dense(spots[:, kinds == "Gene Expression"].X), dense(measured.X))
    found = dense(spots[:, kinds == "Peaks"].X)
    assert found.shape == (measured.n_obs, 9)
    np.testing.assert_array_equal(found, dense(truth.X).reshape(-1, 7, 9).sum(1))
    assert truth.obs_names[:8].str.partition(":").get_level_values(0).tolist() == [
        *[spots.obs_names[0]] * 7,
        spots.obs_names[1],
    ]


@pytest.mark.slow
def test_chromatin_peaks(cook: Callable, peaks: Path, tmp_path: Path) -> None:
    sdata = cook("chromatin_peaks", peaks, *SHORT)
    np.testing.assert_allclose(sums(sdata, "atac"), dense(sdata["atac"].X), atol=1e-9)
    assert sdata["atac"].n_vars == 9
    assert "rna" not in sdata.tables
    said = script("score_recipe", "score", tmp_path / "run", peaks.with_name("liver_truth.h5ad"))
    assert "9 features" in said
    table = pd.read_csv(tmp_path / "run" / "scores.csv")
    truth = dense(anndata.read_h5ad(peaks.with_name("liver_truth.h5ad")).X)
    expected = np.corrcoef(np.repeat(dense(sdata["atac"].X)[:, 2], 7), truth[:, 2])[0, 1]
    assert table.query("method == 'equal division'")["pearson"].iloc[2] == pytest.approx(expected)


@pytest.mark.slow
def test_chromatin_and_rna(cook: Callable, peaks: Path) -> None:
    few = ["data.features.rna=10", "model.modalities.atac.n_components=4"]
    sdata = cook("chromatin_and_rna", peaks, *few, *SHORT)
    np.testing.assert_allclose(sums(sdata, "rna"), dense(sdata["rna"].X), atol=1e-9)
    np.testing.assert_allclose(sums(sdata, "atac") / 7, dense(sdata["atac"].X), atol=1e-4)
    assert sdata["atac"].shape == (sdata["rna"].n_obs, 4)


# The released program's format --------------------------------------------------------------------------------------------------


def test_slide_dna(cook: Callable, tmp_path: Path) -> None:
    sdata = cook("slide_dna", write_released(tmp_path / "liver"), *WITHOUT_IMAGE)
    label = np.load(tmp_path / "liver" / "label.npy")
    np.testing.assert_allclose(sums(sdata, "dna") / K, label, atol=1e-4)


@pytest.mark.slow
def test_cite_seq(cook: Callable, tmp_path: Path) -> None:
    folder = write_released(tmp_path / "skin", counts=True)
    (folder / "names.txt").write_text("CD3\nKRT5\nKRT14\n")
    widths = ["data.options.tables.protein=1", "data.options.tables.rna=2"]
    sdata = cook("cite_seq", folder, *widths, *WITHOUT_IMAGE)
    counts = np.load(folder / "label.npy") * K
    np.testing.assert_allclose(sums(sdata, "protein"), counts[:, :1], atol=1e-4)
    np.testing.assert_allclose(sums(sdata, "rna"), counts[:, 1:], atol=1e-4)
    assert sdata["rna"].var_names.tolist() == ["KRT5", "KRT14"]
    assert sdata["protein_enhanced"].n_obs == N * K


@pytest.mark.real
@pytest.mark.slow
def test_the_published_interface_takes_the_proteins_and_genes_of_the_skin(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "skin"
    script("spatial_cite_folder", data / "spatial_cite_human_skin", folder)
    two_step_train(
        logging=None,
        vgae_experiment_dir=tmp_path / "vgae",
        soScope_experiment_dir=tmp_path / "soscope",
        data_dir=folder,
        vgae_config_file=folder / "VGAE.yml",
        soScope_config_file=folder / "soScope.yml",
        device="cpu",
        checkpoint_every=50,
        backup_every=50,
        epochs=[50, 50],
        num_neighbors=4,
        overrides=["report.n_features=1", "report.dpi=30", "report.interactive=false", "trainer.progress=false"],
    )
    infer(tmp_path / "soscope", True, 4, folder, tmp_path / "result")
    found, label = np.load(tmp_path / "result" / "infer_subspot.npy"), np.load(folder / "label.npy")
    assert found.shape == (6472, 293)
    np.testing.assert_allclose(found.reshape(1618, 4, 293).mean(1), label, rtol=1e-5, atol=1e-5)
    layout = pd.read_csv(folder / "position_enhance_with_center.csv")[["imagecol", "imagerow"]].to_numpy()
    (written,) = (tmp_path / "soscope").glob("*_protein.h5ad")
    np.testing.assert_allclose(anndata.read_h5ad(written).obsm["spatial"], layout, atol=1e-6)


# Single cells ------------------------------------------------------------------------------------------------------------------


def write_cells(folder: Path) -> tuple[Path, np.ndarray]:
    """Write tables of spots and of cells strewn over them, none under the third spot; returns spots and cells' own parents."""
    table = DemoReader(rows=10, columns=8, n_features=12).read(None).sdata["rna"]
    rng = np.random.default_rng(1)
    spots = np.asarray(table.obsm["spatial"])
    pitch = np.sort(np.linalg.norm(spots - spots[0], axis=1))[1]
    cells = rng.uniform(spots.min(0), spots.max(0), (700, 2))
    distance = np.linalg.norm(cells[:, None] - spots[None], axis=2)
    kept = distance[:, 2] > pitch / 2
    cells, distance = cells[kept], distance[kept]
    parent = np.where(distance.min(1) <= 0.55 * pitch / 2, distance.argmin(1), -1)
    folder.mkdir()
    frame = table.to_df().astype(int)
    frame.insert(0, "aligned_x", spots[:, 0])
    frame.insert(1, "aligned_y", spots[:, 1])
    frame.insert(0, "barcode", frame.index)
    frame.reset_index(drop=True).to_csv(folder / "spots.csv.gz")
    columns = {"cell_area": 1.0, "aligned_x": cells[:, 0], "aligned_y": cells[:, 1]}
    counts = pd.DataFrame(rng.poisson(2.0, (len(cells), 10)), columns=table.var_names[2:])
    pd.concat([pd.DataFrame(columns), counts], axis=1).to_csv(folder / "cells.csv.gz")
    return folder / "spots.csv.gz", parent


@pytest.mark.slow
def test_single_cells(cook: Callable, tmp_path: Path) -> None:
    spots, parent = write_cells(tmp_path / "breast")
    cells = spots.with_name("cells.csv.gz")
    names = script("score_recipe", "shared", spots, cells).split()
    assert len(names) == 10
    (tmp_path / "names.txt").write_text("\n".join(names))
    settings = ["data.options.cells_file=cells.csv.gz", f"data.features={tmp_path / 'names.txt'}"]
    sdata = cook("single_cells", spots, *settings, *WITHOUT_IMAGE)
    enhanced = sdata["rna_enhanced"]
    np.testing.assert_array_equal(enhanced.obs["parent"], parent)
    np.testing.assert_array_equal(enhanced.obs["under_no_spot"], parent < 0)
    assert np.bincount(parent[parent >= 0]).max() > 2
    has = np.isin(np.arange(sdata["rna"].n_obs), parent)
    assert not has[2]
    np.testing.assert_allclose(sums(sdata, "rna")[has], dense(sdata["rna"].X)[has], atol=1e-9)
    values = dense(enhanced.X)
    assert np.isfinite(values).all()
    assert (values[parent < 0] > 0).all()  # from the prior, a rate above zero; a spot without a count gives none
    assert "under none" in script("score_recipe", "score", tmp_path / "run", cells)


def test_cells_of_another_frame_are_refused(tmp_path: Path) -> None:
    spots, _ = write_cells(tmp_path / "breast")
    frame = pd.read_csv(spots.with_name("cells.csv.gz"), index_col=0)
    frame["aligned_x"] += 10_000
    frame.to_csv(tmp_path / "breast" / "moved.csv")
    options: dict[str, Any] = {"names": "barcode", "x": "aligned_x", "y": "aligned_y", "lattice": "hex"}
    with pytest.raises(DataError, match=r"none of \d+ cells lies under a spot .*Bring both into one frame"):
        TableReader(cells_file="moved.csv", **options).read(spots)
    with pytest.raises(DataError, match="gone.csv' is missing.*data.options.cells_file"):
        TableReader(cells_file="gone.csv", **options).read(spots)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"grid_um": 50, "unit": "um"}, "leave one out"), ({"spot_diameter": 0}, "spot_diameter=0 must be a part")],
)
def test_options_of_cells_that_contradict(options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TableReader(cells_file="cells.csv", **options)
