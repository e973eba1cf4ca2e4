"""The classic ST folder: small ones in its real layout, what bad ones say, and a real section."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from soscope import contract
from soscope.errors import DataError
from soscope.prepare.pipeline import prepare_sections
from soscope.read import StReader
from soscope.read.base import open_image

PITCH = 20


def write_st(folder: Path) -> Path:
    """Write 6 x 5 spots with 12 features, x from 10 and y from 3, and an image whose y runs with array y."""
    rng = np.random.default_rng(0)
    x, y = (a.ravel() for a in np.meshgrid(np.arange(10, 16), np.arange(3, 8)))
    names = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    counts = pd.DataFrame(rng.poisson(5.0, (30, 12)), index=names, columns=[f"gene_{i}" for i in range(12)])
    pixels = {"pixel_x": (x - 9) * PITCH + 0.25, "pixel_y": (y - 2) * PITCH - 0.25}
    spots = pd.DataFrame({"x": x, "y": y, "new_x": x + 0.1, "new_y": y - 0.1, **pixels, "selected": 1})
    folder.mkdir(parents=True)
    counts.to_csv(folder / "counts.tsv.gz", sep="\t")
    spots.iloc[::-1].to_csv(folder / "spots.tsv", sep="\t", index=False)
    Image.fromarray(rng.integers(0, 255, (6 * PITCH, 7 * PITCH, 3), dtype=np.uint8)).save(folder / "he.jpg")
    return folder


def spoil_spots(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    change(pd.read_csv(folder / "spots.tsv", sep="\t")).to_csv(folder / "spots.tsv", sep="\t", index=False)
    return folder


def spoil_counts(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    file = folder / "counts.tsv.gz"
    change(pd.read_csv(file, sep="\t", index_col=0)).to_csv(file, sep="\t")
    return folder


def test_folder_gives_the_section_that_was_written(tmp_path: Path) -> None:
    folder = write_st(tmp_path / "C9")
    raw = StReader().read(folder)
    table, written = raw.sdata.tables["rna"], pd.read_csv(folder / "counts.tsv.gz", sep="\t", index_col=0)
    assert raw.name == "C9"
    np.testing.assert_array_equal(table.X.toarray(), written)
    assert table.obs_names.tolist() == written.index.tolist()
    assert table.obs["array_col"].tolist() == [int(n.split("x")[0]) for n in table.obs_names]
    assert table.obs["array_row"].tolist() == [int(n.split("x")[1]) for n in table.obs_names]
    np.testing.assert_allclose(table.obsm["spatial"][:2], [[20.25, 19.75], [40.25, 19.75]])
    assert contract.image_of(raw.sdata).shape == (3, 6 * PITCH, 7 * PITCH)
    assert raw.sdata.shapes["spots"]["radius"].iloc[0] == pytest.approx(PITCH / 4)
    assert [f.name for f in StReader().inputs(folder)] == ["counts.tsv.gz", "spots.tsv", "he.jpg"]


def test_header_without_a_corner_and_files_of_other_names(tmp_path: Path) -> None:
    folder = write_st(tmp_path / "s")
    lines = gzip.decompress((folder / "counts.tsv.gz").read_bytes()).decode()
    (folder / "other.tsv").write_text(lines.removeprefix("\t"))
    (folder / "counts.tsv.gz").unlink()
    (folder / "he.jpg").unlink()
    raw = StReader(counts_file="other.tsv", image_file=None).read(folder)
    assert raw.sdata.tables["rna"].var_names.tolist()[:2] == ["gene_0", "gene_1"]
    assert contract.image_of(raw.sdata) is None
    assert contract.facts(raw.sdata)["image_source"] == "none"


def test_only_selected_spots_with_counts_are_kept(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    folder = spoil_spots(write_st(tmp_path / "s"), lambda t: t.assign(selected=(t["x"] != 10).astype(int)))
    spoil_counts(folder, lambda t: t.drop(index="11x3"))
    table = StReader().read(folder).sdata.tables["rna"]
    assert table.n_obs == 24
    assert "left out 5 spots without a position, 1 without counts" in log.text
    everything = spoil_spots(write_st(tmp_path / "all"), lambda t: t.drop(columns="selected"))
    assert StReader().read(everything).sdata.tables["rna"].n_obs == 30


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.assign(selected=0), "none of 30 spots has selected = 1"),
        (lambda t: t.drop(columns="pixel_x"), "no column pixel_x; it has x, y"),
        (lambda t: t.assign(x=t["x"] + 0.5), "whole array coordinates.*30 of 30.*new_x"),
        (lambda t: pd.concat([t, t[:1]]), "'15x7' has more than one position"),
        (lambda t: t.assign(x=t["x"] + 90), "none of its 30 spots has a position in 'spots.tsv'.*'10x3'.*'105x7'"),
        (lambda t: t.assign(pixel_x=t["pixel_x"] * 9), "lie outside it"),
        (lambda t: t.assign(pixel_y=np.nan), "30 spots have no position"),
    ],
)
def test_positions_that_cannot_be(change: Callable, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        StReader().read(spoil_spots(write_st(tmp_path / "s"), change))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: pd.concat([t, t[:1]]), "1 spot names occur more than once.*'10x3'"),
        (lambda t: t.rename(columns={"gene_1": "gene_0"}), "1 feature names occur more than once.*'gene_0'"),
        (lambda t: t.assign(gene_2="many"), "spot '10x3', feature 'gene_2', 'many'"),
        (lambda t: t[:0], "cannot be read as a tab-separated table"),
    ],
)
def test_counts_that_cannot_be(change: Callable, says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=says):
        StReader().read(spoil_counts(write_st(tmp_path / "s"), change))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a folder.*counts.tsv.gz, spots.tsv"):
        StReader().read(tmp_path / "nowhere")
    for name, option in (("counts.tsv.gz", "counts_file"), ("spots.tsv", "positions_file"), ("he.jpg", "image_file")):
        folder = write_st(tmp_path / f"without {name}")
        (folder / name).unlink()
        with pytest.raises(DataError, match=rf"{name}' is missing.*data\.options\.{option}="):
            StReader().read(folder)
    for name, says in (("counts.tsv.gz", "counts.*tab-separated"), ("he.jpg", "cannot be read as an image")):
        file = write_st(tmp_path / f"half {name}") / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        with pytest.raises(DataError, match=says):
            StReader().read(file.parent)


def test_a_header_of_another_length_is_refused(tmp_path: Path) -> None:
    folder = write_st(tmp_path / "s")
    (folder / "counts.tsv").write_text("a\tb\n1x1\t1\t2\t3\t4\n")
    with pytest.raises(DataError, match="2 names in the first line, 5 columns"):
        StReader(counts_file="counts.tsv").read(folder)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_every_mode_become_rgb(mode: str, tmp_path: Path) -> None:
    file = tmp_path / "image.tif"
    Image.new("RGB", (8, 5), (255, 255, 255)).convert(mode).save(file)
    image = open_image(file)
    assert image.shape == (3, 5, 8)
    assert image.min() == 255
    Image.fromarray(np.full((5, 8), 70_000, dtype=np.int32)).save(file)
    with pytest.raises(DataError, match="8 or 16 bits"):
        open_image(file)


def test_an_image_beyond_pillows_limit_opens_and_the_limit_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    Image.new("RGB", (40, 40)).save(tmp_path / "large.png")
    assert open_image(tmp_path / "large.png").shape == (3, 40, 40)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_prepares_on_platform_st_and_refuses_fractions(compose: Callable, tmp_path: Path, cache: Path) -> None:
    folder = write_st(tmp_path / "s")
    cfg = compose("data=st", f"data.path='{folder}'", "platform=st", f"image.cache={cache}")
    prepared = prepare_sections(cfg, [StReader().read(folder).sdata])[0]
    assert len(prepared.shapes["subspots"]) == 30 * 9
    assert contract.facts(prepared)["um_per_px"] == pytest.approx(200 / PITCH)
    spoil_counts(folder, lambda t: t + 0.5)
    with pytest.raises(DataError, match="360 of 360 values are fractional"):
        prepare_sections(cfg, [StReader().read(folder).sdata])


@pytest.mark.real
def test_real_section(data: Path, compose: Callable) -> None:
    raw = StReader(image_file=None).read(data / "st_her2_breast" / "C2").sdata
    assert raw.tables["rna"].shape == (187, 15706)
    cfg = compose("data=st", "data.path=C2", "platform=st", "image=none")
    facts = contract.facts(prepare_sections(cfg, [raw])[0])
    assert facts["um_per_px"] == pytest.approx(200 / 293, rel=0.05)
