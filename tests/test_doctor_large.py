"""The doctor on large sections and on images that are not 8-bit colour: bins, pools of spots, stains, memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from scipy import sparse
from scipy.ndimage import gaussian_filter

from soscope import contract
from soscope.doctor import examined, of_counts
from soscope.doctor.examine import in_order
from soscope.doctor.examined import Examined
from soscope.doctor.findings import CHECKS, Finding, Severity
from soscope.doctor.image_maps import ImageMaps, shrinking
from soscope.doctor.of_counts import identical_rows, maxima
from soscope.doctor.of_machine import stored_bytes
from soscope.doctor.overlay import write_overlay
from soscope.doctor.pooling import lattice_cells, pool
from soscope.lattice import make_lattice
from soscope.read import DemoReader
from soscope.read.base import RawSection

HD = ("data=visium_hd", "data.path=x", "platform=visium_hd", "image=color")


def bins(rows: int, columns: int, pitch: float, size: tuple[int, int], mean: float = 30.0) -> RawSection:
    """Square bins over a textured tissue whose colours their counts follow, on a larger slide of ``size`` (height, width)."""
    rng = np.random.default_rng(0)
    height, width = round((rows + 4) * pitch), round((columns + 4) * pitch)
    waves = np.stack([gaussian_filter(rng.normal(size=(height, width)), 6 * pitch) for _ in range(3)])
    waves = waves / waves.std((1, 2), keepdims=True)
    slide = rng.normal(240, 3, (3, *size))
    slide[:, 20 : 20 + height, 30 : 30 + width] = 120 + 30 * waves + rng.normal(0, 12, waves.shape)
    row, col = (a.ravel() for a in np.mgrid[:rows, :columns])
    xy = (np.column_stack([col, row]) + 2.5) * pitch
    at = np.floor(xy[:, ::-1]).astype(int)
    rate = np.exp(0.5 * waves[:, at[:, 0], at[:, 1]].T @ rng.normal(size=(3, 30)))
    counts = sparse.csr_matrix(rng.poisson(mean * rate / rate.sum(1).mean()).astype(np.float32))
    names = [f"b{i}" for i in range(len(row))]
    table = AnnData(counts, pd.DataFrame({"array_row": row, "array_col": col}, index=names))
    pixels = slide.clip(0, 255).astype(np.uint8)
    return RawSection(contract.new_section("hd", pixels, names, xy + [30, 20], pitch / 2, {"rna": table}))


def found(section: Examined, severity: Severity) -> dict[str, Finding]:
    return {f.about: f for c in CHECKS for f in c(section) if f.severity == severity}


def test_small_bins_on_a_wide_image_are_not_blank(compose: Callable) -> None:
    """Bins 2.9 px apart on an image 4,500 px wide: windows stay wide enough to have texture."""
    section = Examined(compose(*HD), bins(30, 60, 2.9, (180, 4500)))
    assert section.maps.shrunk_by == 1
    assert not found(section, Severity.SERIOUS)
    assert "blank patches" not in found(section, Severity.WARNING)
    assert shrinking(4500, 25.0) == 3
    assert shrinking(4500, 8.0) == 2
    assert shrinking(20_000, 2.0) == 3, "memory goes before texture"


def test_windows_of_two_pixels_are_said_to_have_no_texture(compose: Callable) -> None:
    section = Examined(compose(*HD), bins(30, 60, 2.0, (180, 300)))
    assert found(section, Severity.NOTE)["blank patches"].seen.startswith(
        "not looked at: a window one pitch wide is 2 px"
    )


def test_pools_are_sums_over_blocks_of_the_lattice(rng: np.random.Generator) -> None:
    """Hexagonal, as many spots in every whole block; against pandas."""
    row, nth = (a.ravel() for a in np.mgrid[:12, :10])
    lattice = make_lattice("hex")
    col = 2 * nth + row % 2
    xy = lattice.unit_xy(row, col) * 7
    counts = rng.poisson(3.0, (120, 5)).astype(np.float32)
    cells = lattice_cells(lattice, row, col)
    assert len(np.unique(cells, axis=0)) == 120
    together = pool(sparse.csr_matrix(counts), xy, cells, 7.0, 30)
    assert (together.side, len(together.xy)) == (2, 30)
    frame = pd.DataFrame(np.column_stack([counts, xy])).groupby([row // 2, nth // 2])
    np.testing.assert_allclose(together.counts.toarray(), frame.sum()[[0, 1, 2, 3, 4]], rtol=1e-6)
    np.testing.assert_allclose(together.xy, frame.mean()[[5, 6]])
    assert together.pitch == pytest.approx(7 * np.sqrt(3))
    part = np.delete(np.arange(120), [0, 4, 5, 14])  # one spot of a block is lost, and three of another
    fewer = pool(sparse.csr_matrix(counts[part]), xy[part], cells[part], 7.0, 30)
    assert len(fewer.xy) == 29
    own = np.isin(np.arange(120), [1, 10, 11])
    np.testing.assert_allclose(fewer.counts.toarray()[0], counts[own].sum(0) * 4 / 3, rtol=1e-6)
    assert pool(counts, xy, cells, 7.0, 120).counts is counts


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pool what is small, too."""
    monkeypatch.setattr(examined, "LOOKED_AT", 600)


