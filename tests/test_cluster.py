"""Groups of subspots: planted ones are found with their number; columns are written beside what is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import spatialdata
import yaml
import zarr
from conftest import TINY
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from soscope.cluster.base import UNKNOWN, NoClustersError, Source, StoredProfiles, numbered_by_size
from soscope.cluster.criteria import choose
from soscope.cluster.methods import COLUMNS, METHODS
from soscope.cluster.profiles import profile_scores
from soscope.cluster.section import as_categories, majority
from soscope.config_checks import check
from soscope.errors import ConfigError
from soscope.folder import RunFolder
from soscope.report.clusters import clusters_of
from soscope.schema import ClusterConfig

K = 4
"""Subspots of a planted spot."""


def planted(
    n_groups: int, rng: np.random.Generator, n_spots: int = 120, depth: float = 200.0
) -> tuple[Source, np.ndarray]:
    """Spots in well separated groups of z and of counts, four subspots each, z that of the spot; also the groups of subspots."""
    of_spot = np.repeat(np.arange(n_groups), -(-n_spots // n_groups))[:n_spots]
    latent = 8 * rng.normal(size=(n_groups, 32))[of_spot] + rng.normal(size=(n_spots, 32))
    parent = np.repeat(np.arange(n_spots), K)
    at = sparse.csr_matrix((np.ones(len(parent)), (np.arange(len(parent)), parent)))
    rates = np.exp(rng.normal(size=(n_groups, 40)))
    mean = depth * rates / rates.sum(1, keepdims=True)
    library = np.exp(0.5 * rng.normal(size=(len(parent), 1)))
    counts = rng.poisson(library * mean[of_spot[parent]]).astype(float)
    return Source(latent, at, parent, [StoredProfiles(sparse.csr_matrix(counts), True)]), of_spot[parent]


@pytest.mark.parametrize("n_groups", [1, 2, 4, 7])
def test_bic_finds_the_planted_number(n_groups: int, rng: np.random.Generator) -> None:
    source, groups = planted(n_groups, rng)
    found = METHODS["gaussian_mixture"](source, ClusterConfig(n_components=6, range=[1, 10]), 0)
    assert adjusted_rand_score(groups, found.labels) == 1
    assert found.tried.loc[found.tried["chosen"], "n_clusters"].tolist() == [n_groups]
    assert found.tried["n_clusters"].tolist() == list(range(1, 11))


@pytest.mark.parametrize("criterion", ["stability", "silhouette"])
@pytest.mark.parametrize("n_groups", [3, 6])
def test_leiden_finds_the_planted_groups(criterion: str, n_groups: int, rng: np.random.Generator) -> None:
    source, groups = planted(n_groups, rng)
    settings = ClusterConfig(criterion=criterion, n_neighbours=15, resolutions=[0.1, 0.5, 1.0, 20.0])
    found = METHODS["leiden"](source, settings, 0)
    assert adjusted_rand_score(groups, found.labels) > 0.99
    assert found.tried["n_clusters"].iloc[-1] > n_groups, "finer ones were tried"


@pytest.mark.parametrize("name", list(METHODS))
def test_large_sections_follow_a_sample_and_the_seed(name: str, rng: np.random.Generator) -> None:
    source, groups = planted(4, rng)
    settings = ClusterConfig(fit_on=100, range=[3, 6], n_components=4, n_neighbours=10, resolutions=[0.2, 0.4])
    first, again, other = (METHODS[name](source, settings, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.labels, again.labels)
    pd.testing.assert_frame_equal(first.tried, again.tried)
    for found in (first, other):
        assert adjusted_rand_score(groups, found.labels) == 1


def test_what_nothing_is_known_of_gets_no_label(rng: np.random.Generator) -> None:
    source, groups = planted(3, rng)
    counts = source.profiles[0].values.tolil()
    counts[5] = 0
    at, parent = source.at.tolil(), source.parent.copy()
    at[[7, 9]] = 0
    at[9, 100], parent[[7, 9]] = 1, -1  # 7 is far from all; 9 lies under no spot, near one
    source = replace(source, at=at.tocsr(), parent=parent, profiles=[StoredProfiles(counts.tocsr(), True)])
    mixed = METHODS["gaussian_mixture"](source, ClusterConfig(n_components=4), 0).labels
    assert mixed[7] == UNKNOWN
    assert mixed[9] == mixed[100 * K]
    divided = METHODS["leiden"](source, ClusterConfig(resolutions=[0.2], n_neighbours=10), 0).labels
    assert np.flatnonzero(divided == UNKNOWN).tolist() == [5]
    assert divided[7] == divided[0], "by its profile"


@pytest.mark.parametrize("name", list(METHODS))
def test_nothing_that_varies_is_said(name: str, rng: np.random.Generator) -> None:
    source, _ = planted(2, rng)
    flat = replace(
        source, latent=np.ones_like(source.latent), profiles=[StoredProfiles(np.ones((len(source.parent), 9)), True)]
    )
    with pytest.raises(NoClustersError, match="do not vary"):
        METHODS[name](flat, ClusterConfig(), 0)
    few, _ = planted(2, rng, n_spots=4)
    with pytest.raises(NoClustersError, match="too few.*Lower cluster"):
        METHODS[name](few, ClusterConfig(range=[3, 9]), 0)


def test_scores_are_those_of_scanpy(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = planted(3, rng)
    table = anndata.AnnData(source.profiles[0].values.copy())
    sc.pp.normalize_total(table)
    sc.pp.log1p(table)
    sc.pp.pca(table, n_comps=5)
    monkeypatch.setattr("soscope.cluster.profiles.BLOCK", 40 * 7)  # seven rows at a time
    scores, known = profile_scores(source, 5, 0)
    assert known.all()
    scale = np.linalg.norm(table.obsm["X_pca"]) / np.linalg.norm(scores)
    np.testing.assert_allclose(np.abs(scores) * scale, np.abs(table.obsm["X_pca"]), rtol=1e-3, atol=1e-3)


def test_modalities_weigh_the_same_and_real_values_are_standardised(rng: np.random.Generator) -> None:
    source, _ = planted(2, rng)
    real = rng.normal(size=(len(source.parent), 3)) * [1, 100, 1e4]
    scores, _ = profile_scores(replace(source, profiles=[*source.profiles, StoredProfiles(real, False)]), 43, 0)
    assert scores.var(0).sum() == pytest.approx(2, rel=1e-4)
    alone, _ = profile_scores(replace(source, profiles=[StoredProfiles(real, False)]), 3, 0)
    standard = (real - real.mean(0)) / real.std(0) / np.sqrt(3)
    np.testing.assert_allclose(alone @ alone.T, standard @ standard.T, atol=1e-4)


def test_the_finest_of_equally_good_divisions_is_taken() -> None:
    n, score, error = np.array([1, 3, 5, 9]), np.array([1.0, 0.95, 0.94, 0.6]), np.array([0, 0.02, 0.02, 0.02])
    assert choose(n, score, error) == 2
    assert choose(n, score, np.zeros(4)) == 1, "one group is always stable"
    assert choose(n[:1], score[:1], error[:1]) == 0
    assert choose(n, np.array([np.nan, np.nan, 0.1, np.nan]), np.zeros(4)) == 2


def test_groups_are_numbered_by_size_and_spots_follow_their_subspots() -> None:
    labels = numbered_by_size(np.array([2, 0, 0, -1, 5, 0, 5]))
    assert labels.tolist() == [2, 0, 0, -1, 1, 0, 1]
    assert majority(labels, np.array([0, 0, 0, 1, 3, 3, -1]), 4).tolist() == [0, -1, -1, 0], "the larger of equals"
    categories = as_categories(labels)
    assert categories.categories.tolist() == ["1", "2", "3"]
    assert categories.isna().tolist() == [False, False, False, True, False, False, False]


# A finished run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing, which takes seconds."""
    monkeypatch.setattr("soscope.stages.write_report", lambda *args: {})


