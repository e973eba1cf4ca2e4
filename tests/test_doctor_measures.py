"""What the doctor measures equals its formulas, and tables that carry nothing do not stop it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy import sparse

from soscope.doctor.association import Association
from soscope.doctor.examine import CHECKS
from soscope.doctor.examined import Examined
from soscope.doctor.findings import Severity
from soscope.doctor.image_maps import ImageMaps, shrink, tissue_mask
from soscope.doctor.of_counts import identical_rows
from soscope.doctor.orientations import ORIENTATIONS, within_box, within_image
from soscope.read import DemoReader


@pytest.mark.parametrize("orientation", ORIENTATIONS[1:], ids=lambda o: o.words)
def test_advice_for_an_orientation_brings_the_image_under_the_positions(orientation: object) -> None:
    """Turned as Pillow names it, the image shows at each position what it showed at the turned position before."""
    image = np.random.default_rng(0).integers(0, 255, (7, 5)).astype(np.uint8)
    turned = np.asarray(Image.fromarray(image).transpose(Image.Transpose[orientation.image]))
    rows, columns = (a.ravel() for a in np.mgrid[: turned.shape[0], : turned.shape[1]])
    xy = within_image(np.column_stack([columns, rows]) + 0.5, orientation, np.array([5, 7]))
    np.testing.assert_array_equal(image[tuple(np.floor(xy[:, ::-1]).astype(int).T)], turned.ravel())


def test_orientations_within_a_box_are_the_eight_of_a_square() -> None:
    low, high = np.zeros(2), np.full(2, 2.0)
    found = {tuple(within_box(np.array([[0.5, 0.25]]), o, low, high)[0]) for o in ORIENTATIONS}
    sides = [(0.5, 0.25), (1.5, 0.25), (0.5, 1.75), (1.5, 1.75)]
    assert found == {*sides, *((y, x) for x, y in sides)}


def test_score_is_the_r2_of_ridge_in_left_out_blocks(rng: np.random.Generator) -> None:
    """Against scikit-learn's ridge on the same folds."""
    from sklearn.linear_model import Ridge

    xy = np.stack(np.meshgrid(np.arange(12.0), np.arange(10.0)), -1).reshape(-1, 2)
    features = rng.normal(size=(120, 3))
    counts = rng.poisson(np.exp(2 + 0.8 * features[:, :1] + 0.3 * rng.normal(size=(120, 20))))
    found = Association(sparse.csr_matrix(counts), xy, 1.0)
    z = (features - features.mean(0)) / features.std(0)
    predicted = np.zeros_like(found.targets)
    for fold in found.folds:
        rest = np.setdiff1d(np.arange(120), fold)
        predicted[fold] = Ridge(10.0).fit(z[rest], found.targets[rest]).predict(z[fold])
    r2 = np.clip(1 - ((found.targets - predicted) ** 2).mean(0), -0.3, 1)
    assert found.score(features) == pytest.approx(np.average(r2, weights=np.clip(found.morans_i, 0.05, 1)))
    np.testing.assert_allclose(found.targets[:, 0], _z(np.log1p(counts.sum(1))))


def _z(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / values.std()


def test_morans_i_equals_its_formula(rng: np.random.Generator) -> None:
    xy = np.stack(np.meshgrid(np.arange(9.0), np.arange(8.0)), -1).reshape(-1, 2)
    found = Association(sparse.csr_matrix(rng.poisson(3.0 + xy[:, :1], (72, 6))), xy, 1.0)
    near = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    weights = np.where((near > 0) & (near < 1.1), 1.0, 0.0)
    weights /= weights.sum(1, keepdims=True)
    expected = [t @ weights @ t / (t @ t) for t in found.targets.T]
    np.testing.assert_allclose(found.morans_i, expected)


def test_maps_hold_means_and_deviations_of_windows(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (3, 60, 80)).astype(np.uint8)
    maps = ImageMaps(image, 8.0)
    at = maps.features(np.array([[40.5, 30.5]]))[0]
    window = image[:, 26:34, 36:44].astype(float)
    np.testing.assert_allclose(at[:3], window.mean((1, 2)), rtol=1e-5)
    assert at[3] == pytest.approx(window.mean(0).std(), rel=1e-3)
    np.testing.assert_allclose(shrink(image, 2)[:, 0, 0], image[:, :2, :2].mean((1, 2)), rtol=1e-6)
    assert not maps.on_tissue(np.array([[-1.0, 5.0], [81.0, 5.0]])).any()


@pytest.mark.parametrize("background", [240.0, 10.0])
def test_tissue_is_the_rougher_side_on_bright_and_on_dark_ground(background: float) -> None:
    grey, texture = np.full((20, 20), background), np.ones((20, 20))
    grey[5:15, 5:15], texture[5:15, 5:15] = 120, 9
    assert tissue_mask(grey, texture).sum() == 100
    assert not tissue_mask(np.full((4, 4), background), np.ones((4, 4))).any()


@pytest.mark.parametrize("spoil", ["nan", "negative", "constant", "all empty"])
def test_tables_that_carry_nothing_are_looked_at_without_stumbling(spoil: str, compose: Callable) -> None:
    raw = DemoReader(rows=9, columns=8, n_features=5).read(None)
    x = raw.sdata.tables["rna"].X.toarray()
    x[0] = {"nan": np.nan, "negative": -1}.get(spoil, x[0])
    if spoil in ("constant", "all empty"):
        x[:] = 3 if spoil == "constant" else 0
    raw.sdata.tables["rna"].X = sparse.csr_matrix(x)
    examined = Examined(compose("data=demo"), raw)
    found = {f.about for c in CHECKS for f in c(examined) if f.severity == Severity.SERIOUS}
    assert found & {"refused by prepare", "barcodes and positions", "empty spots"}


def test_identical_rows_are_found_and_sparse_ones_left_out() -> None:
    x = np.array([[60, 0, 5], [0, 60, 5], [60, 0, 5], [0, 0, 1], [0, 0, 1], [60, 0, 5]], dtype=np.float32)
    assert identical_rows([sparse.csr_matrix(x)]) == [(0, 2), (0, 5)]
    assert identical_rows([sparse.csr_matrix(x[:4]), sparse.csr_matrix(x[4:])]) == [(0, 2), (0, 5)]
