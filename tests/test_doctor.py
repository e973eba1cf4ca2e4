"""Each of ten planted faults is found, a sound section passes; what the doctor measures equals its formulas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse
from test_read_st import write_st

from soscope import contract
from soscope.doctor.association import Association
from soscope.doctor.examine import CHECKS
from soscope.doctor.examined import Examined
from soscope.doctor.findings import Severity
from soscope.doctor.image_maps import ImageMaps, shrink, tissue_mask
from soscope.doctor.of_counts import identical_rows
from soscope.doctor.orientations import ORIENTATIONS, within_box, within_image
from soscope.read import DemoReader
from soscope.simulated_folders import write_10x_h5, write_positions

HIRES, LOWRES = 0.5, 0.15
MATRIX, IMAGE = "filtered_feature_bc_matrix.h5", "spatial/tissue_hires_image.png"
POSITIONS, SCALES = "spatial/tissue_positions.csv", "spatial/scalefactors_json.json"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the simulated section, its image on a larger slide, as a Space Ranger folder; barcodes in no order of places."""
    folder = tmp_path_factory.mktemp("doctor") / "liver"
    (folder / "spatial").mkdir(parents=True)
    raw = DemoReader(rows=20, columns=16, n_features=40).read(None).sdata
    table, tissue = raw.tables["rna"], np.moveaxis(contract.image_of(raw), 0, -1)
    order = np.random.default_rng(0).permutation(table.n_obs)
    slide = np.random.default_rng(1).normal(241, 3, (900, 1000, 3)).clip(0, 255).astype(np.uint8)
    slide[60 : 60 + len(tissue), 40 : 40 + tissue.shape[1]] = tissue
    write_slide(folder, slide)
    names = pd.DataFrame({"id": [f"ENSG{i:011d}" for i in range(table.n_vars)], "name": table.var_names})
    barcodes = [f"{i:016d}-1" for i in range(table.n_obs)]
    write_10x_h5(folder, sparse.csr_matrix(table.X[order]), names.assign(type="Gene Expression"), barcodes)
    xy = (np.asarray(table.obsm["spatial"]) + [40, 60])[order] / HIRES
    row, col = (table.obs[key].to_numpy()[order] for key in ("array_row", "array_col"))
    write_positions(folder, barcodes, row, col, xy)
    scales = {"tissue_hires_scalef": HIRES, "tissue_lowres_scalef": LOWRES, "spot_diameter_fullres": 26.0}
    (folder / SCALES).write_text(json.dumps(scales))
    return folder


def write_slide(folder: Path, slide: np.ndarray) -> None:
    image = Image.fromarray(slide)
    image.save(folder / IMAGE)
    small = image.resize((round(image.width * LOWRES / HIRES), round(image.height * LOWRES / HIRES)))
    small.save(folder / "spatial/tissue_lowres_image.png")


