"""`soscope graph`: the released program's graphs to the last digits, and its formula on every lattice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from soscope.errors import ConfigError, DataError
from soscope.read import make_reader
from soscope.read.released import read_graph
from soscope.tools.graph import run

SQUARE = [(-1, 0), (0, -1), (0, 1), (1, 0)]
HEX = [(-1, -1), (-1, 1), (0, -2), (0, 2), (1, -1), (1, 1)]


def by_formula(values: np.ndarray, array: np.ndarray, steps: list[tuple[int, int]], scale: float) -> np.ndarray:
    """Rows ``i, j, w`` from the definition: w = exp(-(d - min d) / delta), delta = (median d - min d) / ln(scale)."""
    place = {tuple(rc): i for i, rc in enumerate(array.tolist())}
    rows = [(i, place[r + a, c + b]) for (r, c), i in place.items() for a, b in steps if (r + a, c + b) in place]
    d = np.array([np.sqrt(((values[i] - values[j]) ** 2).sum()) for i, j in rows])
    weight = np.exp(-(d - d.min()) / ((np.median(d) - d.min()) / np.log(scale)))
    return np.column_stack([np.array(rows, dtype=float), weight])


@pytest.fixture(scope="module")
def square(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the released program's layout without its graphs: 8 x 9 spots, shuffled, of 2 x 2 subspots each."""
    folder = tmp_path_factory.mktemp("square")
    rng = np.random.default_rng(0)
    spots = rng.permutation(np.stack(np.mgrid[:8, :9], -1).reshape(-1, 2))
    subspots = (2 * spots[:, None] + [[0, 0], [0, 1], [1, 0], [1, 1]]).reshape(-1, 2)
    for name, array, step in (("spots.csv", spots, 20), ("position_enhance_with_center.csv", subspots, 10)):
        pixels = array * step + step / 2
        table = pd.DataFrame(
            {"row": array[:, 0], "col": array[:, 1], "imagerow": pixels[:, 0], "imagecol": pixels[:, 1]}
        )
        table.insert(0, "barcode", [f"{r}x{c}" for r, c in array])
        table.to_csv(folder / name, index=False)
    np.save(folder / "label.npy", rng.gamma(2.0, size=(72, 3)))
    np.save(folder / "support_feature.npy", rng.normal(size=(288, 6)).astype(np.float32))
    return folder


@pytest.fixture
def graph(soscope: Callable, square: Path, tmp_path: Path) -> Callable:
    """Build A of the square folder, or of what is named instead; returns its rows."""

    def run(*words: str, name: str = "adj.npy") -> np.ndarray:
        given = dict(w.split("=", 1) for w in words)
        own = {"profiles": square / "label.npy", "positions": square / "spots.csv", "platform": "dbit"}
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        settings = own | {"progress": "false", "out": out} | given
        assert soscope("graph", *(f"{k}={v}" for k, v in settings.items())) == 0
        return np.load(out / name)

    return run


def test_both_graphs_follow_the_formula_and_the_reader_takes_them(
    soscope: Callable, square: Path, tmp_path: Path
) -> None:
    words = [f"profiles={square}/label.npy", f"positions={square}/spots.csv", f"features={square}/support_feature.npy"]
    words += [f"subspot_positions={square}/position_enhance_with_center.csv", "platform=dbit", "scale=3"]
    for file in square.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert soscope("graph", *words, f"out={tmp_path}") == 0
    label, features = np.load(square / "label.npy"), np.load(square / "support_feature.npy").astype(float)
    spots = pd.read_csv(square / "spots.csv")[["row", "col"]].to_numpy()
    subspots = pd.read_csv(square / "position_enhance_with_center.csv")[["row", "col"]].to_numpy()
    np.testing.assert_allclose(np.load(tmp_path / "adj.npy"), by_formula(label, spots, SQUARE, 3), atol=1e-12)
    w = np.load(tmp_path / "sub_adj.npy")
    np.testing.assert_allclose(w, by_formula(features, subspots, SQUARE, 3), atol=1e-12)
    assert read_graph(tmp_path / "sub_adj.npy", 288).nnz == len(w)
    section = make_reader("soscope", {}).read(tmp_path).sdata
    stored = section.tables["rna"].obsp["spatial_connectivities"]
    i, j, weight = np.load(tmp_path / "adj.npy").T
    np.testing.assert_allclose(np.asarray(stored[i.astype(int), j.astype(int)]).ravel(), weight, rtol=1e-6)


