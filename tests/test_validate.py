"""`validate=true`: the rule, and a run on a simulated section that is validated before it is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import spatialdata
from conftest import TINY
from omegaconf import open_dict

from soscope.benchmark.intervals import find_widening
from soscope.benchmark.merge import check_rule
from soscope.benchmark.metrics import within_spot_pearson
from soscope.benchmark.verdicts import NO_BETTER, NOT_ENOUGH, TRUSTWORTHY, VERDICTS, advise, judge, read_table, verdict
from soscope.config import run_name
from soscope.errors import ConfigError
from soscope.lattice import LATTICES, make_lattice
from soscope.run import TRAINING
from soscope.schema import STAGES, ModalityConfig
from soscope.validating import training_plan

pytestmark = pytest.mark.slow

SMALL = [w for w in TINY if "options" not in w] + [
    *("data.options.rows=18", "data.options.columns=14", "data.options.n_features=16", "report.dpi=40"),
    *(f"{s}.{k}=1" for s in ("pretrain", "finetune") for k in ("max_epochs", "steps_per_epoch")),
]


@pytest.mark.parametrize(
    ("ours", "interpolation", "ceiling", "expected"),
    [
        (0.5, 0.2, 0.9, TRUSTWORTHY),
        (0.5, 0.5, 0.9, TRUSTWORTHY),
        (0.5, np.nan, 0.9, TRUSTWORTHY),
        (0.5, 0.51, 0.9, NO_BETTER),
        (0.19, -0.1, 0.9, NO_BETTER),  # two standard errors of 100 are 0.2
        (-0.4, -0.5, 0.9, NO_BETTER),
        (np.nan, 0.1, 0.9, NO_BETTER),
        (0.5, 0.2, 0.29, NOT_ENOUGH),
        (0.5, 0.2, np.nan, NOT_ENOUGH),
    ],
)
def test_verdict(ours: float, interpolation: float, ceiling: float, expected: str) -> None:
    assert verdict(ours, interpolation, ceiling, n_free=100) == expected


def scores(within: dict[str, tuple[float, float]]) -> pd.DataFrame:
    rows = [
        {"modality": "rna", "feature": f, "method": m, "pearson": r / 2, "within_spot_r": r}
        for m, values in within.items()
        for f, r in zip(("z", "a"), values, strict=True)
    ]
    return pd.DataFrame(rows)


def test_every_feature_is_judged_beside_its_own_best_other() -> None:
    within = {"kriging": (0.1, 0.6), "linear": (0.3, 0.2), "soscope": (0.4, 0.1), "ceiling_blind": (0.9, 0.8)}
    table = judge(scores(within), pd.Series({"a": 3.0, "z": 2.0}), pd.Series({"a": 400, "z": 400}))
    assert table["feature"].tolist() == ["z", "a"]
    assert table["best_other"].tolist() == ["linear", "kriging"]
    assert table["within_spot_r_best_other"].tolist() == [0.3, 0.6]
    assert table["pearson_best_other"].tolist() == [0.15, 0.3]
    assert table["counts_per_subspot"].tolist() == [2.0, 3.0]
    assert table["verdict"].tolist() == [TRUSTWORTHY, NO_BETTER]
    few = judge(scores(within), pd.Series(dtype=float), pd.Series({"z": 6}))
    assert few["verdict"].tolist() == [NO_BETTER, NO_BETTER], "one spot with a count is chance"
    del within["ceiling_blind"]
    assert set(judge(scores(within), pd.Series(dtype=float), pd.Series({"a": 400}))["verdict"]) == {NOT_ENOUGH}


def test_advice_is_counts_per_subspot_and_what_was_scored() -> None:
    within = {"kriging": (0.2, 0.4), "soscope": (0.3, 0.5), "ceiling_with_totals": (0.8, 0.8)}
    rows = advise(70.0, 700.0, 7, scores(within)).set_index("method")
    assert rows.loc["kriging", "share_of_ceiling"] == pytest.approx(0.3 / 0.8)
    assert rows.loc["soscope", "within_spot_r"] == pytest.approx(0.4)
    assert set(rows["counts_per_subspot"]) == {10}
    assert set(rows["library_per_subspot"]) == {100}
    (alone,) = advise(70.0, 700.0, 14, None).to_dict("records")
    assert (alone["counts_per_subspot"], alone["method"]) == (5, "")
    assert np.isnan(alone["within_spot_r"])


@pytest.mark.parametrize("name", sorted(LATTICES))
def test_every_usual_split_can_be_merged(name: str) -> None:
    lattice = make_lattice(name)
    assert [check_rule(lattice.rule(k), lattice) for k in lattice.splits] == list(lattice.splits)
    assert lattice.rule(lattice.splits[0]) == lattice.merge_rule


def test_names_keep_their_spelling(tmp_path: Path) -> None:
    file = tmp_path / "validation.csv"
    pd.DataFrame({"section": ["007"], "feature": ["NA"], "verdict": [NOT_ENOUGH], "within_spot_r": [np.nan]}).to_csv(
        file
    )
    (row,) = read_table(file).to_dict("records")
    assert (row["section"], row["feature"]) == ("007", "NA")
    assert np.isnan(row["within_spot_r"])


def test_validate_is_a_stage_only_when_asked_for(compose: Callable) -> None:
    plain, asked = compose(), compose("validate=true")
    assert training_plan(plain) is TRAINING
    assert list(training_plan(asked).stages) == ["prepare", "validate", *STAGES[1:]]
    assert run_name(plain) == run_name(asked), "it does not change what is trained"


# The run --------------------------------------------------------------------------------------------------------------


def command(folder: Path, cache: Path, *words: str) -> list[str]:
    return [*SMALL, f"image.cache={cache}", f"hydra.run.dir={folder}", "validate=true", *words]


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory, soscope: Callable[..., int], cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("validate") / "demo"
    assert soscope("train", *command(folder, cache)) == 0
    return folder


def test_scores_are_those_of_the_merged_section(validated: Path) -> None:
    table = read_table(validated / "validation.csv").set_index("feature")
    assert table.index.tolist() == anndata.read_h5ad(validated / "demo_rna.h5ad").var_names.tolist()
    own = validated / "validate" / "hex7"
    truth = anndata.read_h5ad(own / "truth" / "demo.h5ad")
    ours = anndata.read_h5ad(own / "benchmark" / "demo" / "soscope" / "seed0" / "means.h5ad")
    parent = np.repeat(np.arange(truth.n_obs // 7), 7)
    r = within_spot_pearson(ours.X.astype(float), truth[:, ours.var_names].X.toarray().astype(float), parent)
    np.testing.assert_allclose(table.loc[ours.var_names, "within_spot_r"], r, atol=1e-5)
    np.testing.assert_allclose(table["counts_per_subspot"], truth[:, table.index].X.toarray().mean(0), rtol=1e-5)
    assert set(table["verdict"]) <= set(VERDICTS)
    assert (table["within_spot_r_best_other"] >= table["within_spot_r_interpolation"]).all()
    assert (own / "benchmark.html").is_file()


def test_advice_tells_counts_of_the_run(validated: Path) -> None:
    advice = read_table(validated / "advice.csv")
    assert list(zip(advice["subspots"], advice["method"], strict=True)) == [
        *((7, "soscope"), (7, "kriging"), (13, "kriging"), (19, ""))
    ]
    observed = spatialdata.read_zarr(validated / "demo.zarr")["rna"]
    np.testing.assert_allclose(advice["counts_per_subspot"] * advice["subspots"], observed.X.toarray().sum(1).mean())
    np.testing.assert_allclose(
        advice["library_per_subspot"] * advice["subspots"], observed.obs["library_size"].median()
    )
    assert advice.loc[:2, "share_of_ceiling"].between(-1, 1.2).all()
    assert advice.loc[3, ["pearson", "within_spot_r", "share_of_ceiling"]].isna().all()


def test_enhanced_features_carry_their_verdict(validated: Path) -> None:
    table = read_table(validated / "validation.csv").set_index("feature")
    sdata = spatialdata.read_zarr(validated / "demo.zarr")
    for enhanced in (anndata.read_h5ad(validated / "demo_rna.h5ad"), sdata["rna_enhanced"]):
        assert enhanced.var["soscope_verdict"].tolist() == table.loc[enhanced.var_names, "verdict"].tolist()
        np.testing.assert_allclose(enhanced.var["validation_within_spot_r"], table["within_spot_r"])
    assert "soscope_verdict" not in sdata["rna"].var


def test_intervals_of_the_result_are_those_that_hold_on_merged_spots(
    validated: Path, soscope: Callable, tmp_path: Path
) -> None:
    row = pd.read_csv(validated / "intervals.csv").iloc[0]
    assert row["coverage90_widened"] == pytest.approx(0.9, abs=0.01)
    assert (row["widening"] > 1) == (row["coverage90"] < 0.9)
    assert "90 % intervals held" in (validated / "report.html").read_text()
    plain = tmp_path / "plain"
    shutil.copytree(validated, plain)
    (plain / "intervals.csv").unlink()
    assert soscope("enhance", f"run={plain}") == 0
    sd, other = (anndata.read_h5ad(folder / "demo_rna.h5ad").layers["sd"].mean() for folder in (validated, plain))
    assert (sd > other) == (row["widening"] > 1)


def test_widening_is_where_a_growing_coverage_is_nine_in_ten() -> None:
    from scipy import stats

    found = find_widening(lambda factor: float(2 * stats.norm.cdf(1.2 * factor**0.5) - 1))
    assert found == pytest.approx((stats.norm.ppf(0.95) / 1.2) ** 2, rel=0.01)
    assert find_widening(lambda factor: 0.5) == pytest.approx(16, rel=0.01)


def test_report_says_how_far_to_trust(validated: Path, trained: Path) -> None:
    page = (validated / "report.html").read_text()
    assert "How far to trust this" in page
    for verdict_, feature in read_table(validated / "validation.csv")[["verdict", "feature"]].itertuples(index=False):
        assert verdict_ in page
        assert feature in page
    assert "share of ceiling" in page
    assert "How far to trust this" not in (trained / "report.html").read_text()


def test_coming_back_does_nothing_twice(
    validated: Path, soscope: Callable, cache: Path, capsys: pytest.CaptureFixture
) -> None:
    files = [f for f in validated.rglob("*") if f.is_file() and f.name != "config.yaml"]
    before = {f: f.stat().st_mtime_ns for f in files}
    assert soscope("train", *command(validated, cache)) == 0
    out = capsys.readouterr().out
    assert out.count("done before") == 7
    counts = pd.read_csv(validated / "validation.csv")["verdict"].value_counts()
    assert f"12 features: {counts.get(TRUSTWORTHY, 0)} trustworthy, {counts.get(NO_BETTER, 0)} no better" in out
    assert all(f.stat().st_mtime_ns == t for f, t in before.items())


def test_a_stopped_validation_goes_on_and_leaves_what_is_trained(
    validated: Path, soscope: Callable, cache: Path, capsys: pytest.CaptureFixture
) -> None:
    file = validated / "stages.json"
    noted = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in noted.items() if k != "validate"}))
    weights = [
        validated / "finetune" / "model.pt",
        *validated.glob("validate/hex7/benchmark/demo/soscope/*/*/last.ckpt"),
    ]
    before = [f.stat().st_mtime_ns for f in weights]
    assert len(weights) == 3
    assert soscope("train", *command(validated, cache)) == 0
    out = capsys.readouterr().out
    assert "pretrain: done before" in out
    assert "finetune: done before" in out
    assert "enhance took" in out, "its tables carry the verdict"
    assert [f.stat().st_mtime_ns for f in weights] == before


def test_draws_asked_for_later_leave_the_verdict_standing(
    validated: Path, soscope: Callable, cache: Path, capsys: pytest.CaptureFixture
) -> None:
    assert soscope("train", *command(validated, cache), "enhance.draws=2") == 0
    out = capsys.readouterr().out
    assert "validate: done before" in out
    assert "enhance took" in out
    assert (validated / "demo_rna_draws.zarr").is_dir()


def test_a_section_too_small_to_merge_is_refused_before_any_training(
    soscope: Callable, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [*TINY, f"image.cache={cache}", f"hydra.run.dir={tmp_path / 'run'}", "validate=true"]
    assert soscope("train", *words) == 1
    err = capsys.readouterr().err
    assert "fewer than 12" in err
    assert "Leave validate=true out" in err
    assert not list(tmp_path.rglob("*.ckpt"))


def test_subspots_of_its_own_are_refused_before_any_training(
    soscope: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from test_read_released import write_released

    folder = write_released(tmp_path / "beads", counts=True)
    words = ["data=soscope", f"data.path={folder}", "data.options.counts=true", "platform=slide_dna", "image=none"]
    assert soscope("train", *words, f"hydra.run.dir={tmp_path / 'run'}", "validate=true") == 1
    err = capsys.readouterr().err
    assert "'beads' brings subspots of its own" in err
    assert "benchmark.merge=given data.truth=FILE" in err
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "validate=true", "model=gaussian"], ["lognorm", "Leave validate=true out"]),
        (["benchmark", "validate=true"], ["belongs to `soscope train`"]),
        (["train", "validate=perhaps"], ["validate", "perhaps"]),
    ],
)
def test_what_cannot_be_validated_is_said_at_once(
    words: list[str],
    says: list[str],
    soscope: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert soscope(*words) == 1
    err = capsys.readouterr().err
    assert all(part in err for part in says)
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]


def test_several_tables_are_refused(compose: Callable) -> None:
    cfg = compose("validate=true")
    with open_dict(cfg):
        cfg.model.modalities["protein"] = ModalityConfig(likelihood="nb")
    with pytest.raises(ConfigError, match="judges one table.*rna, protein"):
        training_plan(cfg).check(cfg)
