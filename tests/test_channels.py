"""Images of other channels than colour: reading, choosing, scaling, encoding and drawing them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from spatialdata import SpatialData

from soscope import contract
from soscope.benchmark.merge import merge
from soscope.channels import choose_channels, composite, scale_channel
from soscope.config_checks import check
from soscope.errors import ConfigError, DataError
from soscope.lattice import HexLattice
from soscope.prepare.encoders import make_encoder
from soscope.prepare.encoders.base import as_rgb_views
from soscope.prepare.image_features import as_seen, encode_patches
from soscope.prepare.pipeline import prepare_sections
from soscope.read import DemoReader
from soscope.read.base import RawSection, as_image, open_image
from soscope.report.canvas import Canvas
from soscope.report.interactive import tissue_source

STAINS = ["DAPI", "CD3", "PanCK", "CD68"]


@pytest.fixture
def stained() -> SpatialData:
    """The simulated section with a 16-bit image of four stains, its colours in other units and order, one of them noise."""
    raw = DemoReader(rows=10, columns=8).read(None).sdata
    rgb = contract.image_of(raw).astype(np.uint16)
    noise = np.random.default_rng(0).integers(0, 60000, rgb.shape[1:], dtype=np.uint16)
    pixels = np.stack([rgb[0] * 200 + 500, rgb[1] * 3, rgb[2] * 50 + 7, noise])
    image = contract.named_channels(pixels, STAINS)
    table = raw.tables["rna"]
    xy = np.asarray(table.obsm["spatial"])
    facts = {"reader": "demo", "image_source": "simulated", "files": []}
    return contract.new_section("demo", image, table.obs_names.tolist(), xy, 6.0, {"rna": table}, **facts)


def features(compose: Callable, section: SpatialData, cache: Path, *overrides: str) -> Any:
    cfg = compose("image=color", "image.n_components=100", f"image.cache={cache}", *overrides)
    return prepare_sections(cfg, [section])[0]


def test_scaling_equals_numpy_s_percentiles(rng: np.random.Generator) -> None:
    channel = rng.integers(0, 60000, (40, 50), dtype=np.uint16)
    low, high = np.percentile(channel, [2, 98])
    expected = np.clip((channel - low) / (high - low), 0, 1)
    np.testing.assert_allclose(scale_channel(channel, (2, 98), "here"), expected, atol=1e-6)
    with pytest.raises(DataError, match=r"here: percentiles 1 and 99\.8 are both 7.*image\.scaling=\[0,100\]"):
        scale_channel(np.full((5, 5), 7, dtype=np.uint16), (1, 99.8), "here")


def test_channels_are_chosen_by_name_and_number() -> None:
    assert choose_channels(STAINS, ["PanCK", 0], "x") == [2, 0]
    for wrong in ("CD4", 4, -1):
        with pytest.raises(ConfigError, match=f"no channel '{wrong}'.*0: DAPI, 1: CD3, 2: PanCK, 3: CD68"):
            choose_channels(STAINS, [wrong], "section 's'")


def test_colour_stays_as_it_is_and_its_cache_key_too(rng: np.random.Generator, tmp_path: Path) -> None:
    image = rng.integers(0, 255, (3, 40, 40), dtype=np.uint8)
    assert as_seen(image, list("rgb"), None, (1, 99.8), "x") is image
    chosen = as_seen(image, list("rgb"), ["g"], (0, 100), "x")
    assert chosen.shape == (1, 40, 40)
    assert (chosen.min(), chosen.max()) == (0, 1)


def test_networks_see_three_channels(rng: np.random.Generator) -> None:
    patches = torch.rand(2, 5, 4, 4)
    torch.testing.assert_close(as_rgb_views(patches[:, :3]), [patches[:, :3]])
    torch.testing.assert_close(as_rgb_views(patches[:, :1]), [patches[:, [0, 0, 0]]])
    two = as_rgb_views(patches[:, :2])[0]
    torch.testing.assert_close(two[:, :2], patches[:, :2])
    assert not two[:, 2].any()
    torch.testing.assert_close(as_rgb_views(patches), [patches[:, [i, i, i]] for i in range(5)])
    encoder = make_encoder("efficientnet_lite0")
    patches = torch.rand(2, 4, 32, 32)
    with torch.inference_mode():
        blocks = encoder.encode(patches).split(encoder.n_features, 1)
        for i, block in enumerate(blocks):
            torch.testing.assert_close(block, encoder(patches[:, [i, i, i]]), atol=1e-4, rtol=1e-4)
    assert len(blocks) == 4


def test_colour_statistics_are_seven_per_channel(rng: np.random.Generator) -> None:
    image = rng.random((4, 30, 30)).astype(np.float32)
    found = encode_patches(make_encoder("color"), image, np.array([[15.0, 15.0]]), 10, 10, 4, None, False)
    assert found.shape == (1, 28)
    np.testing.assert_allclose(found[0, :4], image[:, 10:20, 10:20].mean((1, 2)), atol=1e-3)


def test_prepares_sixteen_bit_stains(compose: Callable, stained: SpatialData, cache: Path) -> None:
    """Scaled, the first three stains are the simulated colours up to a stretch; what varies in them is the same."""
    out = features(compose, stained, cache, "image.channels=[DAPI,1,PanCK]", "image.scaling=[0,100]")
    plain = features(compose, DemoReader(rows=10, columns=8).read(None).sdata, cache)
    found, expected = (s["image_features"].X.astype(float) for s in (out, plain))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert contract.facts(out)["image_channels"] == STAINS[:3]
    assert "image_channels" not in contract.facts(plain)
    assert features(compose, stained, cache)["image_features"].n_vars == 28
    assert features(compose, stained, cache, "image.channels=CD68")["image_features"].n_vars == 7
    with pytest.raises(ConfigError, match="section 'demo' has no channel 'CD4'. Choose by name or number from 0: DAPI"):
        features(compose, stained, cache, "image.channels=[CD4]")


def test_stains_survive_the_disk_and_merging(
    compose: Callable, stained: SpatialData, cache: Path, tmp_path: Path
) -> None:
    contract.write_section(features(compose, stained, cache), tmp_path / "s.zarr")
    back = contract.open_section(tmp_path / "s.zarr")
    assert contract.channels_of(back) == STAINS
    np.testing.assert_array_equal(contract.image_of(back), contract.image_of(stained))
    big = DemoReader(rows=18, columns=12, n_features=5).read(None)
    pixels = contract.image_of(big.sdata).astype(np.uint16)
    image = contract.named_channels(pixels, STAINS[:3])
    table = big.sdata.tables["rna"]
    xy = np.asarray(table.obsm["spatial"])
    section = contract.new_section("demo", image, table.obs_names.tolist(), xy, 6.0, {"rna": table}, reader="demo")
    assert contract.channels_of(merge(RawSection(section), "hex7", HexLattice()).sdata) == STAINS[:3]


def test_maps_draw_stains_as_a_composite(compose: Callable, stained: SpatialData, cache: Path) -> None:
    section = features(compose, stained, cache, "image.channels=[PanCK,DAPI]")
    canvas = Canvas.of(section)
    assert canvas.image is not None
    drawn = canvas.image.pixels
    assert drawn.dtype == np.uint8
    source = tissue_source(section, canvas)
    assert source is not None
    with Image.open(BytesIO(base64.b64decode(source.data["url"][0].partition(",")[2]))) as jpeg:
        seen = np.asarray(jpeg, dtype=float)
    left, right, bottom, top = (max(int(v), 0) for v in canvas.window)
    part = drawn[top:bottom, left:right].astype(float)
    assert seen.shape == part.shape
    r = np.corrcoef(seen[..., :2].ravel(), part[..., :2].ravel())[0, 1]
    assert r > 0.98, "the interactive map shows the same picture, as a JPEG"
    pixels = contract.image_of(stained).astype(float)
    low, high = np.percentile(pixels[2], [1, 99.8])
    np.testing.assert_allclose(drawn[..., 0], np.clip((pixels[2] - low) / (high - low), 0, 1) * 255, atol=0.51)
    assert not drawn[..., 2].any()
    one = composite(np.stack([pixels[0]]), ["a"])
    assert (one[..., 0] == one[..., 2]).all()
    assert one.max() == 255


def test_readers_let_stains_through(tmp_path: Path, rng: np.random.Generator) -> None:
    stains = rng.integers(0, 60000, (4, 6, 8), dtype=np.uint16)
    pages = [Image.fromarray(page) for page in stains]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(open_image(tmp_path / "stack.tif"), stains)
    pages[0].save(tmp_path / "one.png")
    np.testing.assert_array_equal(open_image(tmp_path / "one.png"), stains[:1])
    eight = [Image.fromarray((page // 256).astype(np.uint8)) for page in stains]
    eight[0].save(tmp_path / "eight.tif", save_all=True, append_images=eight[1:])
    np.testing.assert_array_equal(open_image(tmp_path / "eight.tif"), stains // 256, "four stains, no alpha channel")
    grey = (stains[:1] // 256).astype(np.uint8)
    assert as_image(grey, "x").shape == (3, 6, 8)
    assert as_image(grey, "x", ["DAPI"]).shape == (1, 6, 8)
    with pytest.raises(DataError, match="x: expected an image of 8 or 16 bits.*found int64"):
        as_image(stains.astype(np.int64), "x")
    with pytest.raises(DataError, match="not finite"):
        as_image(np.full((1, 2, 2), np.nan), "x")
    with pytest.raises(DataError, match="4 channels needs as many different names"):
        contract.named_channels(stains, ["a", "b"])


@pytest.mark.parametrize("scaling", ["[1]", "[50,50]", "[-1,99]", "[0,101]"])
def test_scaling_is_two_percentiles(scaling: str, compose: Callable) -> None:
    with pytest.raises(ConfigError, match="must be two percentiles"):
        check(compose(f"image.scaling={scaling}"))
