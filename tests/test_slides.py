"""Full-resolution slides and the level that is read; array coordinates from positions."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from space_ranger import SCALE, write_folder

from soscope import contract
from soscope.errors import ConfigError, DataError
from soscope.lattice import make_lattice
from soscope.read import StReader, VisiumReader
from soscope.read.array import find_array
from soscope.read.slides import fine_level, open_slide


def write_pyramid(file: Path, levels: int = 3, side: int = 1024) -> list[np.ndarray]:
    """Write a tiled pyramid, in SubIFDs as OME-TIFF has them for ``.tif``, one page after another for scanners' formats."""
    finest = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    pages = [finest[:: 2**i, :: 2**i] for i in range(levels)]
    inside = file.suffix == ".tif"
    options = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(file) as out:
        out.write(pages[0], subifds=levels - 1 if inside else 0, **options)
        for page in pages[1:]:
            out.write(page, subfiletype=1, **options)
    return pages


@pytest.mark.parametrize("suffix", [".tif", ".svs"])
@pytest.mark.parametrize(("pitch_px", "level"), [(500, 0), (810, 1), (5000, 2)])
def test_the_coarsest_level_that_is_fine_enough_is_read(
    tmp_path: Path, suffix: str, pitch_px: float, level: int
) -> None:
    pages = write_pyramid(tmp_path / f"slide{suffix}")
    image, scale = open_slide(tmp_path / f"slide{suffix}", pitch_px)
    assert scale == 1 / 2**level
    np.testing.assert_array_equal(image, np.moveaxis(pages[level], -1, 0))


def test_levels() -> None:
    assert fine_level([1000, 500, 250], 1600) == 2
    assert fine_level([1000, 500, 250], 1599) == 1
    assert fine_level([1000, 500, 250], 20) == 0


@pytest.mark.parametrize(("suffix", "layout"), [(".tiff", {"header": True}), (".svs", {"mtx": True})])
def test_visium_with_a_slide(tmp_path: Path, suffix: str, layout: dict) -> None:
    folder = write_folder(tmp_path / "s", **layout)
    small = VisiumReader().read(folder).sdata
    hires = np.moveaxis(contract.image_of(small), 0, -1)
    slide = tmp_path / f"slide{suffix}"
    full = np.kron(hires, np.ones((int(1 / SCALE), int(1 / SCALE), 1), dtype=np.uint8))
    tifffile.imwrite(slide, full, tile=(128, 128), photometric="rgb")
    large = VisiumReader(image_file=str(slide)).read(folder).sdata
    np.testing.assert_array_equal(contract.image_of(large), np.moveaxis(full, -1, 0))
    np.testing.assert_allclose(large.tables["rna"].obsm["spatial"], small.tables["rna"].obsm["spatial"] / SCALE)


def test_channels_first_and_grey_tiff(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 50), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "planar.ome.tif", pixels, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(open_slide(tmp_path / "planar.ome.tif", 10)[0], pixels)
    tifffile.imwrite(tmp_path / "grey.tif", pixels[0], photometric="minisblack")
    np.testing.assert_array_equal(open_slide(tmp_path / "grey.tif", 10)[0], np.repeat(pixels[:1], 3, 0))


def test_what_bad_slides_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.tif", "a.svs"):
        (tmp_path / name).write_bytes(b"no image")
        with pytest.raises(DataError, match=f"{name}' cannot be read as a slide"):
            open_slide(tmp_path / name, 10)
    tifffile.imwrite(
        tmp_path / "stack.tif", np.zeros((5, 4, 40, 50), dtype=np.uint8), metadata={"axes": "TZYX"}, imagej=True
    )
    with pytest.raises(DataError, match="axes TZYX .* no single image"):
        open_slide(tmp_path / "stack.tif", 10)
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(ConfigError, match=r"pip install 'soscope\[slides\]'"):
        open_slide(tmp_path / "a.svs", 10)


@pytest.mark.parametrize("lattice", ["hex", "square"])
@pytest.mark.parametrize("degrees", [0, 17, 100])
def test_array_coordinates_are_found_up_to_the_lattices_symmetry(lattice: str, degrees: float) -> None:
    """Turned, shifted, jittered, with holes and an island: unit distances come out as they went in."""
    rng = np.random.default_rng(0)
    row, col = (a.ravel() for a in np.mgrid[:20, :20])
    kept = (rng.random(400) > 0.1) & (row != 15) & (row != 16)
    kept &= (row + col) % 2 == 0 if lattice == "hex" else True
    row, col = row[kept], col[kept]
    unit = make_lattice(lattice).unit_xy(row, col)
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    xy = (unit @ turn) * 30 + [500, -70] + rng.normal(0, 1, unit.shape)
    found = find_array(xy, lattice, "section 's'")
    again = make_lattice(lattice).unit_xy(*found.T)
    assert found.min() >= 0
    assert make_lattice(lattice).contradiction(*found.T) is None
    expected = np.linalg.norm(unit[:, None] - unit[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(again[:, None] - again[None], axis=-1), expected, atol=1e-9)


def test_positions_without_a_lattice_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="positions are no hex lattice"):
        find_array(rng.uniform(0, 100, (200, 2)), "hex", "section 's'")
    with pytest.raises(ConfigError, match="Choose from: hex, square"):
        find_array(rng.uniform(0, 100, (200, 2)), "round", "section 's'")


@pytest.mark.real
def test_real_array_coordinates_and_a_real_quincunx(data: Path) -> None:
    """Muscle's array is known; the olfactory bulb's is a square lattice, turned, in its own coordinates."""
    table = VisiumReader().read(data / "visium_mouse_muscle_2dpi").sdata.tables["rna"]
    hexagonal = make_lattice("hex")
    known = hexagonal.unit_xy(table.obs["array_row"].to_numpy(), table.obs["array_col"].to_numpy())
    found = hexagonal.unit_xy(*find_array(np.asarray(table.obsm["spatial"]), "hex", "muscle").T)
    np.testing.assert_allclose(
        np.linalg.norm(found - found[0], axis=1), np.linalg.norm(known - known[0], axis=1), atol=1e-9
    )
    names = {"counts_file": "MOB1.tsv.gz", "positions_file": "alignment_table_MOB1.tsv", "image_file": "MOB1.jpg"}
    folder = data / "st_mouse_olfactory_bulb"
    plain, turned = (StReader(**names, lattice=x).read(folder).sdata.tables["rna"].obs for x in (None, "square"))
    step = [
        t[["array_row", "array_col"]].to_numpy() - t[["array_row", "array_col"]].to_numpy()[0] for t in (plain, turned)
    ]
    np.testing.assert_array_equal((step[0] ** 2).sum(1), 2 * (step[1] ** 2).sum(1))
