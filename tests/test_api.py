"""The Python functions: settings, objects in memory as sections, step by step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from api_objects import as_anndata, demo
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Scale, get_transformation

import soscope as so
from soscope import contract
from soscope.errors import ConfigError, DataError
from soscope.settings import config


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


def test_symbols_of_two_genes_are_numbered_as_by_the_reader_of_folders() -> None:
    """As scanpy.read_visium and squidpy.read.visium deliver them: ids differ, some symbols do not."""
    table = as_anndata(demo())
    table.var["gene_ids"] = [f"ENSG{i}" for i in range(table.n_vars)]
    names = table.var_names.tolist()
    table.var_names = [names[0], *names[:-1]]
    found = so.pp.to_section(table, "liver")["rna"].var_names
    assert found[:2].tolist() == [names[0], f"{names[0]}-1"]
    assert table.var_names[1] == names[0], "what was given is left as it is"
    table.var["gene_ids"] = "ENSG0"
    with pytest.raises(DataError, match=r"1 feature names occur more than once.*var_names_make_unique"):
        so.tl.enhance(table)
    with pytest.raises(ConfigError, match=r"platform='visum' is unknown"):
        so.tl.enhance(table, platform="visum")


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