@pytest.mark.usefixtures("few")
def test_sections_of_many_spots_are_judged_whole(compose: Callable) -> None:
    raw = bins(40, 60, 6.0, (330, 460))
    section = Examined(compose(*HD), raw)
    assert section.pool.side == 2
    assert section.judge.better() is None
    assert not found(section, Severity.SERIOUS)
    total = section.pool.counts.sum()
    assert total == pytest.approx(section.table.X.sum(), rel=1e-5)
    with_middle = bins(40, 60, 6.0, (330, 460))
    xy = np.asarray(with_middle.sdata.tables["rna"].obsm["spatial"])
    middle = (abs(xy - np.median(xy, axis=0)) < [60, 60]).all(1)
    x = with_middle.sdata.tables["rna"].X.toarray()
    x[~middle] = x[~middle][::-1]
    with_middle.sdata.tables["rna"].X = sparse.csr_matrix(x)
    assert middle.sum() < 600
    assert Examined(compose(*HD), with_middle).judge.given.z < section.judge.given.z - 3, "the rest counts as well"


@pytest.mark.usefixtures("few")
def test_turned_spots_stay_in_their_own_box(compose: Callable) -> None:
    """What is proposed for all spots turns about the centre of all."""
    whole = bins(40, 60, 6.0, (330, 640)).sdata
    table = whole.tables["rna"]
    table = table[
        (table.obs["array_row"] > 15) | (table.obs["array_col"] < 30)
    ].copy()  # the middle of the rest is off centre
    xy = np.asarray(table.obsm["spatial"])
    mirrored = np.column_stack([xy[:, 0].max() + xy[:, 0].min() - xy[:, 0], xy[:, 1]])
    names = table.obs_names.tolist()
    section = contract.new_section("hd", contract.image_of(whole), names, mirrored, 3.0, {"rna": table})
    judge = Examined(compose(*HD), RawSection(section)).judge
    better = judge.better()
    assert better is not None
    assert better.placement.words == "mirrored left to right within their own box"
    np.testing.assert_allclose(better.placement.move(mirrored), xy)
    assert any("moved by about 20 pitches" in j.placement.words for j in judge.others)


def stained(n: int, kind: type) -> RawSection:
    """The simulated section's colours as dark-field stains of another depth, with two that are empty of it."""
    raw = DemoReader(rows=18, columns=14, n_features=30).read(None)
    rng = np.random.default_rng(0)
    pixels = 255 - contract.image_of(raw.sdata).astype(float)
    pixels = np.concatenate([pixels, rng.integers(0, 255, (2, *pixels.shape[1:]))])[:n]
    scale = {np.uint8: 1, np.uint16: 40, np.float32: 1 / 90}[kind]
    table = raw.sdata.tables["rna"]
    image = contract.named_channels((pixels * scale).astype(kind), [f"stain{i}" for i in range(n)])
    xy = np.asarray(table.obsm["spatial"])
    return RawSection(contract.new_section("stains", image, table.obs_names.tolist(), xy, 6.0, {"rna": table}))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "kind"), [(1, np.uint16), (2, np.float32), (5, np.uint16)])
