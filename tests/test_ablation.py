"""`experiment=ablation`: every row leaves out its part and nothing else; one command, one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import TINY

from soscope.config import resolved
from soscope.methods import choose_methods, model_config

PARTS = {
    "without_field": {"model.n_components": 0},
    "without_network": {"model.network_share": 0.0},
    "without_smoothing": {"image.smoothing": 0.0},
    "without_weighed_encoders": {"image.weigh_encoders": False},
    "without_masking": {"objective.mask_share": 0.0},
    "without_continuous_z": {"model.z_width": 0.0},
    "without_dropout": {"objective.dropout": 0.0},
    "without_image_term": {"image.weight": 0.0},
    "without_pretraining": {"pretrain.max_epochs": 1, "pretrain.learning_rate": 1e-9},
}


def leaves(plain: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(plain, dict):
        return {key: plain}
    return {k: v for name, value in plain.items() for k, v in leaves(value, f"{key}.{name}".strip(".")).items()}


@pytest.mark.parametrize("part", PARTS)
def test_a_row_differs_from_the_model_in_its_part_alone(part: str, compose: Callable) -> None:
    cfg = compose("experiment=ablation", name="benchmark")
    whole, without = (leaves(resolved(model_config(cfg, name, 0))) for name in ("soscope", part))
    assert whole.keys() == without.keys()
    assert {k: v for k, v in without.items() if v != whole[k]} == PARTS[part]


def test_rows_are_the_parts(compose: Callable) -> None:
    cfg = compose("experiment=ablation", name="benchmark")
    assert [m.name for m in choose_methods(cfg)] == ["copy_down", "soscope", *PARTS]
    assert set(cfg.benchmark.models) == {"soscope", "released", *PARTS}
    assert (cfg.benchmark.name, list(cfg.stages)) == ("ablation", ["prepare", "score", "compare"])
    docs = (Path(__file__).parents[1] / "docs" / "ablation.md").read_text()
    assert all(f"`{part}`" in docs for part in PARTS)


def test_one_command_makes_one_table(
    soscope: Callable, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    bigger = [w for w in TINY if "options" not in w] + ["data.options.rows=18", "data.options.columns=14"]
    short = [f"{s}.{k}=1" for s in ("pretrain", "finetune") for k in ("max_epochs", "steps_per_epoch")]
    words = ["experiment=ablation", *bigger, *short, "data.options.n_features=16", "report.dpi=40"]
    words += [f"image.cache={cache}", f"hydra.sweep.dir={tmp_path}", "benchmark.seeds=[0]"]
    methods = ["soscope", "without_field", "without_dropout"]
    assert soscope("benchmark", "-m", *words, f"benchmark.methods=[{','.join(methods)}]") == 0
    (folder,) = tmp_path.glob("ablation-demo-nb-*")
    rows = pd.read_csv(folder / "ablation.csv").set_index("method")
    assert set(rows.index) == {*methods, "ceiling_blind", "ceiling_with_totals"}
    assert rows.loc[methods, "pearson"].nunique() == 3
    assert (folder / "ablation.html").is_file()
    assert not (folder / "benchmark.csv").exists()
    assert not list((folder / "benchmark").rglob("prepared")), "all share one prepared section"
    assert str(folder / "ablation.csv") in capsys.readouterr().out


def test_other_verbs_refuse_it(soscope: Callable, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert soscope("train", *TINY, "experiment=ablation", f"hydra.run.dir={tmp_path / 'run'}") == 1
    assert "experiment=ablation sets benchmark.*: it is for `soscope benchmark`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


def test_the_name_is_one_of_files(soscope: Callable, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert soscope("benchmark", *TINY, "benchmark.name=a/b", f"hydra.run.dir={tmp_path / 'run'}") == 1
    assert "benchmark.name=a/b names files" in capsys.readouterr().err
