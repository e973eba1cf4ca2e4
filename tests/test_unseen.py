"""A trained model on sections it has not seen, with all of its features or some of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from spatialdata import SpatialData

from soscope import artifacts, contract, tl
from soscope.benchmark.metrics import within_spot_pearson
from soscope.build import build_finetune, describe
from soscope.data.module import SectionsDataModule
from soscope.errors import DataError, RunFolderError
from soscope.folder import RunFolder
from soscope.matrices import to_dense
from soscope.model_file import save_module
from soscope.prepare.learnt import Learnt
from soscope.prepare.pipeline import prepare_sections
from soscope.read import DemoReader
from soscope.run import unseen_config
from soscope.stages import Run
from soscope.unseen import load_unseen

QUICK = ["report.n_features=1", "report.dpi=30", "report.interactive=false"]


def test_the_section_it_was_trained_on_comes_out_the_same(
    trained: Path, soscope: Callable, cache: Path, tmp_path: Path
) -> None:
    words = ["data.options.rows=10", f"image.cache={cache}", f"hydra.run.dir={tmp_path}"]
    assert soscope("apply", f"run={trained}", *words, *QUICK) == 0
    applied = RunFolder(tmp_path)
    (result,) = artifacts.results(Run(applied.config(), applied, [], {}))
    assert [(a.name, a.inside) for a in result.made_from] == [("prepared-demo", True), ("model-demo", False)]
    assert result.made_from[1].paths["model.pt"] == RunFolder(trained).model_file, "the model is that of the other run"
    first, again = (anndata.read_h5ad(folder / "demo_rna.h5ad") for folder in (trained, tmp_path))
    assert first.obs_names.equals(again.obs_names)
    for one, two in ((first.X, again.X), (first.layers["sd"], again.layers["sd"])):
        np.testing.assert_allclose(to_dense(two), to_dense(one), rtol=0.02, atol=0.02)


def test_an_unseen_section_adds_up_and_says_what_it_was_made_with(
    trained: Path, soscope: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [f"run={trained}", "data.options.seed=4", f"hydra.run.dir={tmp_path}", "enhance.posterior=conditional"]
    assert soscope("apply", *words, "stages=[prepare,enhance]") == 0
    sdata = contract.open_section(tmp_path / "demo.zarr")
    enhanced, observed = sdata.tables["rna_enhanced"], sdata.tables["rna"]
    names = anndata.read_h5ad(trained / "demo_rna.h5ad").var_names
    assert enhanced.var_names.equals(names)
    totals = np.zeros(observed.shape)
    np.add.at(totals, enhanced.obs["parent"].to_numpy(), enhanced.X.toarray())
    np.testing.assert_allclose(totals, observed.X.toarray(), atol=1e-9)
    expected = DemoReader(rows=10, columns=8, seed=4).read(None).sdata.tables["rna"][:, names].X.toarray()
    np.testing.assert_array_equal(observed.X.toarray(), expected)
    truth = DemoReader(rows=10, columns=8, seed=4).read(None).truth[:, names].X
    r = within_spot_pearson(enhanced.X.toarray(), to_dense(truth), enhanced.obs["parent"].to_numpy())
    assert np.mean(r) > 0.2, "what was learnt of one section is worth something on another; the spot divided by K has 0"
    capsys.readouterr()
    for spelling in ("image.n_components=3", "++image.n_components=3"):
        assert soscope("apply", *words, spelling) == 1
        assert "the model knows image features as it was trained with them" in capsys.readouterr().err
    assert soscope("apply", words[0]) == 1
    assert "and data.path of another section" in capsys.readouterr().err
    assert soscope("apply", *words, "data.features=3") == 1
    assert "the features are those of the model" in capsys.readouterr().err
    assert soscope("apply", "data.options.seed=4") == 1
    assert "needs run=DIR" in capsys.readouterr().err


@pytest.fixture
def other(trained: Path, tmp_path: Path) -> Path:
    """The trained run with other weights, elsewhere."""
    shutil.copytree(trained, tmp_path / "other")
    file = tmp_path / "other" / "finetune" / "model.pt"
    content = torch.load(file, weights_only=True)
    torch.save(content | {"state": {k: v * 1.01 for k, v in content["state"].items()}}, file)
    return tmp_path / "other"


def test_another_models_result_is_not_come_back_to(
    trained: Path, other: Path, soscope: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["data.options.seed=4", f"hydra.run.dir={tmp_path / 'applied'}"]
    assert soscope("apply", f"run={trained}", *words, "stages=[prepare]") == 0
    assert soscope("apply", f"run={trained}", *words, "stages=[prepare]") == 0
    for stages in ("stages=[prepare,enhance]", "stages=[enhance]"):
        assert soscope("apply", f"run={other}", *words, stages) == 1
        assert "was made from another version of trained model" in capsys.readouterr().err


@pytest.mark.slow
def test_nor_is_it_in_python(trained: Path, other: Path, tmp_path: Path) -> None:
    section = DemoReader(rows=10, columns=8, seed=4).read(None).sdata
    tl.apply(trained, section, tmp_path / "applied", progress=False)
    with pytest.raises(RunFolderError, match="another version of trained model"):
        tl.apply(other, section, tmp_path / "applied", progress=False)


def test_what_belongs_to_the_training_sections_is_reset(compose: Callable, tmp_path: Path) -> None:
    trained = compose("data.truth=true.csv", "validate=true", "data.held_out=0.2", "stages=[prepare,pretrain,finetune]")
    cfg = unseen_config(trained, tmp_path)
    assert (cfg.run, cfg.data.truth, cfg.data.held_out, cfg.validate) == (str(tmp_path), None, 0.0, False)
    assert list(cfg.stages) == ["prepare", "enhance", "cluster", "report"]
    assert (trained.run, trained.data.truth, trained.validate) == (None, "true.csv", True)
    for features, kept in (("liver.npy", None), ("features/{section}.npy", "features/{section}.npy")):
        trained.image.features, trained.report.features = features, ["gene_1"]
        cfg = unseen_config(trained, tmp_path)
        assert (cfg.image.features, cfg.report.features) == (kept, None), "those of another section are not taken"


@pytest.fixture
def full(compose: Callable, cache: Path, tmp_path: Path) -> tuple:
    """A model that was not trained, with its file, and the section it is for."""
    cfg = compose("data.features=8", f"image.cache={cache}")
    raw = DemoReader(rows=8, columns=6).read(None).sdata
    (sdata,) = prepare_sections(cfg, [raw])
    contract.write_section(sdata, tmp_path / "full.zarr")
    data = SectionsDataModule([tmp_path / "full.zarr"], ["rna"])
    data.setup()
    model = build_finetune(cfg, data).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_module(model, describe(cfg, data, "model"), tmp_path / "model.pt")
    return cfg, raw, data, model


def test_a_model_of_some_features_is_the_whole_one_without_the_others(full: tuple, tmp_path: Path) -> None:
    cfg, raw, data, model = full
    names = data.features["rna"]
    kept = [names[i] for i in (6, 0, 3)]
    elements = {**raw.images, **raw.shapes, "rna": raw.tables["rna"][:, kept].copy()}
    raw = SpatialData.init_from_elements(elements, attrs=raw.attrs)
    learnt = Learnt.of(tmp_path / "full.zarr", ["rna"])
    (sdata,) = prepare_sections(cfg, [raw], learnt)
    assert sdata.tables["rna"].var_names.tolist() == [names[i] for i in (0, 3, 6)]
    contract.write_section(sdata, tmp_path / "some.zarr")
    some = SectionsDataModule([tmp_path / "some.zarr"], ["rna"])
    some.setup()
    part = load_unseen(cfg, tmp_path / "model.pt", some).eval()
    whole, tile = data.result_tiles[0], some.result_tiles[0]
    index, absent = torch.tensor([0, 3, 6]), torch.tensor([1, 2, 4, 5, 7])
    z = torch.randn(len(tile.keys), cfg.model.n_latent)
    view = model.encoder.views["rna"]
    size = whole.library_size["rna"]
    x = whole.profiles["rna"].clone()
    x[:, absent] = view.location[absent].expm1() * size[:, None] / view.target  # what the view standardises to zero
    shown = torch.ones_like(tile.core)
    with torch.no_grad():
        whole.profiles["rna"], tile.library_size["rna"] = x, size
        tile.spot_weight.copy_(whole.spot_weight)
        torch.testing.assert_close(part.encode(tile, shown).mean, model.encode(whole, shown).mean, rtol=1e-4, atol=1e-4)
        tile.field = whole.field
        ours, theirs = (m.decode(t, z)["rna"] for m, t in ((part, tile), (model, whole)))
    torch.testing.assert_close(ours["mu"], theirs["mu"][:, index], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours["phi"], theirs["phi"][index])


def test_a_panel_of_a_section_has_the_library_size_of_the_whole(
    compose: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = DemoReader(rows=8, columns=6).read(None).sdata
    (first,) = prepare_sections(compose("data.features=8", "image=none"), [whole])
    contract.write_section(first, tmp_path / "first.zarr")
    learnt, names = Learnt.of(tmp_path / "first.zarr", ["rna"]), first.tables["rna"].var_names
    totals = np.asarray(whole.tables["rna"].X.sum(1)).ravel()
    np.testing.assert_array_equal(learnt.library_size("rna", whole.tables["rna"]), totals)
    assert "estimated" not in caplog.text
    panel = whole.tables["rna"][:, names[:6]].copy()
    found, own = learnt.library_size("rna", panel), np.asarray(panel.X.sum(1)).ravel()
    np.testing.assert_allclose(found / own, totals.sum() / own.sum(), rtol=1e-5)
    assert "library sizes are estimated from 6" in caplog.text
    elements = {**whole.images, **whole.shapes, "rna": panel}
    section = SpatialData.init_from_elements(elements, attrs=whole.attrs)
    (unseen,) = prepare_sections(compose("data.features=8", "image=none"), [section], learnt)
    np.testing.assert_allclose(unseen.tables["rna"].obs["library_size"], found)


def test_sections_that_do_not_fit_are_refused(full: tuple, compose: Callable, tmp_path: Path) -> None:
    cfg, raw, _, _ = full
    learnt = Learnt.of(tmp_path / "full.zarr", ["rna"])
    with pytest.raises(DataError, match="'color', 21 columns, are not those the model was trained with .none"):
        Learnt(learnt.features, learnt.fitted, {}).reduced("color", np.zeros((3, 21)))
    raw.tables["rna"].var_names = [f"other_{name}" for name in raw.tables["rna"].var_names]
    with pytest.raises(DataError, match="has none of the model's 8 features"):
        prepare_sections(cfg, [raw], learnt)


@pytest.mark.parametrize("representation", ["lognorm", "components"])
def test_representations_are_those_of_the_first_sections(representation: str, compose: Callable, cache: Path) -> None:
    options = [
        "model=gaussian",
        f"model.modalities.rna.representation={representation}",
        "data.features=10",
        "image=none",
    ]
    cfg = compose(*options, "model.modalities.rna.n_components=4")
    raw = DemoReader(rows=8, columns=6).read(None).sdata
    (first,) = prepare_sections(cfg, [raw])
    fitted = first.tables["rna"].uns["fitted"]
    names = [str(n) for n in fitted.get("features", first.tables["rna"].var_names)]
    other = DemoReader(rows=8, columns=6, seed=3).read(None).sdata
    (unseen,) = prepare_sections(cfg, [other], Learnt({"rna": names}, {"rna": fitted}, {}))
    x = other.tables["rna"][:, names].X.toarray()
    size = np.asarray(other.tables["rna"].X.sum(1)).ravel()
    expected = np.log1p(x / np.maximum(size, 1)[:, None] * float(fitted["target"]))
    if representation == "components":
        expected = (expected - fitted["mean"]) / fitted["sd"] @ np.asarray(fitted["loadings"]).T
    np.testing.assert_allclose(unseen.tables["rna"].X, expected, rtol=1e-3, atol=1e-3)
