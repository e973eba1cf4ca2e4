"""What programs that open a result ask of its shapes and of the tables on them."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import spatialdata
from spatialdata import SpatialData

from soscope import contract
from soscope.errors import DataError
from soscope.numbering import names_of, numbered_by_row

ON = {"spots": {"rna"}, "subspots": {"image_features", "rna_enhanced"}}


@pytest.fixture
def result(trained: Path) -> SpatialData:
    return spatialdata.read_zarr(trained / "demo.zarr")


@pytest.mark.parametrize("where", ["demo.zarr", "prepared/demo.zarr"])
def test_subspots_are_numbered_and_keep_their_names(trained: Path, where: str) -> None:
    """napari-spatialdata calls ``int`` on what stands in the index of polygons."""
    shapes = spatialdata.read_zarr(trained / where).shapes["subspots"]
    assert shapes.index.dtype.kind == "i"
    assert [int(i) for i in shapes.index] == list(range(len(shapes)))
    assert shapes["name"].is_unique
    number = shapes.groupby("parent").cumcount()
    assert shapes["name"].tolist() == [f"{p}:{i}" for p, i in zip(shapes["parent_name"], number, strict=True)]


@pytest.mark.parametrize("element", ON)
def test_an_element_is_annotated_by_the_tables_on_it_alone(result: SpatialData, element: str) -> None:
    assert spatialdata.get_element_annotators(result, element) == ON[element]
    for name in ON[element]:
        assert not (result[name].obs["region"] != element).any()
        assert result[name].obs["instance"].tolist() == result[element].index.tolist()


def test_tables_find_their_subspots_in_any_order(result: SpatialData) -> None:
    order = np.random.default_rng(0).permutation(len(result["subspots"]))
    for name in ON["subspots"]:
        result.tables[name] = result[name][order].copy()
        table = spatialdata.match_table_to_element(result, "subspots", name)
        assert table.obs_names.tolist() == result["subspots"]["name"].tolist()
        elements, table = spatialdata.join_spatialelement_table(
            sdata=result, spatial_element_names="subspots", table_name=name, how="inner", match_rows="right"
        )
        assert elements["subspots"]["name"].tolist() == table.obs_names.tolist() == result[name].obs_names.tolist()


def test_tables_opened_without_their_values_fit_into_spatialdata(trained: Path, result: SpatialData) -> None:
    _, tables = contract.open_tables(trained / "demo.zarr")
    for name, table in tables.items():
        assert table.uns["spatialdata_attrs"] == result[name].uns["spatialdata_attrs"]
        assert isinstance(table.uns["spatialdata_attrs"]["region"], list)


def test_names_stay_when_shapes_are_numbered_again() -> None:
    shapes = gpd.GeoDataFrame(geometry=shapely.points([[0, 0], [1, 0], [2, 0]]), index=["a:0", "a:1", "b:0"])
    numbered = numbered_by_row(shapes)
    assert numbered.index.tolist() == [0, 1, 2]
    assert names_of(shapes).tolist() == numbered["name"].tolist() == names_of(numbered).tolist()
    again = numbered_by_row(numbered.iloc[1:])
    assert again["name"].tolist() == ["a:1", "b:0"]
    assert again.index.tolist() == [0, 1]
    assert "name" not in shapes, "what was given stays as it is"


def test_a_result_of_format_2_is_refused(trained: Path, result: SpatialData, tmp_path: Path) -> None:
    result.attrs["soscope"]["format_version"] = 2
    contract.write_section(result, tmp_path / "old.zarr")
    with pytest.raises(DataError, match="data format 2, this soscope reads 3. Prepare it again"):
        contract.open_section(tmp_path / "old.zarr")
