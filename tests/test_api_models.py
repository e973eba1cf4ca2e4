"""soscope.tl: training, enhancing and applying from Python, and saved models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spatialdata
from anndata import AnnData
from api_objects import SHORT, as_anndata, demo, draw, joined, sums
from spatialdata import SpatialData

import soscope as so
from soscope.errors import ConfigError, DataError, ModelFileError, RunFolderError
from soscope.folder import RunFolder
from soscope.schema import STAGES


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
    assert Path(RunFolder(tmp_path).config().run) == fitted.folder.path.absolute()
    with pytest.raises(ConfigError, match="platform cannot be set here"):
        so.tl.apply(fitted, {"no": "section"}, progress=False, platform="st")


@pytest.mark.slow
def test_a_model_in_no_folder_of_the_users_is_kept_with_what_it_was_applied_to(tmp_path: Path) -> None:
    raw = so.pp.read_section(reader="demo", rows=8, columns=6, seed=5)
    model = so.tl.fit(demo(), **SHORT)
    first = so.tl.apply(model, raw, tmp_path / "applied", progress=False)
    del model
    kept = Path(RunFolder(tmp_path / "applied").config().run)
    assert kept == tmp_path / "applied" / "model"
    again = so.tl.apply(kept, raw, tmp_path / "applied", progress=False)
    np.testing.assert_array_equal(again["rna_enhanced"].X.toarray(), first["rna_enhanced"].X.toarray())


def fitted_names(fitted: Any) -> list[str]:
    prepared = spatialdata.read_zarr(fitted.folder.prepared("demo"))
    return prepared.tables["rna"].var_names.tolist()
