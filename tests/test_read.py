"""Readers: folders in their real layout, real sections, and what each kind of bad input says."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image
from space_ranger import write_folder

from soscope import contract
from soscope.errors import ConfigError, DataError
from soscope.read import DemoReader, VisiumReader, make_reader
from soscope.read.base import open_image, page_names


@pytest.mark.parametrize("layout", [{}, {"header": True}, {"mtx": True}, {"lowres_only": True}])
def test_space_ranger_layouts_give_the_section_that_was_written(tmp_path: Path, layout: dict) -> None:
    folder = write_folder(tmp_path / "section a", **layout)
    raw = VisiumReader().read(folder)
    expected = DemoReader(rows=10, columns=8, n_features=40).read(None).sdata
    table, reference = raw.sdata.tables["rna"], expected.tables["rna"]
    assert raw.name == "section a"
    np.testing.assert_array_equal(table.X.toarray(), reference.X.toarray())
    scale = 0.5 if layout.get("lowres_only") else 1
    np.testing.assert_allclose(table.obsm["spatial"], reference.obsm["spatial"] * scale, atol=0.02)
    np.testing.assert_array_equal(table.obs["array_col"], reference.obs["array_col"])
    if not layout.get("lowres_only"):
        np.testing.assert_array_equal(contract.image_of(raw.sdata), contract.image_of(expected))


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_full_resolution_image_is_preferred_when_given(tmp_path: Path, suffix: str) -> None:
    folder = write_folder(tmp_path / "s")
    hires = Image.open(folder / "spatial" / "tissue_hires_image.png")
    slide = tmp_path / f"slide{suffix}"
    hires.resize((hires.width * 2, hires.height * 2)).save(slide)
    raw = VisiumReader(image_file=str(slide)).read(folder)
    expected = DemoReader(rows=10, columns=8, n_features=40).read(None).sdata
    assert contract.image_of(raw.sdata).shape == (3, 2 * hires.height, 2 * hires.width)
    np.testing.assert_allclose(
        raw.sdata.tables["rna"].obsm["spatial"], 2 * expected.tables["rna"].obsm["spatial"], atol=0.02
    )
    with pytest.raises(DataError, match="slide.none' is missing"):
        VisiumReader(image_file=str(tmp_path / "slide.none")).read(folder)


def test_pages_of_a_full_resolution_image_are_channels(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s")
    hires = Image.open(folder / "spatial" / "tissue_hires_image.png")
    slide = hires.resize((hires.width * 2, hires.height * 2))
    pages = [*slide.split(), slide.convert("L")]
    pages[0].save(tmp_path / "slide.tif", save_all=True, append_images=pages[1:])
    raw = VisiumReader(image_file=str(tmp_path / "slide.tif")).read(folder)
    assert contract.channels_of(raw.sdata) == [f"channel_{i}" for i in range(4)]
    np.testing.assert_array_equal(contract.image_of(raw.sdata), [np.asarray(page) for page in pages])


def test_rna_and_protein_are_parted_by_feature_type(tmp_path: Path) -> None:
    raw = VisiumReader().read(write_folder(tmp_path / "s", protein=True))
    assert raw.sdata.tables["rna"].n_vars == 40
    assert raw.sdata.tables["protein"].var_names.tolist() == ["CD3", "CD8"]


@pytest.mark.real
def test_real_sections(data: Path) -> None:
    muscle = VisiumReader().read(data / "visium_mouse_muscle_2dpi").sdata
    assert muscle.tables["rna"].shape == (982, 33217)
    assert contract.image_of(muscle).shape == (3, 1963, 2000)
    grid = VisiumReader().read(data / "grid50_human_breast").sdata
    assert grid.tables["rna"].shape == (2172, 36601)
    assert contract.image_of(grid).shape == (3, 600, 600)


def spoil_positions(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    file = folder / "spatial" / "tissue_positions_list.csv"
    change(pd.read_csv(file, header=None)).to_csv(file, header=False, index=False)


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder.*Space Ranger"):
        VisiumReader().read(tmp_path / "nowhere")
    for part, says in (
        ("filtered_feature_bc_matrix.h5", "no count matrix"),
        ("spatial/tissue_positions_list.csv", "no spot positions"),
        ("spatial/scalefactors_json.json", "scalefactors_json.json' is missing"),
    ):
        folder = write_folder(tmp_path / part.replace("/", "_"))
        (folder / part).unlink()
        with pytest.raises(DataError, match=says):
            VisiumReader().read(folder)


def test_truncated_matrix_and_images(tmp_path: Path) -> None:
    for i, part in enumerate(("filtered_feature_bc_matrix.h5", "spatial/tissue_hires_image.png")):
        file = write_folder(tmp_path / str(i)) / part
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 3])
        with pytest.raises(DataError, match="truncated"):
            VisiumReader().read(tmp_path / str(i))


def test_scale_factors_that_are_no_json_or_lack_a_number(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s")
    file = folder / "spatial" / "scalefactors_json.json"
    file.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        VisiumReader().read(folder)
    file.write_text(json.dumps({"tissue_hires_scalef": 1.0, "tissue_lowres_scalef": 1.0}))
    with pytest.raises(DataError, match="no number for spot_diameter_fullres"):
        VisiumReader().read(folder)


def test_barcodes_that_do_not_match(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s")
    spoil_positions(folder, lambda t: pd.concat([t[0].str.replace("-", "_"), t.iloc[:, 1:]], axis=1))
    with pytest.raises(DataError, match="barcodes.*have no position.*ACGT"):
        VisiumReader().read(folder)


def test_no_spot_in_the_tissue(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s")
    spoil_positions(folder, lambda t: pd.concat([t[[0]], t[[1]] * 0, t.iloc[:, 2:]], axis=1))
    with pytest.raises(DataError, match="in_tissue = 1"):
        VisiumReader().read(folder)


def test_image_smaller_than_the_spots_extent(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s")
    file = folder / "spatial" / "tissue_hires_image.png"
    image = Image.open(file)
    image.crop((0, 0, image.width // 2, image.height)).save(file)
    with pytest.raises(DataError, match="lie outside it.*cropped, or the scale factor"):
        VisiumReader().read(folder)


def test_duplicated_spots(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "positions")
    spoil_positions(folder, lambda t: pd.concat([t, t.iloc[:1]]))
    with pytest.raises(DataError, match=r"tissue_positions_list.csv': 1 barcodes occur more than once"):
        VisiumReader().read(folder)
    for layout in ({}, {"mtx": True}):
        folder = write_folder(tmp_path / f"matrix{len(layout)}", **layout)
        repeat_barcode(folder)
        with pytest.raises(DataError, match=r"matrix.*': 1 barcodes occur more than once \(first: 'ACGT.*-0'\)"):
            VisiumReader().read(folder)


def repeat_barcode(folder: Path) -> None:
    """Name the second spot of the matrix, h5 or mtx, like the first."""
    if (folder / "filtered_feature_bc_matrix").is_dir():
        file = folder / "filtered_feature_bc_matrix" / "barcodes.tsv.gz"
        names = gzip.decompress(file.read_bytes()).decode().split("\n")
        file.write_bytes(gzip.compress("\n".join([names[0], names[0], *names[2:]]).encode()))
        return
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "a") as file:
        file["matrix/barcodes"][1] = file["matrix/barcodes"][0]


@pytest.mark.parametrize("mode", ["L", "I;16", "RGBA"])
@pytest.mark.parametrize("given", [False, True])
def test_grey_and_deep_images_are_read(mode: str, given: bool, tmp_path: Path) -> None:
    """Whatever colours hires and lowres have, they are no reason to refuse a folder whose slide is named."""
    folder = write_folder(tmp_path / "s")
    with Image.open(folder / "spatial" / "tissue_hires_image.png") as hires:
        grey = np.asarray(hires.convert("L"))
        slide = hires.resize((hires.width * 2, hires.height * 2))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(grey).convert(mode)
    for name in ("hires", "lowres"):
        image.save(folder / "spatial" / f"tissue_{name}_image.png")
    slide.save(tmp_path / "slide.png")
    raw = VisiumReader(image_file=str(tmp_path / "slide.png") if given else None).read(folder)
    found = contract.image_of(raw.sdata)
    if given:
        np.testing.assert_array_equal(found, np.moveaxis(np.asarray(slide), -1, 0))
    else:
        expected = (grey.astype(np.uint16) * 257)[None] if mode == "I;16" else np.repeat(grey[None], 3, 0)
        np.testing.assert_array_equal(found, expected)


def test_the_only_matrix_with_a_prefix_is_taken(tmp_path: Path) -> None:
    """As 10x publishes them: PREFIX_filtered_feature_bc_matrix.h5 beside spatial/."""
    folder = write_folder(tmp_path / "s")
    matrix = folder / "filtered_feature_bc_matrix.h5"
    named = matrix.rename(folder / f"V1_Mouse_Brain_{matrix.name}")
    assert VisiumReader().inputs(folder)[0] == named
    assert VisiumReader().read(folder).sdata.tables["rna"].n_obs == demo_table().n_obs
    (folder / f"Other_{matrix.name}").write_bytes(named.read_bytes())
    with pytest.raises(
        DataError, match=r"2 with a prefix: Other_filtered.*V1_Mouse.*Name one with data.options.counts"
    ):
        VisiumReader().read(folder)
    assert VisiumReader(counts_file=named.name).inputs(folder)[0] == named


def demo_table() -> AnnData:
    return DemoReader(rows=10, columns=8, n_features=40).read(None).sdata.tables["rna"]


def test_positions_that_are_no_table(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s")
    spoil_positions(folder, lambda t: t.iloc[:, :4])
    with pytest.raises(DataError, match="cannot be read as positions.*in_tissue, array_row, array_col, pxl_row"):
        VisiumReader().read(folder)


def test_pages_of_another_size_are_no_channels(tmp_path: Path) -> None:
    """A thumbnail behind the stains of one size is left out, and so are all pages but the first of a pyramid."""
    pages = [Image.fromarray(np.full((20, 30), 10 * i, dtype=np.uint8)) for i in (1, 2, 3, 4)]
    small = Image.fromarray(np.zeros((5, 8), dtype=np.uint8))
    pages[0].save(tmp_path / "stains.tif", save_all=True, append_images=[*pages[1:], small])
    assert open_image(tmp_path / "stains.tif")[:, 0, 0].tolist() == [10, 20, 30, 40]
    assert page_names(tmp_path / "stains.tif") == [f"channel_{i}" for i in range(4)]
    pages[1].save(tmp_path / "pyramid.tif", save_all=True, append_images=[small])
    assert open_image(tmp_path / "pyramid.tif").tolist() == np.full((3, 20, 30), 20).tolist()
    assert page_names(tmp_path / "pyramid.tif") is None


def test_duplicated_features_by_id_are_refused_and_by_symbol_numbered(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "s")
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "a") as file:
        file["matrix/features/name"][1] = file["matrix/features/name"][0]
    assert VisiumReader().read(folder).sdata.tables["rna"].var_names[:2].tolist() == ["gene_001", "gene_001-1"]
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "a") as file:
        file["matrix/features/id"][1] = file["matrix/features/id"][0]
    with pytest.raises(DataError, match="1 feature ids occur more than once.*ENSG00000000000"):
        VisiumReader().read(folder)


def test_unknown_reader_and_option_name_the_choices() -> None:
    with pytest.raises(
        ConfigError, match="anndata, dbit, demo, section, soscope, spatialdata, st, table, visium, visium_hd, xenium"
    ):
        make_reader("cosmx", {})
    with pytest.raises(ConfigError, match="counts_file, image_file"):
        make_reader("visium", {"imagefile": "x"})


def test_demo_is_a_function_of_its_seed_and_spots_are_sums_of_the_truth() -> None:
    first, again, other = (DemoReader(rows=8, columns=6, seed=s).read(None) for s in (1, 1, 2))
    counts = first.sdata.tables["rna"].X.toarray()
    np.testing.assert_array_equal(counts, again.sdata.tables["rna"].X.toarray())
    assert not np.array_equal(counts, other.sdata.tables["rna"].X.toarray()[: len(counts)])
    truth = first.truth.X.toarray()
    tables = [first.sdata.tables[m].X.toarray() for m in ("rna", "protein", "atac")]
    np.testing.assert_array_equal(truth.reshape(len(counts), 7, -1).sum(1), np.concatenate(tables, 1))


def test_demo_is_honest_about_what_the_image_shows() -> None:
    """Some features follow darkness or colour closely, others hardly at all."""
    raw = DemoReader().read(None)
    image = contract.image_of(raw.sdata).astype(float)
    x, y = np.asarray(raw.sdata.tables["rna"].obsm["spatial"]).round().astype(int).T
    colour = np.stack([image[c, y + dy, x + dx] for c in range(3) for dy in (-4, 0, 4) for dx in (-4, 0, 4)], 1)
    design = np.column_stack([colour, np.ones(len(x))])
    profile = np.log1p(raw.sdata.tables["rna"].X.toarray())
    fitted = design @ np.linalg.lstsq(design, profile, rcond=None)[0]
    explained = 1 - (profile - fitted).var(0) / profile.var(0)
    assert np.quantile(explained, 0.9) > 0.4
    assert np.quantile(explained, 0.1) < 0.25
