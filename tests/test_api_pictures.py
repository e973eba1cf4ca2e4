"""What others draw of written files and results, and soscope.pl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import spatialdata
from api_objects import demo, draw
from spatialdata import SpatialData

import soscope as so
from soscope.errors import DataError, SoScopeError


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
