"""Maps of sections too large for outlines, and reports that read no more than they draw."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import sparse

from soscope import contract
from soscope.report import figures
from soscope.report.canvas import Canvas, Outlines, Points


def test_pixels_show_the_nearest_point_and_nothing_far_from_all() -> None:
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(30), np.arange(20)))
    points = Points(np.stack([100 + 2 * x, 50 + 2 * y], 1))
    found = points.pixels(1000 * y + x)
    assert np.isfinite(found).all(), "no gaps on a lattice"
    assert set(found.ravel()) == set(1000 * y + x), "every point is there"
    left, right, bottom, top = points.extent
    assert (left, top) == pytest.approx((99, 49), abs=0.5)
    assert (right, bottom) == pytest.approx((159, 89), abs=1)
    at = (
        int((50 + 2 * 7 - top) / (bottom - top) * found.shape[0]),
        int((100 + 2 * 21 - left) / (right - left) * found.shape[1]),
    )
    assert found[at] == 7021
    apart = Points(np.array([[0.0, 0.0], [1.0, 0.0], [30.0, 9.0], [31.0, 9.0]]))
    assert np.isnan(apart.pixels(np.ones(4))).any()


@pytest.mark.parametrize("layer", [None, "sd"])
def test_columns_of_a_table_on_disk_are_those_of_the_table(
    trained: Path, layer: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("soscope.report.figures.BLOCK", 100)
    stored = contract.open_result(trained / "demo.zarr", 0).tables["rna_enhanced"]
    assert not isinstance(stored.X, np.ndarray | sparse.spmatrix)
    whole = anndata.read_h5ad(trained / "demo_rna.h5ad")
    values = whole.layers[layer] if layer else whole.X
    names = whole.var_names[[7, 2]].tolist()
    np.testing.assert_array_equal(figures.columns(stored, names, layer), values.toarray()[:, [7, 2]])


def test_large_sections_are_drawn_as_points_in_the_same_place(trained: Path) -> None:
    outlined = Canvas.of(contract.open_result(trained / "demo.zarr", 10**6))
    assert isinstance(outlined.subspots, Outlines)
    points = Canvas.of(contract.open_result(trained / "demo.zarr", 0))
    assert isinstance(points.subspots, Points)
    drawn = []
    xy = points.subspots.xy
    for canvas in (outlined, points):
        canvas.image = None
        canvas.window = outlined.window
        figure = Figure(figsize=(4, 4), dpi=50)
        canvas.draw(figure.subplots(), canvas.subspots, xy[:, 0] + 3 * xy[:, 1], "", cmap="gray")
        agg = FigureCanvasAgg(figure)
        agg.draw()
        drawn.append(np.asarray(agg.buffer_rgba())[..., 0].astype(float))
    both = (drawn[0] < 250) & (drawn[1] < 250)
    assert both.sum() / ((drawn[0] < 250) | (drawn[1] < 250)).sum() > 0.85
    assert np.median(np.abs(drawn[0][both] - drawn[1][both])) < 6, "of 255 levels; a flipped map differs by tens"


def test_a_report_of_points_is_a_report(
    trained: Path, soscope: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("canvas", "page"):
        monkeypatch.setattr(f"soscope.report.{module}.OUTLINED_UP_TO", 10)
    run = shutil.copytree(trained, tmp_path / "copy")
    (run / "report.html").unlink()
    assert soscope("report", f"run={run}", "report.n_features=1") == 0
    assert (run / "report.html").read_text().count('<img src="data:image/png;base64') == 5