def test_hexagonal_neighbours_by_array(graph: Callable, tmp_path: Path, rng: np.random.Generator) -> None:
    array = np.array([(r, c) for r in range(5) for c in range(r % 2, 10, 2)])
    table = pd.DataFrame({"array_row": array[:, 0], "array_col": array[:, 1], "x": array[:, 1], "y": array[:, 0] * 9.0})
    table.to_csv(tmp_path / "spots.csv", index=False)
    pd.DataFrame(rng.normal(size=(len(array), 4)), columns=list("abcd")).to_csv(tmp_path / "profiles.csv", index=False)
    files = f"profiles={tmp_path}/profiles.csv", f"positions={tmp_path}/spots.csv"
    found = graph(*files, "platform=visium", "array=[array_row,array_col]")
    values = pd.read_csv(tmp_path / "profiles.csv").to_numpy()
    np.testing.assert_allclose(found, by_formula(values, array, HEX, 5.0), atol=1e-12)


def test_without_an_array_the_nearest_are_neighbours(graph: Callable, square: Path) -> None:
    by_array, by_distance = graph(), graph("array=null")
    order = np.lexsort((by_array[:, 1], by_array[:, 0]))
    np.testing.assert_allclose(by_distance, by_array[order], atol=1e-12)
    diagonals = graph("radius=29")
    assert {tuple(r) for r in diagonals[:, :2]} == {tuple(r) for r in graph("platform.n_neighbours=8")[:, :2]}
    assert len(diagonals) > len(by_array)


def test_profiles_in_other_formats(graph: Callable, square: Path, tmp_path: Path) -> None:
    label, spots = np.load(square / "label.npy"), pd.read_csv(square / "spots.csv")["barcode"].to_numpy()
    named = pd.DataFrame(label, index=spots, columns=list("abc"))
    named.to_csv(tmp_path / "profiles.csv")
    AnnData(X=sparse.csr_matrix(label), obs=named[[]], var=named.T[[]]).write_h5ad(tmp_path / "profiles.h5ad")
    expected = graph()
    for name in ("profiles.csv", "profiles.h5ad"):
        np.testing.assert_allclose(graph(f"profiles={tmp_path}/{name}"), expected, atol=1e-12)


def test_self_loops_weigh_one_and_are_left_out_by_the_reader(graph: Callable, tmp_path: Path) -> None:
    without, with_loops = graph(), graph("self_loops=true")
    np.testing.assert_array_equal(with_loops[: len(without)], without)
    np.testing.assert_array_equal(with_loops[len(without) :], [[i, i, 1] for i in range(72)])
    np.save(tmp_path / "adj.npy", with_loops)
    assert read_graph(tmp_path / "adj.npy", 72).nnz == len(without)


