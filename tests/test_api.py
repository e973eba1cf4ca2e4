"""The Python functions: soscope.pp, soscope.tl, soscope.pl, saved models."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import spatialdata
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Scale, get_transformation

import soscope as so
from soscope import contract
from soscope.errors import ConfigError, DataError, ModelFileError, RunFolderError, SoScopeError
from soscope.folder import RunFolder
from soscope.made import duplicate
from soscope.schema import STAGES
from soscope.settings import config

SHORT = {
    "debug": "fast",
    "progress": False,
    "features": 12,
    "pretrain": {"max_epochs": 1, "steps_per_epoch": 2},
    "finetune": {"max_epochs": 1, "steps_per_epoch": 2},
}


@cache
def drawn(seed: int) -> SpatialData:
    return so.pp.read_section(reader="demo", rows=10, columns=8, seed=seed)


def demo(seed: int = 0) -> SpatialData:
    return duplicate(drawn(seed))


def as_anndata(section: SpatialData, modality: str = "rna", scale: float = 0.5) -> AnnData:
    """What scanpy.read_visium delivers: positions of the full-resolution image, of which the picture is a small copy."""
    table = section[modality]
    image = np.moveaxis(np.asarray(section["image"].data), 0, -1).astype(np.float32) / 255
    radius = float(section["spots"]["radius"].iloc[0])
    factors = {"tissue_hires_scalef": scale, "spot_diameter_fullres": 2 * radius / scale}
    return AnnData(
        X=table.X.copy(),
        obs=table.obs[["array_row", "array_col"]].copy(),
        var=table.var.copy(),
        obsm={"spatial": np.asarray(table.obsm["spatial"]) / scale},
        uns={"spatial": {"lib": {"images": {"hires": image}, "scalefactors": factors}}},
    )


def sums(enhanced: AnnData, spots: list[str]) -> np.ndarray:
    """Add subspots up by the name of their spot."""
    values = enhanced.to_df().groupby(enhanced.obs["parent_name"].to_numpy()).sum()
    return values.loc[spots].to_numpy()


@pytest.fixture(scope="module")
def fitted(trained: Path) -> Any:
    """The tiny run that all tests share, as a model."""
    return so.load(trained)


@pytest.fixture(scope="module")
def enhanced(fitted: Any) -> SpatialData:
    return fitted.enhance(progress=False)


def test_import_brings_no_torch_and_offers_its_parts() -> None:
    code = "import sys, soscope; print('torch' in sys.modules, 'hydra' in sys.modules, *dir(soscope))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    torch, hydra, *names = done.stdout.split()
    assert (torch, hydra) == ("False", "False")
    assert {"pp", "tl", "pl", "load", "two_step_train", "infer"} <= set(names)
    assert callable(so.two_step_train)
    assert callable(so.infer)
    with pytest.raises(AttributeError, match="no attribute 'ppp'"):
        so.ppp  # noqa: B018


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"feature": 3}, "feature is unknown. Did you mean 'features'?"),
        ({"platform": "visum"}, "Did you mean 'visium'? Choices of platform: dbit"),
        ({"data.heldout": 0.1}, "Did you mean 'held_out'? Keys of data"),
        ({"finetune": {"epochs": 3}}, "finetune.epochs is unknown. Did you mean 'max_epochs'?"),
        ({"seed": "a"}, "seed='a' cannot be used"),
        ({"subspots": 1}, "split.subspots=1 must lie between 2 and"),
        ({"model": "nbb"}, "Did you mean 'nb'? Choices of model: gaussian"),
        ({"model": {"rna": "joint_poisson_nb"}}, "is for 2 tables together"),
        ({"trainer.devices": 2}, "soscope train"),
        ({"data.path": "x"}, "the data is what the function is given"),
        ({"data": "visium"}, "soscope.pp.read_section"),
        ({"experiment": "ablation"}, "it is for `soscope benchmark`"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_choices(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(**settings)
    assert says in str(refused.value)


def test_settings_are_those_of_the_command_line(compose: Callable) -> None:
    ours = config(platform="dbit", features=["a", "b"], subspots=4, image={"weight": 0.5}, **{"data.held_out": 0.2})
    theirs = compose("platform=dbit", "data=section", "data.features=[a,b]", "split.subspots=4", "data.held_out=0.2")
    assert (ours.platform, ours.split) == (theirs.platform, theirs.split)
    assert (ours.data.features, ours.data.held_out, ours.image.weight) == (["a", "b"], 0.2, 0.5)
    each = config(model={"protein": "poisson", "rna": "nb"})
    assert each.model.modalities == compose("model=joint_poisson_nb").model.modalities


def test_steps_add_in_place_or_to_a_copy() -> None:
    section = demo()
    before = get_transformation(section["image"], get_all=True)
    copy = so.pp.split_spots(section, subspots=13, copy=True)
    assert "subspots" not in section.shapes
    assert get_transformation(section["image"], get_all=True) == before
    assert len(copy["subspots"]) == 13 * len(section["spots"])
    assert so.pp.split_spots(section, subspots=7) is None
    assert so.pp.image_features(section, image="color", progress=False) is None
    prepared = so.pp.prepare(section, progress=False, features=12)
    np.testing.assert_array_equal(section["image_features"].X, prepared["image_features"].X)
    assert section["subspots"].geometry.geom_equals_exact(prepared["subspots"].geometry, 1e-9).all()
    ours, theirs = (t["image_features"].obsp["spatial_connectivities"] for t in (section, prepared))
    np.testing.assert_allclose(ours.toarray(), theirs.toarray())
    with pytest.raises(DataError, match=r"Run soscope\.pp\.split_spots with them first"):
        so.pp.image_features(section, image="color", subspots=13)
    with pytest.raises(DataError, match=r"Run soscope\.pp\.split_spots first"):
        so.pp.image_features(demo())


def test_subspots_that_were_changed_are_taken_as_they_are() -> None:
    section = so.pp.split_spots(demo(), subspots=7, copy=True)
    section.shapes["subspots"] = ShapesModel.parse(section["subspots"].iloc[1:].copy())
    prepared = so.pp.prepare(section, progress=False, features=12, image="color")
    assert len(prepared["subspots"]) == 7 * len(section["spots"]) - 1
    assert prepared.attrs["soscope"]["extent"] == "given"
    so.pp.image_features(section, image="color", progress=False)
    assert so.pp.prepare(section, progress=False, features=12).attrs["soscope"]["image_encoder"] == "given"
    with pytest.raises(DataError, match="was prepared before"):
        so.pp.prepare(prepared)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_anndata_becomes_the_section_it_was(scale: float) -> None:
    section = demo()
    table = as_anndata(section, scale=scale)
    table.layers["counts"], table.X = table.X, table.X * 0.5
    table.obs["in_tissue"] = 1
    found = so.pp.to_section(table, "liver", layer="counts")
    np.testing.assert_array_equal(np.asarray(found["image"].data), np.asarray(section["image"].data))
    np.testing.assert_allclose(found["rna"].obsm["spatial"], section["rna"].obsm["spatial"])
    np.testing.assert_array_equal(found["rna"].X.toarray(), section["rna"].X.toarray())
    np.testing.assert_allclose(found["spots"]["radius"], section["spots"]["radius"])
    assert contract.facts(found)["section"] == "liver"


def spoil(table: AnnData, what: str) -> AnnData:
    if what == "positions":
        del table.obsm["spatial"]
    elif what == "array":
        del table.obs["array_col"]
    elif what == "libraries":
        table.uns["spatial"]["other"] = table.uns["spatial"]["lib"]
    elif what == "scale":
        del table.uns["spatial"]["lib"]["scalefactors"]["tissue_hires_scalef"]
    elif what == "far":
        table.obsm["spatial"] = table.obsm["spatial"] * 3
    elif what == "tissue":
        table.obs["in_tissue"] = 0
    return table


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("positions", "no positions obsm['spatial']"),
        ("array", "have no array_row and array_col"),
        ("libraries", "has lib, other. Name one with data.options.library"),
        ("scale", "no scalefactors['tissue_hires_scalef']"),
        ("far", "spots lie outside"),
        ("tissue", "none of the 72 spots of the matrix has in_tissue = 1"),
    ],
)
def test_anndata_that_cannot_be_used_is_refused(what: str, says: str) -> None:
    with pytest.raises((ConfigError, DataError)) as refused:
        so.tl.enhance(spoil(as_anndata(demo()), what))
    assert says in str(refused.value)


def test_spatialdata_of_others_becomes_the_section_it_was() -> None:
    """As spatialdata-io lays Visium out: circles in full-resolution pixels, a scaled picture of them."""
    section, scale = demo(), 0.25
    table = section["rna"]
    circles = section["spots"].copy()
    circles.geometry = circles.geometry.scale(1 / scale, 1 / scale, origin=(0, 0))
    circles["radius"] /= scale
    to_full = Scale([1 / scale, 1 / scale], axes=("x", "y"))
    picture = Image2DModel.parse(
        np.asarray(section["image"].data), dims=("c", "y", "x"), transformations={"full": to_full}, scale_factors=[2]
    )
    circles.attrs = {}
    spots = ShapesModel.parse(circles, transformations={"full": Scale([1.0, 1.0], axes=("x", "y"))})
    own = AnnData(X=table.X.copy(), obs=table.obs[["array_row", "array_col"]].copy(), var=table.var.copy())
    own.obs["region"], own.obs["id"] = "circles", own.obs_names.to_numpy()
    own.obs["region"] = own.obs["region"].astype("category")
    others = SpatialData(
        images={"picture": picture},
        shapes={"circles": spots},
        tables={"table": TableModel.parse(own[::-1].copy(), region="circles", region_key="region", instance_key="id")},
    )
    found = so.pp.to_section(others, "liver")
    np.testing.assert_array_equal(np.asarray(found["image"].data), np.asarray(section["image"].data))
    there = found["rna"][table.obs_names]
    np.testing.assert_allclose(there.obsm["spatial"], table.obsm["spatial"])
    np.testing.assert_array_equal(there.X.toarray(), table.X.toarray())
    np.testing.assert_allclose(found["spots"]["radius"], section["spots"]["radius"])
    with pytest.raises(ConfigError, match=r"no data\.options\.table=b\. Choose from: table"):
        so.pp.to_section(others, "liver", table="b")
    with pytest.raises(ConfigError, match=r"tabel='b' does not go with SpatialData.*table, region, image"):
        so.pp.to_section(others, "liver", tabel="b")


@pytest.mark.slow
def test_steps_and_one_call_give_the_same_and_come_back_to_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    section = demo()
    so.pp.split_spots(section, subspots=7)
    so.pp.image_features(section, image="color", progress=False)
    model = so.tl.fit(section, **SHORT)
    enhanced, temporary = model.enhance(progress=False), model.folder.path
    del model
    assert not temporary.exists()
    assert np.asarray(enhanced["image"].data).any(), "pixels are there after the temporary folder has gone"
    assert (enhanced["rna"].n_vars, section["rna"].n_vars) == (12, 80), "the given section is left as it is"
    observed = enhanced["rna"]
    np.testing.assert_allclose(
        sums(enhanced["rna_enhanced"], observed.obs_names.tolist()), observed.X.toarray(), atol=1e-6
    )
    folder = tmp_path / "run"
    settings = SHORT | {"image": "color", "run_dir": folder, "progress": True}
    result = so.tl.enhance(demo(), **settings)
    np.testing.assert_array_equal(result["rna_enhanced"].X.toarray(), enhanced["rna_enhanced"].X.toarray())
    assert (folder / "report.html").is_file()
    capsys.readouterr()
    again = so.tl.enhance(demo(), **settings)
    assert capsys.readouterr().out.count("done before") == len(STAGES)
    np.testing.assert_array_equal(again["rna_enhanced"].X.toarray(), result["rna_enhanced"].X.toarray())
    with pytest.raises(RunFolderError, match="was made from another section 'demo'"):
        so.tl.enhance(demo(seed=1), **settings)
    with pytest.raises(RunFolderError, match="seed is 0 there, 5 here"):
        so.tl.enhance(demo(), **settings, seed=5)


def test_saved_model_gives_the_same_and_is_loaded_strictly(fitted: Any, enhanced: SpatialData, tmp_path: Path) -> None:
    import torch

    path = fitted.save(tmp_path / "model")
    assert not list(path.rglob("*.ckpt"))
    loaded = so.load(path)
    again = loaded.enhance(progress=False)
    np.testing.assert_array_equal(again["rna_enhanced"].X.toarray(), enhanced["rna_enhanced"].X.toarray())
    prior = loaded.enhance(posterior="prior", progress=False)["rna_enhanced"].X
    assert np.abs(prior - enhanced["rna_enhanced"].X).max() > 0.01
    back = so.load(path).enhance(progress=False)["rna_enhanced"].X
    np.testing.assert_array_equal(back.toarray(), enhanced["rna_enhanced"].X.toarray())
    assert loaded.save(tmp_path / "again") == tmp_path / "again"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="is there and holds no model"):
        fitted.save(tmp_path / "other")
    file = path / "finetune" / "model.pt"
    content = torch.load(file, weights_only=True)
    torch.save(content | {"features": {"rna": content["features"]["rna"][::-1]}}, file)
    with pytest.raises(ModelFileError, match="feature 0 of 'rna'"):
        so.load(path)
    file.unlink()
    with pytest.raises(ModelFileError, match=r"model\.pt is missing"):
        so.load(path)
    with pytest.raises(RunFolderError, match="holds no run"):
        so.load(tmp_path / "nothing")


@pytest.mark.slow
def test_anndata_in_anndata_out() -> None:
    section = demo()
    table = as_anndata(section)
    table.layers["counts"], table.X = table.X, table.X * 0.5
    result = so.tl.enhance(table, layer="counts", name="liver", **SHORT)
    assert isinstance(result, AnnData)
    assert result.n_obs == 7 * section["rna"].n_obs
    observed = section["rna"][:, result.var_names].X.toarray()
    np.testing.assert_allclose(sums(result, section["rna"].obs_names.tolist()), observed, atol=1e-6)
    assert {"sd", "q05", "q95"} == set(result.layers)
    draw(result)


def joined(section: SpatialData) -> AnnData:
    """RNA and protein in one table, as 10x matrices hold them."""
    table = anndata.concat(
        [as_anndata(section), as_anndata(section, "protein")], axis=1, merge="first", uns_merge="first"
    )
    table.var["feature_types"] = ["Gene Expression"] * 80 + ["Antibody Capture"] * 20
    return table


@pytest.mark.slow
def test_mudata_in_mudata_out(tmp_path: Path) -> None:
    mudata = pytest.importorskip("mudata")
    section = demo()
    mdata = mudata.MuData({"rna": as_anndata(section), "protein": as_anndata(section, "protein")[::-1].copy()})
    with pytest.raises(ConfigError, match="MuData also has protein. Give each modality a model"):
        so.tl.enhance(mdata, **SHORT)
    features = {"rna": 12, "protein": "all"}
    result = so.tl.enhance(mdata, model={"rna": "nb", "protein": "poisson"}, **SHORT | {"features": features})
    assert isinstance(result, mudata.MuData)
    result.write(tmp_path / "result.h5mu")
    result = mudata.read_h5mu(tmp_path / "result.h5mu")
    assert {m: t.n_vars for m, t in result.mod.items()} == {"rna": 12, "protein": 20}
    for modality, table in result.mod.items():
        assert table.obs_names.equals(result.obs_names)
        observed = section[modality][:, table.var_names].X.toarray()
        np.testing.assert_allclose(sums(table, section[modality].obs_names.tolist()), observed, atol=1e-6)
    assert result.obsm["spatial"].shape == (result.n_obs, 2)
    with pytest.raises(ConfigError, match="AnnData comes back as one table"):
        so.tl.enhance(joined(section), model="joint_poisson_nb")
    with pytest.raises(DataError, match=r"AnnData, MuData.*found builtins.dict"):
        so.tl.enhance({"rna": table})


@pytest.mark.slow
def test_a_list_of_sections_is_trained_together() -> None:
    tables = [as_anndata(demo(seed=seed)) for seed in (0, 1)]
    results = so.tl.enhance(tables, name="block", **SHORT)
    assert [r.n_obs for r in results] == [7 * t.n_obs for t in tables]
    assert results[0].var_names.equals(results[1].var_names)
    for table, result in zip(tables, results, strict=True):
        observed = table[:, result.var_names].X.toarray()
        np.testing.assert_allclose(sums(result, table.obs_names.tolist()), observed, atol=1e-6)


def draw(table: AnnData) -> None:
    """Draw an enhanced table with scanpy and squidpy."""
    import scanpy as sc
    import squidpy as sq
    from matplotlib import pyplot as plt

    gene = table.var_names[0]
    sc.pl.embedding(table, basis="spatial", color=gene, show=False)
    sc.pl.spatial(table, color=gene, show=False)
    assert len(plt.gcf().axes[0].images) == 1, "the tissue image is under the spots"
    sq.pl.spatial_scatter(table, color=gene)
    assert len(plt.gcf().axes[0].images) == 1
    plt.close("all")


def test_written_files_are_drawn_by_spatialdata_plot_squidpy_and_scanpy(fitted: Any, enhanced: SpatialData) -> None:
    import matplotlib as mpl
    import spatialdata_plot  # noqa: F401
    from matplotlib import pyplot as plt

    mpl.use("agg")
    folder = fitted.folder
    sdata = spatialdata.read_zarr(folder.result("demo"))
    gene = sdata["rna_enhanced"].var_names[0]
    for system in ("global", "um"):
        drawn = sdata.pl.render_images("image").pl.render_shapes("subspots", color=gene, table_name="rna_enhanced")
        drawn.pl.show(coordinate_systems=system)
        (axes,) = [a for a in plt.gcf().axes if a.get_title() == system]
        values = sdata["rna_enhanced"][:, gene].X.toarray().ravel()
        expected = mpl.colormaps["viridis"]((values - values.min()) / np.ptp(values))
        np.testing.assert_allclose(axes.collections[0].get_facecolor()[:, :3], expected[:, :3], atol=0.02)
        plt.close("all")
    sdata.pl.render_shapes("spots", color=gene, table_name="rna").pl.show(coordinate_systems="um")
    (axes,) = [a for a in plt.gcf().axes if a.get_title() == "um"]
    values = sdata["rna"][:, gene].X.toarray().ravel()
    expected = mpl.colormaps["viridis"]((values - values.min()) / np.ptp(values))
    np.testing.assert_allclose(axes.collections[0].get_facecolor()[:, :3], expected[:, :3], atol=0.02)
    plt.close("all")
    draw(anndata.read_h5ad(folder.table("demo", "rna")))


def test_maps(enhanced: SpatialData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("agg")
    genes = enhanced["rna_enhanced"].var_names[[3, 1]].tolist()
    axes = so.pl.maps(enhanced, features=genes, save=tmp_path / "maps.pdf", show=False)
    assert axes.shape == (2, 4)
    assert axes[1, 2].get_title() == f"{genes[1]}: enhanced"
    np.testing.assert_allclose(
        axes[0, 2].collections[0].get_array(), enhanced["rna_enhanced"][:, genes[0]].X.toarray().ravel()
    )
    assert (tmp_path / "maps.pdf").stat().st_size > 1000
    shown: list[int] = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(1))
    assert so.pl.maps(enhanced, genes[0]) is None
    assert shown
    plt.close("all")
    for given, says in (
        ({"features": "nothing"}, "'nothing' was not enhanced"),
        ({"modality": "atac"}, "no enhanced table of 'atac'. Choose from: rna"),
        ({"features": []}, "leaves nothing to draw"),
    ):
        with pytest.raises(SoScopeError, match=says):
            so.pl.maps(enhanced, **given)
    with pytest.raises(DataError, match="is not enhanced"):
        so.pl.maps(demo())
    with pytest.raises(DataError, match="found AnnData"):
        so.pl.maps(enhanced["rna_enhanced"])


def test_a_model_enhances_data_it_has_not_seen(fitted: Any) -> None:
    raw = so.pp.read_section(reader="demo", rows=8, columns=6, seed=5)
    result = so.tl.apply(fitted, raw, progress=False)
    observed, found = result.tables["rna"].X.toarray(), result.tables["rna_enhanced"]
    assert found.var_names.tolist() == fitted_names(fitted)
    totals = np.zeros(observed.shape)
    np.add.at(totals, found.obs["parent"].to_numpy(), found.X.toarray())
    np.testing.assert_allclose(totals, observed, atol=1e-9)


def test_what_a_model_is_applied_to_has_to_fit_it(fitted: Any, tmp_path: Path) -> None:
    raw = so.pp.read_section(reader="demo", rows=8, columns=6, seed=5)
    split = so.pp.split_spots(raw, subspots=13, copy=True)
    for data, settings, error, says in (
        (raw, {"platform": "st"}, ConfigError, "platform cannot be set here: it is the model's. Settings are: enhance"),
        (raw, {"image": {"n_components": 3}}, ConfigError, "image.n_components cannot be set here"),
        (raw, {"enhance.draws": 3}, ConfigError, "give run_dir=FOLDER"),
        (split, {}, ConfigError, "soscope.pp worked on section 'demo' with split.subspots=13, the model has 7"),
    ):
        with pytest.raises(error, match=says):
            so.tl.apply(fitted, data, progress=False, **settings)
    mudata = pytest.importorskip("mudata")
    both = mudata.MuData({"rna": as_anndata(raw), "protein": as_anndata(raw, "protein")})
    with pytest.raises(ConfigError, match="MuData also has protein"):
        so.tl.apply(fitted, both, progress=False)
    with pytest.raises(ConfigError, match="'demo': soscope.pp worked on it with subspots=13, on the first with None"):
        so.tl.enhance([raw, split], **SHORT)
    result = so.tl.apply(fitted, raw, tmp_path, progress=False, enhance={"posterior": "prior"})
    assert result.attrs["soscope"]["posterior"] == "prior"
    stored = RunFolder(tmp_path).config()
    assert Path(stored.run).is_dir()


def fitted_names(fitted: Any) -> list[str]:
    prepared = spatialdata.read_zarr(fitted.folder.prepared("demo"))
    return prepared.tables["rna"].var_names.tolist()
