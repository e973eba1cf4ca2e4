"""`soscope benchmark`: merged sections against brute force, and the whole verb on a simulated one."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from conftest import TINY

from soscope import contract
from soscope.benchmark.cases import Case
from soscope.benchmark.merge import merge
from soscope.benchmark.metrics import LEVELS, coverage_name
from soscope.benchmark.summary import METRICS, as_tables, margins, marked, over_seeds, summarise
from soscope.config import run_name
from soscope.cost import Cost, measured
from soscope.data.section import Profiles, Section
from soscope.errors import ConfigError, DataError
from soscope.lattice import make_lattice
from soscope.likelihoods import make_likelihood
from soscope.methods import choose_methods, model_config
from soscope.nn.parent import Parent
from soscope.prepare.graphs import Graph
from soscope.prepare.placing import place
from soscope.read.base import RawSection
from soscope.split import Split, conservation_error, conservation_errors

COLUMNS = "section,method,seed,pearson,nmse,within_spot_r,within_spot_r_composition,conservation_error,coverage90,seconds,peak_mb"


def raw_section(rng: np.random.Generator, lattice: str, rows: int, columns: int, share: float = 0.93) -> RawSection:
    """A lattice with holes whose first feature numbers the spots, on axes that run backwards in the image."""
    row, col = (v.ravel() for v in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    if lattice == "hex":
        col = 2 * col + row % 2
    kept = rng.random(len(row)) < share
    row, col = row[kept] + 3, col[kept] + 1  # first row and column are not 0; sums stay even
    xy = [700, 600] - make_lattice(lattice).unit_xy(row, col) * 20.0
    counts = np.c_[np.arange(len(row)), rng.poisson(3, (len(row), 4))].astype(np.float32)
    obs = pd.DataFrame({"array_row": row, "array_col": col}, index=[f"s{i}" for i in range(len(row))])
    table = AnnData(X=counts, obs=obs, var=pd.DataFrame(index=["number", "a", "b", "c", "d"]))
    return RawSection(contract.new_section("test", None, list(obs.index), xy, 6, {"rna": table}, reader="test"))


RULES = [("hex7", "hex", "visium"), ("2x2", "square", "dbit"), ("3x3", "square", "dbit")]


@pytest.mark.parametrize(("rule", "name", "platform"), RULES)
def test_a_member_lies_where_prepare_puts_its_subspot(
    rule: str, name: str, platform: str, rng: np.random.Generator, compose: Callable
) -> None:
    lattice = make_lattice(name)
    raw = raw_section(rng, name, 20, 22)
    merged = merge(raw, rule, lattice)
    truth = merged.truth
    assert truth is not None
    k = len(truth) // merged.sdata["rna"].n_obs
    placed = place(compose(f"platform={platform}", f"split.subspots={k}"), merged.sdata, lattice)
    assert placed.shapes.index.tolist() == truth.obs_names.tolist()
    number = truth[:, "number"].X.toarray().ravel().astype(int)
    assert len(set(number)) == len(number), "no spot is merged twice"
    np.testing.assert_allclose(placed.xy_px, raw.sdata["rna"].obsm["spatial"][number], atol=1e-6)
    np.testing.assert_array_equal(truth.X.toarray(), raw.sdata["rna"].X[number])
    sums = truth.X.toarray().reshape(-1, k, 5).sum(1)
    np.testing.assert_array_equal(merged.sdata["rna"].X.toarray(), sums)
    averaged = merge(raw, rule, lattice, averaged=["rna"]).sdata["rna"].X.toarray()
    np.testing.assert_allclose(averaged, sums / k, rtol=1e-6)


def groups_of(raw: RawSection, rule: str, name: str) -> list[set[int]]:
    merged = merge(raw, rule, make_lattice(name))
    assert merged.truth is not None
    number = merged.truth[:, "number"].X.toarray().astype(int)
    return [set(group) for group in number.reshape(merged.sdata["rna"].n_obs, -1).tolist()]


def test_hexagons_are_whole_and_as_many_as_any_origin_gives(rng: np.random.Generator) -> None:
    raw = raw_section(rng, "hex", 18, 15, share=0.97)
    obs = raw.sdata["rna"].obs
    q, r = ((obs["array_col"] - obs["array_row"]) // 2).to_numpy(), obs["array_row"].to_numpy()
    at = {spot: i for i, spot in enumerate(zip(q.tolist(), r.tolist(), strict=True))}
    near = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1), (1, -1), (-1, 1)]
    whole: dict[int, list[set[int]]] = {k: [] for k in range(7)}
    for a, b in at:
        members = [at.get((a + i, b + j)) for i, j in near]
        if None not in members:
            whole[(a + 3 * b) % 7].append(set(members))  # type: ignore[arg-type]
    groups = groups_of(raw, "hex7", "hex")
    assert len(groups) == max(map(len, whole.values()))
    assert any(sorted(map(sorted, groups)) == sorted(map(sorted, w)) for w in whole.values())


@pytest.mark.parametrize("side", [2, 3])
def test_blocks_start_at_the_first_row_and_column(side: int, rng: np.random.Generator) -> None:
    raw = raw_section(rng, "square", 19, 20)
    obs = raw.sdata["rna"].obs
    row, col = obs["array_row"] - obs["array_row"].min(), obs["array_col"] - obs["array_col"].min()
    at = {spot: i for i, spot in enumerate(zip(row.tolist(), col.tolist(), strict=True))}
    expected = []
    for a, b in itertools.product(range(0, 19, side), range(0, 20, side)):
        members = [at.get((a + i, b + j)) for i in range(side) for j in range(side)]
        if None not in members:
            expected.append(sorted(members))  # type: ignore[type-var]
    assert sorted(map(sorted, groups_of(raw, f"{side}x{side}", "square"))) == sorted(expected)


def test_what_cannot_be_merged_is_said(rng: np.random.Generator) -> None:
    raw = raw_section(rng, "square", 12, 12)
    square = make_lattice("square")
    with pytest.raises(ConfigError, match="hex7 does not fit a square lattice.*2x2"):
        merge(raw, "hex7", square)
    with pytest.raises(ConfigError, match="2x3 is not understood"):
        merge(raw, "2x3", square)
    with pytest.raises(ConfigError, match="hex8"):
        merge(raw_section(rng, "hex", 6, 6), "hex8", make_lattice("hex"))
    with pytest.raises(DataError, match="complete groups of spots, fewer than 12"):
        merge(raw, "5x5", square)
    raw.sdata["rna"].obs.drop(columns="array_row", inplace=True)
    with pytest.raises(ConfigError, match="no lattice coordinates.*given"):
        merge(raw, "2x2", square)


# Scores and tables ----------------------------------------------------------------------------------------------------


def make_case(rng: np.random.Generator, likelihood: str, **options: object) -> Case:
    """Twelve spots of four subspots, the last subspot under no spot; the truth adds up to the spots."""
    parent = np.r_[np.repeat(np.arange(12), 4), -1]
    made = make_likelihood(likelihood, 3, **options)
    truth = rng.poisson(4, (49, 3)).astype(float) if made.sparse_result else rng.normal(size=(49, 3))
    of, values = Parent(torch.as_tensor(parent), 12), torch.as_tensor(truth)
    x = (of.sum(values) if made.adds_up else of.mean(values)).numpy()
    graph = Graph(np.zeros((0, 2), dtype=np.int64), np.zeros(0, dtype=np.float32))
    profiles = Profiles(x, ["a", "b", "c"], x.sum(1))
    xy = rng.normal(size=(12, 2))
    section = Section(
        *("t", [f"s{i}" for i in range(12)], {"m": profiles}, np.zeros((49, 0)), []),
        *(parent, xy, xy[parent], graph, graph, 1.0),
    )
    return Case(section, "m", made, truth)


def test_conservation_of_averages_compares_means(rng: np.random.Generator) -> None:
    case = make_case(rng, "gaussian")
    parent = Parent(torch.as_tensor(case.section.parent), 12)
    truth = Split(mean=case.truth)
    np.testing.assert_allclose(conservation_errors(truth, case.observed, parent, average=True), 0, atol=1e-6)
    assert conservation_error(truth, case.observed, parent) > 0.1
    off = Split(mean=case.truth + [0, 0.5, 0])
    np.testing.assert_allclose(conservation_errors(off, case.observed, parent, True)[1], 0.5, atol=0.5)


def test_metrics_without_a_meaning_stay_empty(rng: np.random.Generator) -> None:
    empty = {"within_spot_r_composition", *(coverage_name(level) for level in LEVELS)}
    counts, values = make_case(rng, "nb"), make_case(rng, "gaussian")
    split = Split(mean=counts.truth, cdf=lambda v: (np.zeros(v.shape), np.ones(v.shape)))
    assert counts.score(split).notna().all(axis=None)
    scored = values.score(Split(mean=values.truth, cdf=split.cdf))
    assert set(scored.columns[scored.isna().any()]) == empty
    assert set(counts.ceilings()) == {"ceiling_blind", "ceiling_with_totals"}
    assert not values.ceilings()
    values.truth = 10 + 3 * values.truth  # in units of its own
    del values.truth_adds_up
    scored = values.score(Split(mean=values.truth))
    assert set(scored.columns[scored.isna().any()]) == {*empty, "nmse"}
    np.testing.assert_allclose(scored["pearson"], 1)


def test_tables_mark_the_best_and_tell_the_margin() -> None:
    rows = []
    for section, method, seed in itertools.product("AB", ("kriging", "linear", "soscope", "ceiling_blind"), (0, 1)):
        value = {"kriging": 0.5, "linear": 0.4, "soscope": 0.6 + 0.1 * seed, "ceiling_blind": 0.9}[method]
        scores = {"pearson": value, "nmse": 1 - value, "conservation_error": value}
        rows += [{"section": section, "method": method, "seed": seed, "feature": f} | scores for f in "xy"]
    table = pd.DataFrame(rows)
    table.loc[0, "conservation_error"] = 7.0
    costs = table[["section", "method", "seed"]].drop_duplicates().query("method != 'ceiling_blind'")
    summary = summarise(table, costs.assign(seconds=1.0, peak_mb=100.0))
    assert ",".join(summary.columns) == COLUMNS
    assert len(summary) == 16
    assert summary["conservation_error"].max() == 7.0
    assert summary.query("method == 'ceiling_blind'")["seconds"].isna().all()
    means = over_seeds(summary)
    names = [m.name for m in METRICS]
    assert marked(means, METRICS[names.index("pearson")]) == {"soscope"}
    assert marked(means, METRICS[names.index("nmse")]) == {"soscope"}
    assert margins(means)[:3] == ["+0.150", "-0.150", ""]
    assert [title for title, _ in as_tables(summary)][-1] == "mean over 2 sections"


def test_cost_is_time_and_memory() -> None:
    with measured() as cost:
        block = np.ones(40_000_000)
        assert block[-1]
    assert cost.seconds > 0
    assert cost.peak_mb > 40_000_000 * 8 / 2**20
    assert Cost.total([Cost(1, 50), Cost(2, 20)]) == Cost(3, 50)


def test_trained_methods_differ_from_the_command_by_their_own_settings(compose: Callable) -> None:
    words = ["+benchmark.models.wide={model: {n_hidden: 256}}", "benchmark.methods=[released,wide,copy_down]"]
    cfg = compose(*words, name="benchmark")
    assert [m.name for m in choose_methods(cfg)] == ["released", "wide", "copy_down"]
    wide, released = model_config(cfg, "wide", 4), model_config(cfg, "released", 0)
    assert (wide.model.n_hidden, wide.seed, wide.objective.name) == (256, 4, "exact")
    assert released.objective.name == "released"
    assert released.finetune.learning_rate == 5e-4  # of the NB demo
    assert released.finetune.max_epochs * released.finetune.steps_per_epoch >= 2500
    assert cfg.finetune.max_epochs == 2
    assert run_name(cfg) == run_name(compose("benchmark.seeds=[7]", "benchmark.methods=[linear]", name="benchmark"))
    assert run_name(cfg) != run_name(compose("benchmark.merge=given", name="benchmark")) != run_name(compose())


# The verb -------------------------------------------------------------------------------------------------------------

BIGGER = [w for w in TINY if "options" not in w] + [
    *("data.options.rows=18", "data.options.columns=14", "data.options.n_features=16", "report.dpi=40"),
    *(f"{s}.{k}=1" for s in ("pretrain", "finetune") for k in ("max_epochs", "steps_per_epoch")),
]
METHODS = ["kriging", "copy_down", "soscope"]


def command(folder: Path, cache: Path, *words: str) -> list[str]:
    return ["benchmark", *BIGGER, f"image.cache={cache}", f"hydra.run.dir={folder}", "benchmark.seeds=[0,3]", *words]


@pytest.fixture(scope="module")
def benchmarked(tmp_path_factory: pytest.TempPathFactory, soscope: Callable[..., int], cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("benchmark") / "demo"
    assert soscope(*command(folder, cache, f"benchmark.methods=[{','.join(METHODS)}]")) == 0
    return folder


def test_one_row_per_method_and_seed(benchmarked: Path) -> None:
    file = benchmarked / "benchmark.csv"
    assert file.read_text().splitlines()[0] == COLUMNS
    rows = pd.read_csv(file).set_index(["method", "seed"])
    ceilings = ["ceiling_blind", "ceiling_with_totals"]
    assert set(rows.index) == set(itertools.product([*METHODS, *ceilings], (0, 3)))
    assert (rows["section"] == "demo").all()
    assert rows.loc["soscope", "pearson"].nunique() == 2
    assert rows.loc["kriging", "pearson"].nunique() == 1
    assert rows.loc["soscope"].notna().all(axis=None)
    assert (rows.loc["soscope", "conservation_error"] < 1e-9).all()
    assert rows.loc["soscope", "coverage90"].between(0.5, 1).all()
    assert rows.loc["kriging", "coverage90"].isna().all()
    assert (rows.loc["copy_down", "within_spot_r"].abs() < 1e-9).all()
    assert rows.loc["ceiling_blind"].dropna(axis=1).columns.tolist() == ["section", "pearson", "within_spot_r"]
    assert (rows.loc["ceiling_blind", "pearson"] > rows.loc["soscope", "pearson"]).all()
    features = pd.read_csv(benchmarked / "per_feature.csv")
    assert len(features) == 12 * len(rows)
    means = features.groupby(["method", "seed"])["within_spot_r"].mean()
    np.testing.assert_allclose(means, rows["within_spot_r"].loc[means.index])


def test_scores_are_those_of_the_profiles_kept(benchmarked: Path) -> None:
    truth = anndata.read_h5ad(benchmarked / "truth" / "demo.h5ad")
    kept = anndata.read_h5ad(benchmarked / "benchmark" / "demo" / "soscope" / "seed3" / "means.h5ad")
    r = [np.corrcoef(kept[:, f].X.ravel(), truth[:, f].X.toarray().ravel())[0, 1] for f in truth.var_names]
    rows = pd.read_csv(benchmarked / "benchmark.csv").set_index(["method", "seed"])
    assert rows.loc[("soscope", 3), "pearson"] == pytest.approx(np.mean(r), abs=1e-5)


def test_page_is_self_contained(benchmarked: Path) -> None:
    page = (benchmarked / "benchmark.html").read_text()
    assert page.count("data:image/png;base64,") == len(list((benchmarked / "pictures").glob("*.png"))) == 7
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "soscope - best other" in page
    assert "calibration of the intervals" in page
    assert "benchmark.merge=hex7" in page


def test_coming_back_skips_what_is_done(
    benchmarked: Path, soscope: Callable, cache: Path, capsys: pytest.CaptureFixture
) -> None:
    before = (benchmarked / "benchmark.csv").read_text()
    checkpoint = benchmarked / "benchmark" / "demo" / "soscope" / "seed0" / "finetune" / "last.ckpt"
    made = checkpoint.stat().st_mtime_ns
    assert soscope(*command(benchmarked, cache, f"benchmark.methods=[{','.join(METHODS)}]")) == 0
    out = capsys.readouterr().out
    assert out.count("done before") == 3
    assert "soscope - best other" in out
    marks = benchmarked / "stages.json"  # as if it had been stopped before everything was scored
    marks.write_text(json.dumps({"prepare": json.loads(marks.read_text())["prepare"]}))
    (benchmarked / "benchmark" / "demo" / "copy_down" / "stages.json").unlink()
    assert soscope(*command(benchmarked, cache, f"benchmark.methods=[{','.join(METHODS)}]")) == 0
    assert capsys.readouterr().out.count("done before") == 1 + 3
    assert checkpoint.stat().st_mtime_ns == made
    drop = ["seconds", "peak_mb"]
    again = pd.read_csv(benchmarked / "benchmark.csv").drop(columns=drop)
    pd.testing.assert_frame_equal(again, pd.read_csv(pd.io.common.StringIO(before)).drop(columns=drop))


def test_other_verbs_do_not_take_a_benchmark(
    benchmarked: Path, soscope: Callable, capsys: pytest.CaptureFixture
) -> None:
    assert soscope("report", f"run={benchmarked}") == 1
    assert "holds a benchmark" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["benchmark", "benchmark.methods=[krigging]"], ["'krigging' is unknown", "kriging", "released"]),
        (["benchmark", "benchmark.methods=[]"], ["leaves nothing to score"]),
        (["benchmark", "benchmark.seeds=[]"], ["at least one seed"]),
        (["benchmark", "benchmark.seeds=[1,1]"], ["none twice"]),
        (["benchmark", "benchmark.merge=2x2"], ["does not fit a hex lattice", "hex7"]),
        (["benchmark", "benchmark.merge=all"], ["benchmark.merge=all is not understood"]),
        (["benchmark", "benchmark.merge=hex7", "data.truth=x.csv"], ["would not be read"]),
        (["benchmark", "split.extent=spot"], ["split.extent=spot"]),
        (["benchmark", "model=gaussian"], ["lognorm", "representation=values"]),
        (["benchmark", "benchmark.sedes=[1]"], ["Did you mean 'seeds'?"]),
        (["benchmark", "stages=[finetune]"], ["prepare, score, compare"]),
        (["train", "benchmark.merge=hex7"], ["a setting of `soscope benchmark`"]),
    ],
)
def test_mistakes_get_one_clear_message(words: list[str], says: list[str], refused: Callable) -> None:
    refused(words, says)


def test_truth_given_for_other_subspots(
    soscope: Callable, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [*TINY, f"image.cache={cache}", f"hydra.run.dir={tmp_path / 'run'}", "data.options.n_features=14"]
    assert soscope("benchmark", *words, "benchmark.merge=given", "split.subspots=13") == 1
    assert "its truth has" in capsys.readouterr().err