def matrices(run: Path) -> dict[str, bytes]:
    """The files of a result's zarr but for those of ``obs`` and descriptions, and everything but ``obs`` of its h5ad."""
    files = {str(f): f.read_bytes() for f in (run / "demo.zarr").rglob("*") if f.is_file() and f.name != "zarr.json"}
    kept = {name: content for name, content in files.items() if "/obs/" not in name}
    with h5py.File(run / "demo_rna.h5ad") as file:
        file.visititems(lambda name, node: kept.update({name: node[()].tobytes()} if is_kept(name, node) else {}))
    return kept


def is_kept(name: str, node: h5py.Group | h5py.Dataset) -> bool:
    return isinstance(node, h5py.Dataset) and name.startswith(("X/", "layers/", "obsm/"))


def test_columns_are_in_both_files_and_scanpy_draws_them(trained: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    sdata, alone = spatialdata.read_zarr(trained / "demo.zarr"), anndata.read_h5ad(trained / "demo_rna.h5ad")
    for column in COLUMNS:
        assert sdata["rna_enhanced"].obs[column].dtype == "category"
        pd.testing.assert_series_equal(sdata["rna_enhanced"].obs[column], alone.obs[column], check_names=False)
        assert sdata["rna_enhanced"].obs[column].notna().all()
        sizes = alone.obs[column].value_counts(sort=False)
        assert sizes.is_monotonic_decreasing
        observed = sdata["rna"].obs[column]
        of_first = alone.obs[column][alone.obs["parent"] == 0].mode()
        assert observed.iloc[0] in of_first.tolist()
        sc.pl.embedding(alone, basis="spatial", color=column, show=False)
    tried = pd.read_csv(trained / "clusters.csv")
    assert tried.groupby("column")["chosen"].sum().to_dict() == dict.fromkeys(COLUMNS, 1)
    for column, part in tried[tried["chosen"]].groupby("column"):
        assert len(alone.obs[column].cat.categories) <= part["n_clusters"].item()
    page = (trained / "report.html").read_text()
    assert "Clusters by leiden: what was tried" in page
    assert "clusters by gaussian_mixture" in page


def test_other_settings_change_columns_and_nothing_else(run: Path, soscope: Callable) -> None:
    before = matrices(run)
    inode = {f: os.stat(f).st_ino for f in before if f.startswith("/") and "/X/" in f}
    words = ["cluster.methods=[leiden]", "cluster.resolutions=[2.0]", "report.n_features=1"]
    assert soscope("cluster", f"run={run}", *words) == 0
    assert matrices(run) == before
    assert inode
    assert {f: os.stat(f).st_ino for f in inode} == inode, "matrices are linked, not copied"
    alone, sdata = anndata.read_h5ad(run / "demo_rna.h5ad"), spatialdata.read_zarr(run / "demo.zarr")
    for table in (alone, sdata["rna"], sdata["rna_enhanced"]):
        assert "soscope_gmm" not in table.obs, "a column of an earlier time would look like one of now"
        assert "soscope_leiden" in table.obs
    assert alone.obs["soscope_leiden"].nunique() == pd.read_csv(run / "clusters.csv")["n_clusters"].item()
    assert "clusters by gaussian_mixture" not in (run / "report.html").read_text()
    assert yaml.safe_load((run / "config.yaml").read_text())["cluster"]["resolutions"] == [2.0]
    assert not list(run.rglob("*.partial")) + list(run.rglob("*.old"))
    root = zarr.open_group(run / "demo.zarr", mode="r", use_consolidated=True)
    assert "soscope_leiden" in root["tables/rna_enhanced/obs"]


def test_an_interrupted_write_leaves_the_result_as_it_was(
    run: Path, soscope: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    first = spatialdata.read_zarr(run / "demo.zarr")["rna_enhanced"].obs
    for what in ("zarr.consolidate_metadata", "h5py.File.__exit__"):
        with monkeypatch.context() as patch:
            patch.setattr(f"soscope.cluster.columns.{what}", stop)
            assert soscope("cluster", f"run={run}", "cluster.methods=[leiden]", "cluster.resolutions=[2.0]") == 130
        assert "soscope_gmm" in anndata.read_h5ad(run / "demo_rna.h5ad").obs
        if what.startswith("zarr"):
            pd.testing.assert_frame_equal(spatialdata.read_zarr(run / "demo.zarr")["rna_enhanced"].obs, first)


@pytest.mark.usefixtures("no_report")
def test_enhancing_again_clusters_again(run: Path, soscope: Callable) -> None:
    words = ["enhance.posterior=prior", "cluster.methods=[gaussian_mixture]"]
    assert soscope("enhance", f"run={run}", *words) == 0
    obs = anndata.read_h5ad(run / "demo_rna.h5ad").obs
    assert "soscope_gmm" in obs
    assert "soscope_leiden" not in obs


def test_a_section_without_clusters_is_said_and_the_run_goes_on(run: Path, soscope: Callable) -> None:
    words = ["cluster.methods=[leiden]", "cluster.n_neighbours=900", "report.n_features=1"]
    assert soscope("cluster", f"run={run}", *words) == 0
    said = "subspots with counts are too few for 900 neighbours each"
    assert said in pd.read_csv(run / "clusters.csv")["note"].item()
    assert said in (run / "report.html").read_text()
    assert not set(COLUMNS) & set(anndata.read_h5ad(run / "demo_rna.h5ad").obs)


def remove_latent(run: Path) -> None:
    root = zarr.open_group(run / "demo.zarr", mode="r+", use_consolidated=False)
    del root["tables/rna/obsm/X_soscope"]
    zarr.consolidate_metadata(root.store)


def cut_short(run: Path) -> None:
    file = run / "demo_rna.h5ad"
    file.write_bytes(file.read_bytes()[:5000])


def rename_rows(run: Path) -> None:
    table = anndata.read_h5ad(run / "demo_rna.h5ad")
    table.obs_names = [f"other {i}" for i in range(table.n_obs)]
    table.write_h5ad(run / "demo_rna.h5ad")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: shutil.rmtree(run / "demo.zarr"), "no section at"),
        (lambda run: (run / "stages.json").unlink(), "holds no enhanced profiles to cluster"),
        (remove_latent, "no obsm['X_soscope']"),
        (cut_short, "cannot be read as h5ad"),
        (rename_rows, "its rows are not the section's subspots"),
    ],
)
def test_a_damaged_run_is_refused(
    damage: Callable[[Path], None], says: str, run: Path, soscope: Callable, capsys: pytest.CaptureFixture
) -> None:
    damage(run)
    before = {f: f.stat().st_mtime_ns for f in run.rglob("*") if f.is_file()}
    assert soscope("cluster", f"run={run}") == 1
    err = capsys.readouterr().err
    assert says in err
    assert "Traceback" not in err
    assert {f: f.stat().st_mtime_ns for f in run.rglob("*") if f.is_file()} == before