def test_a_file_that_is_there_is_not_replaced_unasked(
    soscope: Callable, square: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [
        "graph",
        f"profiles={square}/label.npy",
        f"positions={square}/spots.csv",
        "platform=dbit",
        f"out={tmp_path}",
    ]
    np.save(tmp_path / "adj.npy", np.zeros((1, 3)))
    assert soscope(*words) == 1
    assert "is there already" in capsys.readouterr().err
    assert np.load(tmp_path / "adj.npy").shape == (1, 3)
    assert soscope(*words, "overwrite=true") == 0
    assert len(np.load(tmp_path / "adj.npy")) == 254


@pytest.fixture(scope="module")
def wrong(square: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that do not fit the square section."""
    folder = tmp_path_factory.mktemp("wrong")
    spots = pd.read_csv(square / "spots.csv")
    spots.iloc[[0, *range(71)]].to_csv(folder / "twice.csv", index=False)
    spots.assign(col=spots["col"] + 0.5).to_csv(folder / "half.csv", index=False)
    spots.assign(imagerow="a").to_csv(folder / "words.csv", index=False)
    spots.iloc[:0].to_csv(folder / "empty.csv", index=False)
    label = np.load(square / "label.npy")
    pd.DataFrame(label[::-1], index=spots["barcode"][::-1]).to_csv(folder / "backwards.csv")
    np.save(folder / "short.npy", label[:7])
    np.save(folder / "nan.npy", np.where(np.arange(72)[:, None] == 3, np.nan, label))
    return folder


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["profiles={0}/label.npy", "positions={0}/spots.csv", "platform.n_neighbours=5"],
            ["no whole ring", "4, 8, 12"],
        ),
        (["profiles={0}/label.npy"], ["positions=FILE go together"]),
        (["profiles={0}/label.npy", "positions={0}/spots.csv", "subspot_radius=3"], ["subspot_radius"]),
        ([], ["nothing to build"]),
        (["profiles={0}/label.npy", "positions={0}/spots.csv", "scale=1"], ["scale=1 must be above 1"]),
        (["profiles={0}/label.npy", "positions={0}/spots.csv", "radius=1"], ["no two of 72", "larger radius"]),
        (["profiles={0}/label.npy", "positions={0}/spots.csv", "array=[row]"], ["two columns each"]),
        (["profiles={0}/label.npy", "positions={0}/spots.csv", "columns=[px,py]"], ["no column px, py"]),
        (["profiles={0}/label.npy", "positions={0}/none.csv"], ["none.csv' is not a file"]),
        (["profiles={0}/label.npy", "positions={1}/twice.csv"], ["1 rows repeat", "row 1"]),
        (["profiles={0}/label.npy", "positions={1}/half.csv"], ["no whole numbers", "array=null"]),
        (["profiles={0}/label.npy", "positions={1}/words.csv"], ["72 of 72 rows hold no number"]),
        (["profiles={0}/label.npy", "positions={1}/empty.csv"], ["has no row"]),
        (["profiles={1}/backwards.csv", "positions={0}/spots.csv"], ["the same spots in another order"]),
        (["profiles={1}/short.npy", "positions={0}/spots.csv"], ["profiles=", "has 7 rows, the section 72 spots"]),
        (["profiles={1}/nan.npy", "positions={0}/spots.csv"], ["profiles=", "nan.npy"]),
        (["features={1}/nan.npy", "subspot_positions={0}/spots.csv"], ["NaN"]),
        (["features={1}/short.npy", "subspot_positions={0}/spots.csv"], ["found shape (7, 3)", "72 subspots"]),
        (["features={0}/spots.csv", "subspot_positions={0}/spots.csv"], ["cannot be read as an array"]),
    ],
)
def test_settings_that_cannot_work(
    words: list[str],
    says: list[str],
    compose: Callable,
    square: Path,
    wrong: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = compose("platform=dbit", "progress=false", name="graph")
    cfg.merge_with_dotlist([w.format(square, wrong) for w in words])
    with pytest.raises((ConfigError, DataError)) as refusal:
        run(cfg)
    for part in says:
        assert part in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_the_wrong_platform_is_refused_in_one_message(refused: Callable, square: Path) -> None:
    words = ["graph", f"profiles={square}/label.npy", f"positions={square}/spots.csv"]
    refused(words, ["no hexagonal array", "platform=dbit", "array=null"])


@pytest.mark.real
def test_the_released_graphs_are_reproduced(soscope: Callable, data: Path, tmp_path: Path) -> None:
    """A in full. Of W the links alone: the image features its weights come from were not released."""
    folder = data / "slide_dna_liver_x5"
    np.save(tmp_path / "features.npy", np.random.default_rng(0).normal(size=(3600, 2)))
    words = [f"profiles={folder}/label.npy", f"positions={folder}/colData_merge.csv", "scale=5", "platform=slide_dna"]
    words += [f"features={tmp_path}/features.npy", f"subspot_positions={folder}/reordered_position_with_center.csv"]
    for out, array in (("array", "array=[row,col]"), ("distance", "array=null")):
        assert soscope("graph", *words, array, f"out={tmp_path}/{out}") == 0
    theirs, links = np.load(folder / "adj.npy"), np.load(folder / "sub_adj.npy")[:, :2]
    np.testing.assert_allclose(np.load(tmp_path / "array" / "adj.npy"), theirs, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(np.load(tmp_path / "array" / "sub_adj.npy")[:, :2], links)
    in_order = theirs[np.lexsort((theirs[:, 1], theirs[:, 0]))]
    np.testing.assert_allclose(np.load(tmp_path / "distance" / "adj.npy"), in_order, rtol=0, atol=1e-9)
