"""Every YAML composes and builds; unknown keys, wrong types and impossible combinations are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from soscope.cli import conf_dir
from soscope.config import fingerprint, resolved, run_name
from soscope.config_checks import check
from soscope.errors import ConfigError
from soscope.lattice import make_lattice
from soscope.likelihoods import make_likelihood
from soscope.loggers import LOGGERS
from soscope.prepare.encoders import ENCODERS
from soscope.prepare.panel import REPRESENTATIONS
from soscope.read import READERS, make_reader
from soscope.schema import Config
from soscope.verbs import VERBS

CONF = conf_dir()
OPTIONS = sorted(f"{f.parent.name}={f.stem}" for f in CONF.glob("*/*.yaml"))
ROOTS = sorted(f.stem for f in CONF.glob("*.yaml"))


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_resolves_and_names_things_that_exist(option: str, compose: Callable) -> None:
    group, name = option.split("=")
    root = "benchmark" if "benchmark" in OmegaConf.load(CONF / group / f"{name}.yaml") else "train"
    cfg = compose(option, "data.path=somewhere", name=root)
    plain = resolved(cfg)
    check(cfg)
    make_lattice(plain["platform"]["lattice"]).offsets(plain["split"]["subspots"])
    make_lattice(plain["platform"]["lattice"]).radius_of(plain["platform"]["n_neighbours"])
    assert plain["image"]["encoder"] in ENCODERS
    assert plain["logger"]["kind"] in LOGGERS
    for modality in plain["model"]["modalities"].values():
        make_likelihood(modality["likelihood"], 3, **modality["options"])
        assert modality["representation"] in REPRESENTATIONS


@pytest.mark.parametrize("data", sorted(f.stem for f in (CONF / "data").glob("*.yaml")))
def test_every_data_option_fits_its_reader(data: str) -> None:
    loaded = OmegaConf.to_container(OmegaConf.load(CONF / "data" / f"{data}.yaml"))
    make_reader(loaded["reader"], loaded["options"])


@pytest.mark.parametrize("root", ROOTS)
def test_every_verb_has_a_root(root: str, compose: Callable) -> None:
    assert set(VERBS) == set(ROOTS)
    cfg = compose(name=root)
    if VERBS[root].root is Config:
        assert cfg.stages
    else:
        assert set(cfg) == {f.name for f in fields(VERBS[root].root)}


def test_run_name_follows_what_is_trained_and_nothing_else(compose: Callable) -> None:
    first = compose()
    assert run_name(first) == f"demo-nb-{fingerprint(first)}"
    assert run_name(compose("logger=wandb", "report.n_features=2", "stages=[prepare]", "traceback=true")) == run_name(
        first
    )
    assert run_name(compose("seed=1")) != run_name(first)
    assert run_name(compose("trainer.progress=true", "trainer.threads=1", "image.cache=/x")) == run_name(first)
    assert run_name(compose("data=visium", "data.path=[/x/liver,/x/kidney]")).startswith("liver+1-nb-")
    assert run_name(compose("data=visium", "data.path=/x/kidney/outs")).startswith("kidney-nb-")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["stages=[prepare,fly]"], "stages=fly is unknown.*prepare, pretrain"),
        (["split.extent=disc"], "cell, spot"),
        (["enhance.posterior=best"], "conditional, prior"),
        (["data.held_out=0.9"], "data.held_out=0.9 must lie between 0 and 0.5"),
        (["graph.similarity_scale=1"], "similarity_scale"),
        (["seed=-1"], "seed=-1 must lie"),
        (["finetune.steps_per_epoch=0"], "finetune.steps_per_epoch=0"),
        (["split.extent=spot", "platform.spot_diameter_um=null"], "needs platform.spot_diameter_um"),
        (["model.n_heads=3"], "must divide"),
        (["data=visium", "data.path=[/a/x,/b/x]"], "two sections 'x'"),
    ],
)
def test_values_that_cannot_run(overrides: list[str], says: str, compose: Callable) -> None:
    with pytest.raises(ConfigError, match=says):
        check(compose(*overrides))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=zinb"], ["zinb", "gaussian", "nb", "poisson"]),
        (["image=resnet"], ["resnet", "color", "efficientnet_lite0", "h_optimus", "precomputed", "timm", "uni"]),
        (["image.encoder=resnet"], ["resnet", "color, efficientnet_lite0, inception_v3, none, precomputed, timm"]),
        (["data.feature=3"], ["data.feature", "Did you mean 'features'?"]),
        (["sede=3"], ["sede", "Did you mean 'seed'?"]),
        (["data=visum"], ["data=visum is unknown. Did you mean 'visium'? Choose from: anndata, dbit"]),
        (["experiment=recipe"], ["experiment=recipe is unknown.", "recipe_visium_rna"]),
        (["debug=fats"], ["debug=fats is unknown. Did you mean 'fast'?"]),
        (["seed=abc"], ["seed", "abc", "int"]),
        (["trian"], ["'trian' is no verb", "Did you mean 'train'?"]),
        (["data=visium", "platform=visium"], ["data.path=FOLDER"]),
        (["data.path=my folder (1)"], ["quoted twice"]),
        (["report"], ["needs run=DIR"]),
        (["report", "run=nowhere"], ["nowhere", "holds no run"]),
        (["train", "run=somewhere"], ["hydra.run.dir"]),
        (["trainer=gpu"], ["no CUDA device", "trainer=cpu"]),
        (["-m", "trainer=ddp", "seed=0,1"], ["ddp_spawn"]),
        (["logger.kind=mlflow"], ["mlflow", "csv, tensorboard, wandb"]),
        (["logger.artifacts=some"], ["logger.artifacts=some", "none, models, all"]),
        (["data.options.colour=3"], ["colour", "`soscope train data=... --cfg job` lists what data.options holds"]),
        (["+data.options.colour=3"], ["data.options.colour is unknown to reader 'demo'", "rows, columns"]),
        (["data=cosmx"], ["cosmx", "anndata", "dbit", "soscope", "spatialdata", "st", "table", "visium_hd", "xenium"]),
        (
            ["data.reader=cosmx"],
            ["'cosmx' is unknown. Choose from: anndata, dbit, demo", "table, visium, visium_hd, xenium"],
        ),
    ],
)
def test_command_line_mistakes_get_one_clear_message(
    words: list[str], says: list[str], refused: Callable, tmp_path: Path
) -> None:
    refused(words, says)
    assert not (tmp_path / "nowhere").exists()


def test_help_lists_verbs_and_groups(soscope: Callable, capsys: pytest.CaptureFixture) -> None:
    assert soscope("--help") == 0
    out = capsys.readouterr().out
    for word in (
        "train",
        "prepare",
        "enhance",
        "report",
        "platform: ",
        "visium",
        "efficientnet_lite0",
        "timm",
        "precomputed",
        "uni",
        "--config-dir",
    ):
        assert word in out
    data = next(line for line in out.splitlines() if line.strip().startswith("data: "))
    assert set(READERS) <= {name.strip() for name in data.split(":")[1].split(",")}


def test_every_reader_has_a_config_that_lists_its_options_with_their_defaults(compose: Callable) -> None:
    for name, reader in READERS.items():
        cfg = compose(f"data={name}")
        known = {f.name: f for f in fields(reader)}
        assert cfg.data.reader == name
        made = make_reader(name, dict(cfg.data.options))
        for option in known:
            if name != "demo":  # the demo's yaml leaves out what nobody needs to change
                assert option in cfg.data.options, (name, option)
                default = known[option].default_factory() if known[option].default is MISSING else known[option].default
                assert getattr(made, option) == default, (name, option)


@pytest.mark.parametrize(
    ("overrides", "pitch"),
    [
        (["data=visium_hd"], 8),
        (["data=visium_hd", "data.options.bin_um=2"], 2),
        (["platform=xenium", "data=xenium"], 50),
        (["platform=xenium", "data=xenium", "data.options.grid_um=20"], 20),
        (["platform=xenium", "data=table", "data.options.grid_um=30"], 30),
        (["platform=xenium", "data=table"], 50),
        (["platform=xenium", "data=anndata", "platform.pitch_um=25"], 25),
        (["platform=visium_hd"], 8),
    ],
)
def test_pitch_of_bins_follows_the_data(overrides: list[str], pitch: float, compose: Callable) -> None:
    cfg = compose("platform=visium_hd", *overrides)
    assert cfg.platform.pitch_um == pitch