@pytest.mark.usefixtures("no_report")
def test_runs_of_an_earlier_version_are_taken(run: Path, soscope: Callable) -> None:
    stored = yaml.safe_load((run / "config.yaml").read_text())
    stored["report"]["n_clusters"] = 6
    del stored["cluster"]
    (run / "config.yaml").write_text(yaml.safe_dump(stored))
    (run / "clusters.csv").unlink()
    assert clusters_of(RunFolder(run), "demo") == []
    assert soscope("cluster", f"run={run}", "cluster.methods=[gaussian_mixture]") == 0
    assert (run / "clusters.csv").is_file()


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("cluster.methods=[kmeans]", "gaussian_mixture, leiden"),
        ("cluster.methods=[leiden,leiden]", "names one twice"),
        ("cluster.criterion=elbow", "stability, silhouette"),
        ("cluster.range=[5,2]", "least and the largest"),
        ("cluster.range=[4]", "least and the largest"),
        ("cluster.resolutions=[]", "at least one"),
        ("cluster.resolutions=[0.0]", "must lie between"),
        ("cluster.n_neighbours=1", "must lie between"),
    ],
)
def test_settings_that_cannot_run(override: str, says: str, compose: Callable) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(override))


def test_a_benchmark_takes_no_cluster_settings(compose: Callable) -> None:
    check(compose(name="benchmark"))
    with pytest.raises(ConfigError, match="a benchmark groups none"):
        check(compose("cluster.n_components=5", name="benchmark"))


def test_verb_needs_a_run_and_changes_nothing_else(
    trained: Path, soscope: Callable, capsys: pytest.CaptureFixture
) -> None:
    assert soscope("cluster", *TINY) == 1
    assert "needs run=DIR" in capsys.readouterr().err
    assert soscope("cluster", f"run={trained}", "enhance.posterior=prior") == 1
    assert "takes run=DIR and cluster.* and report.*" in capsys.readouterr().err