def change_image(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    with Image.open(folder / IMAGE) as image:
        pixels = np.asarray(image.convert("RGB"))
    Image.fromarray(np.ascontiguousarray(change(pixels))).save(folder / IMAGE)


def change_matrix(folder: Path, change: Callable[[h5py.Group], None]) -> None:
    with h5py.File(folder / MATRIX, "r+") as file:
        change(file["matrix"])


def replace(group: h5py.Group, key: str, values: np.ndarray) -> None:
    del group[key]
    group[key] = values


def flip(folder: Path, other: Path) -> None:
    change_image(folder, lambda pixels: pixels[:, ::-1])


def transpose(folder: Path, other: Path) -> None:
    change_image(folder, lambda pixels: pixels.swapaxes(0, 1))


def lowres_for_hires(folder: Path, other: Path) -> None:
    scales = json.loads((folder / SCALES).read_text())
    (folder / SCALES).write_text(json.dumps(scales | {"tissue_hires_scalef": scales["tissue_lowres_scalef"]}))


def lowres_for_hires_alone(folder: Path, other: Path) -> None:
    """The same where there is no second image to compare with."""
    lowres_for_hires(folder, other)
    (folder / "spatial/tissue_lowres_image.png").write_bytes((folder / IMAGE).read_bytes())


def shift_barcodes(folder: Path, other: Path) -> None:
    """Roll the counts of spots by five against their barcodes."""

    def roll(group: h5py.Group) -> None:
        n = int(group["shape"][1])
        x = sparse.csr_matrix(
            (group["data"][:], group["indices"][:], group["indptr"][:]), shape=(n, int(group["shape"][0]))
        )
        x = x[np.roll(np.arange(n), 5)]
        for key, values in (("data", x.data), ("indices", x.indices), ("indptr", x.indptr)):
            replace(group, key, values)

    change_matrix(folder, roll)


def image_of_another(folder: Path, other: Path) -> None:
    with Image.open(folder / IMAGE) as own, Image.open(other) as image:
        image.convert("RGB").resize(own.size).save(folder / IMAGE)


def empty_spots(folder: Path, other: Path) -> None:
    """Take all counts from every fifth spot."""

    def empty(group: h5py.Group) -> None:
        data, start = group["data"][:], group["indptr"][:]
        for i in range(0, len(start) - 1, 5):
            data[start[i] : start[i + 1]] = 0
        replace(group, "data", data)

    change_matrix(folder, empty)


def fractional(folder: Path, other: Path) -> None:
    change_matrix(folder, lambda group: replace(group, "data", group["data"][:] + 0.5))


def duplicated_features(folder: Path, other: Path) -> None:
    def repeat(group: h5py.Group) -> None:
        ids = group["features/id"][:]
        ids[1] = ids[0]
        replace(group, "features/id", ids)

    change_matrix(folder, repeat)


def mostly_blank(folder: Path, other: Path) -> None:
    """Leave a tenth of the image."""
    change_image(
        folder,
        lambda pixels: np.where(np.arange(len(pixels))[:, None, None] < len(pixels) // 10, pixels, 250).astype(
            np.uint8
        ),
    )


def wrong_platform(folder: Path, other: Path) -> None:
    """Leave the folder as it is: the command is wrong."""


FAULTS = [
    (flip, [], "orientation and place", "mirrored left to right within the image"),
    (transpose, [], "orientation and place", "transposed (x and y exchanged) within the image"),
    (lowres_for_hires, [], "scale factors", "tissue_hires_scalef 0.5 "),
    (lowres_for_hires_alone, [], "orientation and place", "scaled by about 3.3"),
    (wrong_platform, ["platform=dbit"], "refused by prepare", "platform=visium"),
    (shift_barcodes, [], "barcodes and positions", "match both by barcode"),
    (image_of_another, [], "image and profiles", "image=none"),
    (empty_spots, [], "empty spots", "in_tissue"),
    (fractional, [], "refused by prepare", "values are fractional"),
    (duplicated_features, [], "reading", "1 feature ids occur more than once"),
    (mostly_blank, [], "blank patches", "image=none"),
]


@pytest.fixture(scope="module")
def other_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of another simulated section, on a slide of its own."""
    file = tmp_path_factory.mktemp("other") / "other.png"
    Image.fromarray(
        np.moveaxis(contract.image_of(DemoReader(rows=20, columns=16, n_features=2, seed=5).read(None).sdata), 0, -1)
    ).save(file)
    return file


def copied(source: Path, folder: Path) -> Path:
    """Copy a section, files one by one: what it lies on may be read-only."""
    for file in source.rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def doctor(soscope: Callable, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., tuple[int, str, str]]:
    """Run the command; returns exit status, what it printed and its last line of complaint."""

    def run(*words: str) -> tuple[int, str, str]:
        status = soscope("doctor", "trainer.progress=false", f"hydra.run.dir={tmp_path / 'out'}", *words)
        said = capsys.readouterr()
        return status, " ".join(said.out.split()), said.err

    return run


def test_sound_section_passes_and_is_drawn(sound: Path, doctor: Callable, tmp_path: Path) -> None:
    status, out, err = doctor("data=visium", f"data.path='{sound}'")
    assert status == 0, out
    assert "nothing serious" in out
    assert "serious " not in out.replace("nothing serious", "")
    assert not err
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["doctor-liver.png"]
    with Image.open(tmp_path / "out" / "doctor-liver.png") as picture:
        assert min(picture.size) > 500


@pytest.mark.parametrize(("plant", "words", "about", "says"), FAULTS, ids=lambda v: getattr(v, "__name__", None))
def test_planted_faults_are_serious(
    plant: Callable,
    words: list[str],
    about: str,
    says: str,
    sound: Path,
    other_image: Path,
    doctor: Callable,
    tmp_path: Path,
) -> None:
    folder = copied(sound, tmp_path / "liver")
    plant(folder, other_image)
    status, out, err = doctor("data=visium", f"data.path='{folder}'", *words)
    assert status == 1
    assert f"serious {about}: " in out
    assert says in out
    assert "training would be meaningless" in err
    assert about in err


def test_sections_are_looked_at_one_by_one(sound: Path, doctor: Callable, tmp_path: Path) -> None:
    bad = copied(sound, tmp_path / "kidney")
    empty_spots(bad, bad)
    status, out, err = doctor("data=visium", f"data.path=['{bad}','{sound}']")
    assert status == 1
    assert "Serious findings in 1 of 2 sections: section 'kidney': empty spots." in err
    n = pd.read_csv(sound / POSITIONS).shape[0]
    assert f"{-(-n // 5)} of {n} spots (20." in out
    assert (tmp_path / "out" / "doctor-liver.png").is_file()


def test_section_without_an_image_says_what_was_not_looked_at(doctor: Callable, tmp_path: Path) -> None:
    words = ["data=st", f"data.path='{write_st(tmp_path / 'C9')}'", "data.options.image_file=null", "platform=st"]
    status, out, _ = doctor(*words, "image=none")
    assert status == 0
    assert "note image and profiles: not looked at: the section has no image" in out
    assert "note barcodes and positions: not looked at: 30 spots with values are too few" in out
    status, out, _ = doctor(*words)
    assert status == 1
    assert "serious image: the section has no image" in out


def test_settings_are_refused_before_anything_is_read(refused: Callable) -> None:
    refused(["doctor", "data=visium", "platform=visium"], ["data.path=FOLDER"])
    refused(["doctor", "run=somewhere"], ["takes no run=DIR"])


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
    assert identical_rows(sparse.csr_matrix(x)) == [(0, 2), (0, 5)]


REAL = {
    "visium_mouse_muscle_2dpi": ["data=visium", "platform=visium"],
    "grid50_human_breast": ["data=visium", "platform=dbit"],
    "st_her2_breast/C2": ["data=st", "platform=st"],
    "st_her2_breast/C3": ["data=st", "platform=st"],
    "st_her2_breast/C4": ["data=st", "platform=st"],
    "slide_dna_liver_x5": [
        *("data=soscope", "platform=slide_dna", "image=none"),
        *("model=gaussian", "model.modalities.rna.representation=values"),
    ],
}


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("section", REAL)
def test_nothing_serious_on_real_sections(section: str, doctor: Callable, data: Path) -> None:
    status, out, _ = doctor(*REAL[section], f"data.path={data / section}")
    assert status == 0, out
    assert "nothing serious" in out


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "about", "says"),
    [
        (flip, "orientation and place", "mirrored left to right within the image"),
        (transpose, "orientation and place", "transposed (x and y exchanged) within the image"),
        (lowres_for_hires, "scale factors", "tissue_hires_scalef 0.0900576 "),
        (lowres_for_hires_alone, "orientation and place", "scaled by about 3.3"),
        (shift_barcodes, "barcodes and positions", "match both by barcode"),
        (image_of_another, "image and profiles", "image=none"),
        (mostly_blank, "blank patches", "image=none"),
    ],
)
def test_faults_planted_in_real_muscle(
    plant: Callable, about: str, says: str, doctor: Callable, data: Path, tmp_path: Path
) -> None:
    folder = copied(data / "visium_mouse_muscle_2dpi", tmp_path / "muscle")
    plant(folder, data / "grid50_human_breast" / "spatial" / "tissue_lowres_image.png")
    status, out, _ = doctor("data=visium", f"data.path='{folder}'")
    assert status == 1
    assert f"serious {about}: " in out
    assert says in out


def flip_st(folder: Path, other: Path) -> None:
    with Image.open(folder / "he.jpg") as image:
        image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(folder / "he.jpg", quality=80)


def shift_rows_st(folder: Path, other: Path) -> None:
    table = pd.read_csv(folder / "counts.tsv.gz", sep="\t", index_col=0)
    table.set_axis(np.roll(table.index, 9)).to_csv(
        folder / "counts.tsv.gz", sep="\t", compression={"method": "gzip", "compresslevel": 1}
    )


def image_of_another_st(folder: Path, other: Path) -> None:
    (folder / "he.jpg").write_bytes(other.read_bytes())


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "about", "says"),
    [
        (flip_st, "orientation and place", "mirrored top to bottom within the image"),
        (shift_rows_st, "image and profiles", "do not follow this image"),
        (image_of_another_st, "spots on tissue", "another image, scale or orientation"),
    ],
)
def test_faults_planted_in_a_real_st_section(
    plant: Callable, about: str, says: str, doctor: Callable, data: Path, tmp_path: Path
) -> None:
    folder = copied(data / "st_her2_breast" / "C2", tmp_path / "C2")
    plant(folder, data / "st_her2_breast" / "C3" / "he.jpg")
    status, out, _ = doctor("data=st", "platform=st", f"data.path='{folder}'")
    assert status == 1
    assert f"serious {about}: " in out
    assert says in out