def test_stains_of_any_depth_are_looked_at(n: int, kind: type, compose: Callable, tmp_path: Path) -> None:
    chosen = ["image.channels=[2,0,stain1]"] if n == 5 else []
    section = Examined(compose("image=color", *chosen), stained(n, kind))
    assert section.picture.shape == (3, *section.image.shape[1:])
    assert section.picture.dtype == np.uint8
    assert not found(section, Severity.SERIOUS)
    assert section.judge.given.score > 0.1
    write_overlay(section, tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as drawn:
        assert len(np.unique(np.asarray(drawn.convert("L")))) > 50
    xy = section.table.obsm["spatial"]
    section.table.obsm["spatial"] = np.column_stack([section.image.shape[2] - xy[:, 0], xy[:, 1]])
    mirrored = Examined(section.cfg, RawSection(section.sdata))
    assert "orientation and place" in found(mirrored, Severity.SERIOUS)


def test_a_channel_that_is_not_there_would_be_refused(compose: Callable) -> None:
    section = Examined(compose("image=color", "image.channels=[stain7]"), stained(2, np.uint16))
    assert "has no channel 'stain7'" in found(section, Severity.SERIOUS)["refused by prepare"].seen


@pytest.mark.parametrize(("mean", "severity"), [(2.0, Severity.WARNING), (60.0, Severity.SERIOUS)])
def test_empty_bins_are_no_fault_where_counts_are_few(mean: float, severity: Severity, compose: Callable) -> None:
    raw = bins(30, 40, 8.0, (330, 400), mean)
    x = raw.sdata.tables["rna"].X.toarray()
    x[::6] = 0
    raw.sdata.tables["rna"].X = sparse.csr_matrix(x)
    assert "empty spots" in found(Examined(compose(*HD), raw), severity)


@pytest.mark.parametrize(("image", "healthy"), [("precomputed", True), ("none", True), ("color", False)])
def test_only_encoders_that_look_at_the_image_need_one(image: str, healthy: bool, compose: Callable) -> None:
    raw = DemoReader(rows=9, columns=8, n_features=5).read(None)
    del raw.sdata.images["image"]
    features = ["image.features=f.npy"] if image == "precomputed" else []
    section = Examined(compose(f"image={image}", *features), raw)
    assert ("image" not in found(section, Severity.SERIOUS)) == healthy


def test_scale_factors_that_are_gone_are_left_out(compose: Callable, tmp_path: Path) -> None:
    """A section written elsewhere names files that are not on this machine."""
    raw = DemoReader(rows=9, columns=8, n_features=5).read(None)
    raw.sdata.attrs["soscope"]["files"] = [str(tmp_path / "spatial" / "scalefactors_json.json")]
    assert "scale factors" not in found(Examined(compose(), raw), Severity.SERIOUS)


def test_memory_is_asked_first_and_counts_tables(compose: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = DemoReader(rows=9, columns=8, n_features=5).read(None)
    x = raw.sdata.tables["rna"].X
    assert stored_bytes(x) == x.data.nbytes + x.indices.nbytes + x.indptr.nbytes
    assert in_order()[0].name == "memory"
    assert {c.name for c in in_order()} == {c.name for c in CHECKS}
    size = contract.image_of(raw.sdata).size
    free = type(
        "Free", (), {"available": 9 * size + stored_bytes(x) - 1}
    )  # nine bytes a colour of a pixel, and the table
    monkeypatch.setattr("soscope.doctor.of_machine.psutil.virtual_memory", lambda: free)
    assert "memory" in found(Examined(compose("image=color"), raw), Severity.SERIOUS)
    free.available += 1
    assert "memory" not in found(Examined(compose("image=color"), raw), Severity.SERIOUS)


def test_tables_are_looked_at_by_columns(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same as of the whole, in a part of its memory."""
    dense = rng.poisson(0.8, (3000, 900)).astype(np.float32)
    dense[:, 7], dense[:, 300] = 0, dense[:, 12]
    dense[5] = dense[2000]
    x = sparse.csr_matrix(dense)
    monkeypatch.setattr(of_counts, "ENTRIES", 2**15)
    tracemalloc.start()
    largest, at_top = maxima(x)
    table = AnnData(x)
    seen = [s for _, s, _ in of_counts.copies(type("S", (), {"tables": {"rna": table}}))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(largest, dense.max(0))
    np.testing.assert_allclose(at_top, ((dense == dense.max(0)) & (dense > 0)).mean(0))
    assert any("1 spots repeat another's counts (first: '5' and '2000')" in s for s in seen)
    assert any("1 features repeat another's counts (first: '12' and '300')" in s for s in seen)
    assert peak < stored_bytes(x) / 3
    assert identical_rows([x[:1]]) == []


def test_texture_is_that_of_the_image(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (3, 40, 50)).astype(np.uint8)
    maps = ImageMaps(image, 5.0)
    expected = image[:, 18:23, 28:33].astype(float).mean(0).std()
    assert maps.texture(np.array([[30.5, 20.5]]))[0] == pytest.approx(expected, rel=1e-3)
