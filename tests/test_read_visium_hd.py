"""Visium HD: a small folder in its layout, bins of two sizes, and what bad ones say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from visium_hd_folder import HIRES, MARGIN_PX, SIDE_UM, UM_PER_PX, write_hd, write_segmented

from soscope import contract
from soscope.errors import ConfigError, DataError
from soscope.prepare.pipeline import prepare_sections
from soscope.read import VisiumHdReader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hd(tmp_path_factory.mktemp("hd") / "crc" / "outs")


def test_bins_are_spots_where_they_were_written(folder: Path) -> None:
    raw = VisiumHdReader().read(folder)
    table = raw.sdata.tables["rna"]
    side = SIDE_UM // 8
    assert raw.name == "crc"
    assert table.shape == (side**2 - 1, 15)  # the first is not under tissue
    fullres = (table.obs[["array_col", "array_row"]].to_numpy() + 0.5) * 8 / UM_PER_PX + MARGIN_PX
    np.testing.assert_allclose(table.obsm["spatial"], fullres * HIRES)
    assert contract.image_of(raw.sdata).shape[0] == 3
    assert "s_008um_00000_00001-1" in table.obs_names


def test_coarser_bins_are_sums_of_finer_ones(folder: Path) -> None:
    fine, coarse = (VisiumHdReader(bin_um=um).read(folder).sdata.tables["rna"] for um in (8, 16))
    inside = ((fine.obs["array_row"] // 2 == 3) & (fine.obs["array_col"] // 2 == 5)).to_numpy()
    same = ((coarse.obs["array_row"] == 3) & (coarse.obs["array_col"] == 5)).to_numpy()
    assert inside.sum() == 4
    np.testing.assert_array_equal(coarse.X[same].sum(0), fine.X[inside].sum(0))


@pytest.mark.parametrize("um", [8, 16])
def test_pitch_follows_the_bins(folder: Path, um: int, compose: Callable) -> None:
    cfg = compose(
        "data=visium_hd", f"data.path='{folder}'", "platform=visium_hd", f"data.options.bin_um={um}", "image=none"
    )
    raw = VisiumHdReader(bin_um=um).read(folder)
    facts = contract.facts(prepare_sections(cfg, [raw.sdata])[0])
    assert facts["um_per_px"] == pytest.approx(UM_PER_PX / HIRES)
    assert facts["subspots_per_spot"] == 4
    other = compose("data=visium_hd", f"data.path='{folder}'", "platform=dbit", "image=none")
    with pytest.raises(ConfigError, match=f"bins of {um} um, but platform=dbit .*Give platform.pitch_um={um}"):
        prepare_sections(other, [raw.sdata])


def test_full_resolution_slide(folder: Path, tmp_path: Path) -> None:
    side = int(SIDE_UM / UM_PER_PX + 2 * MARGIN_PX)
    slide = tmp_path / "slide.tif"
    tifffile.imwrite(slide, np.zeros((side, side, 3), dtype=np.uint8), photometric="rgb")
    raw = VisiumHdReader(image_file=str(slide)).read(folder)
    assert contract.image_of(raw.sdata).shape == (3, side, side)
    assert raw.sdata.tables["rna"].obsm["spatial"].max() > side / 2


def test_segmentations_are_left_out_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Space Ranger 4 writes cells beside the bins."""
    folder = write_segmented(write_hd(tmp_path / "s", bins=(8,)))
    raw = VisiumHdReader().read(folder)
    assert list(raw.sdata.tables) == ["rna"]
    assert raw.sdata.tables["rna"].n_obs == (SIDE_UM // 8) ** 2 - 1
    assert capsys.readouterr().out == ""


def test_what_bad_folders_say(tmp_path: Path) -> None:
    folder = write_hd(tmp_path / "s", bins=(8,))
    with pytest.raises(ConfigError, match="no bins of data.options.bin_um=2 um. Choose from: 8"):
        VisiumHdReader(bin_um=2).read(folder)
    matrix = folder / "binned_outputs" / "square_008um" / "filtered_feature_bc_matrix.h5"
    matrix.write_bytes(matrix.read_bytes()[: matrix.stat().st_size // 3])
    with pytest.raises(DataError, match="cannot be read.*truncated"):
        VisiumHdReader().read(folder)
    matrix.unlink()
    with pytest.raises(DataError, match=r"filtered_feature_bc_matrix.h5' is missing"):
        VisiumHdReader().read(folder)
    (folder / "feature_slice.h5").unlink()
    with pytest.raises(DataError, match=r"0 files \*feature_slice.h5"):
        VisiumHdReader().read(folder)
    with pytest.raises(DataError, match="not a folder.*Visium HD"):
        VisiumHdReader().read(tmp_path / "nowhere")
