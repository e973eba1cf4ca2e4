"""What tests share: the real sections (or their absence), a tiny simulated section, and one trained run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from soscope.cli import conf_dir, main
from soscope.config import register
from soscope.schema import Config
from soscope.verbs import VERBS

torch.set_num_threads(2)
register()
DATA = Path(os.environ.get("SOSCOPE_DATA") or Path(__file__).parents[2] / "shared" / "data")
NO_DATA = f"real sections not found in '{DATA}' (set SOSCOPE_DATA): tests marked 'real' are left out"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if DATA.is_dir():
        return
    real = [item for item in items if item.get_closest_marker("real")]
    items[:] = [item for item in items if not item.get_closest_marker("real")]
    config.hook.pytest_deselected(items=real)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not DATA.is_dir():
        terminalreporter.write_line(NO_DATA)


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA


TINY = ["data.options.rows=10", "data.options.columns=8", "data.features=12", "trainer.progress=false", "debug=fast"]
"""Overrides of a run that trains for seconds."""
QUICK = ["report.interactive=false", "report.n_features=1", "report.dpi=30"]
"""Overrides of a report whose pictures no test looks at; `trained` has a whole one."""


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    """Compose a config as the command line would, without a job."""

    def make(*overrides: str, name: str = "train") -> DictConfig:
        from hydra import compose, initialize_config_dir

        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            simulated = not any(o.startswith(("data=", "experiment=recipe_")) and o != "data=demo" for o in overrides)
            register(name, VERBS[name].root)
            tiny = [o for o in TINY if VERBS[name].root is Config and (simulated or "options" not in o)]
            return compose(name, overrides=[*tiny, *overrides])

    return make


@pytest.fixture(scope="session")
def soscope() -> Callable[..., int]:
    """Run the command line in this process; returns its exit status."""

    def run(*words: object) -> int:
        try:
            main([str(w) for w in words])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@pytest.fixture
def refused(
    soscope: Callable[..., int], capsys: pytest.CaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[str], list[str]], None]:
    """Run a command that cannot work, in an empty folder: one clear message that says these things, and nothing written."""

    def run(words: list[str], says: list[str]) -> None:
        monkeypatch.chdir(tmp_path)
        assert soscope(*words) == 1
        err = capsys.readouterr().err
        assert "Traceback" not in err
        for part in says:
            assert part in err
        assert not [f for f in tmp_path.rglob("*") if f.is_file() and f.name != "multirun.yaml"]

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, soscope: Callable[..., int], cache: Path) -> Path:
    """One finished run on a tiny simulated section."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert soscope("train", *TINY, f"image.cache={cache}", f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What soscope says; Hydra disables loggers that are there before a job, as an earlier test's."""
    monkeypatch.setattr(logging.getLogger("soscope"), "disabled", False)
    caplog.set_level(logging.INFO, "soscope")
    return caplog


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def fitted(trained: Path) -> Any:
    """The tiny run that all tests share, as a model."""
    import soscope

    return soscope.load(trained)


@pytest.fixture(scope="module")
def enhanced(fitted: Any) -> Any:
    """Its section, enhanced, in memory."""
    return fitted.enhance(progress=False)
