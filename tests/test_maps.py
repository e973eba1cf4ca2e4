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


def test_squares_hold_the_mean_of_their_points_or_one_of_their_classes() -> None:
    x, y = (v.ravel().astype(float) for v in np.meshgrid(np.arange(30), np.arange(20)))
    points = Points(np.stack([100 + 2 * x, 50 + 2 * y], 1))
    assert points.width == pytest.approx(3.0)
    found = points.squares(x)
    assert found.shape == (13, 20)
    assert np.isfinite(found).all(), "no gaps on a lattice"
    np.testing.assert_allclose(found[0, :3], [0.5, 2.0, 3.5])
    assert set(points.squares((x >= 15).astype(int), classes=True).ravel()) == {0, 1}
    apart = Points(np.array([[0.0, 0.0], [1.0, 0.0], [30.0, 9.0], [31.0, 9.0]]))
    assert np.isnan(apart.squares(np.ones(4))).any()


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


def test_large_sections_are_drawn_as_points_in_the_same_place(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outlined = Canvas.of(contract.open_result(trained / "demo.zarr", 10**6))
    assert isinstance(outlined.subspots, Outlines)
    points = Canvas.of(contract.open_result(trained / "demo.zarr", 0))
    assert isinstance(points.subspots, Points)
    drawn = []
    for canvas in (outlined, points):
        canvas.image = None
        canvas.window = outlined.window
        figure = Figure(figsize=(4, 4), dpi=50)
        values = canvas.subspots.bounds()[0][0] + np.arange(len(points.subspots.xy))
        canvas.draw(figure.subplots(), canvas.subspots, values, "")
        agg = FigureCanvasAgg(figure)
        agg.draw()
        drawn.append(np.asarray(agg.buffer_rgba())[..., :3].mean(-1) < 250)
    agree = (drawn[0] & drawn[1]).sum() / (drawn[0] | drawn[1]).sum()
    assert agree > 0.85


def test_a_report_of_points_is_a_report(
    trained: Path, soscope: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("canvas", "page"):
        monkeypatch.setattr(f"soscope.report.{module}.OUTLINED_UP_TO", 10)
    run = shutil.copytree(trained, tmp_path / "copy")
    (run / "report.html").unlink()
    assert soscope("report", f"run={run}", "report.n_features=1") == 0
    assert (run / "report.html").read_text().count("data:image/png;base64") == 4
