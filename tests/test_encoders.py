"""Encoders of timm and the hub, features from a file, and encoders of one's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config

from soscope import contract
from soscope.config_checks import check
from soscope.errors import ConfigError, DataError
from soscope.prepare.encoders import ENCODERS, ImageEncoder, make_encoder
from soscope.prepare.encoders.timm_models import layers_by_name
from soscope.prepare.image_features import SectionView
from soscope.prepare.pipeline import prepare_sections
from soscope.prepare.section_features import together
from soscope.read import DemoReader

NETWORK = "test_vit"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random weights of a tiny network with its classifier, in every kind of file."""
    torch.manual_seed(3)
    state = timm.create_model(NETWORK).state_dict()
    folder = tmp_path_factory.mktemp("weights")
    files = {suffix: folder / f"weights.{suffix}" for suffix in ("safetensors", "pt", "pth")}
    save_file(state, files["safetensors"])
    torch.save(state, files["pt"])
    torch.save({"state_dict": state, "epoch": 3}, files["pth"])
    return files


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_timm_gives_the_network_s_own_features_from_every_kind_of_file(suffix: str, weights: dict[str, Path]) -> None:
    encoder = make_encoder("timm", str(weights[suffix]), model=NETWORK)
    network = timm.create_model(NETWORK, checkpoint_path=str(weights["pt"])).eval()
    network.reset_classifier(0)
    data = resolve_model_data_config(network)
    normalise = create_transform(**data).transforms[-1]
    patches = torch.rand(3, 3, encoder.input_px, encoder.input_px)
    with torch.inference_mode():
        found, expected = encoder(patches), network(normalise(patches))
    assert encoder.input_px == data["input_size"][-1]
    assert found.shape == (3, encoder.n_features)
    assert encoder.n_features == network.num_features
    torch.testing.assert_close(found, expected)


def test_options_reach_the_network_and_the_scaling(weights: dict[str, Path]) -> None:
    file = str(weights["pt"])
    options = {"dynamic_img_size": True, "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.25]}
    encoder = make_encoder("timm", file, options, model=NETWORK)
    network = timm.create_model(NETWORK, checkpoint_path=file, dynamic_img_size=True).eval()
    network.reset_classifier(0)
    patches = torch.rand(2, 3, 64, 64)
    scaled = (patches - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.5, 0.25])[:, None, None]
    with torch.inference_mode():
        torch.testing.assert_close(encoder(patches), network(scaled))


def test_names_of_layers_stand_for_their_classes() -> None:
    made = layers_by_name({"mlp_layer": "SwiGLUPacked", "act_layer": "SiLU", "depth": 2, "norm_layer": "layernorm"})
    expected = {
        "mlp_layer": timm.layers.SwiGLUPacked,
        "act_layer": torch.nn.SiLU,
        "depth": 2,
        "norm_layer": "layernorm",
    }
    assert made == expected
    with pytest.raises(ConfigError, match="mlp_layer=Path is no layer"):
        layers_by_name({"mlp_layer": "Path"})


def test_a_hub_model_is_built_from_its_architecture_where_its_weights_are_a_file(weights: dict[str, Path]) -> None:
    of_hub = make_encoder("timm", str(weights["pt"]), {"architecture": NETWORK}, model="hf-hub:owner/network")
    of_timm = make_encoder("timm", str(weights["pt"]), model=NETWORK)
    patches = torch.rand(1, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(of_hub(patches), of_timm(patches))


def test_what_decides_features_is_in_the_cache_key(weights: dict[str, Path], tmp_path: Path) -> None:
    other = {k: v + 1 for k, v in torch.load(weights["pt"]).items()}
    torch.save(other, tmp_path / "other.pt")
    file = str(weights["pt"])
    made = [
        make_encoder("timm", file, model=NETWORK),
        make_encoder("timm", str(tmp_path / "other.pt"), model=NETWORK),
        make_encoder("timm", file, {"mean": [0.1, 0.2, 0.3]}, model=NETWORK),
        make_encoder("timm", file, {"dynamic_img_size": True}, model=NETWORK),
        make_encoder("timm", file, {"architecture": NETWORK}, model="hf-hub:owner/network"),
    ]
    assert len({e.identity() for e in made}) == len(made)
    assert made[0].identity() == make_encoder("timm", file, model=NETWORK).identity()


@pytest.mark.parametrize(
    ("settings", "options", "says"),
    [
        ({}, {}, r"needs image\.model="),
        ({"model": "test_vti"}, {}, "no model of timm.*test_vit"),
        ({"model": NETWORK, "features": "x.npy"}, {}, r"image\.features is unknown.*weights, model, architecture"),
        ({"model": NETWORK}, {"depht": 3}, "cannot be built.*depht"),
        ({"model": "test_resnet"}, {}, "does not fit the network.*missing"),
    ],
)
def test_settings_a_network_cannot_take(
    settings: dict[str, Any], options: dict[str, Any], says: str, weights: dict[str, Path]
) -> None:
    with pytest.raises((ConfigError, DataError), match=says):
        make_encoder("timm", str(weights["pt"]), options, **settings)


def test_patches_of_another_size_name_the_way_out(weights: dict[str, Path]) -> None:
    encoder = make_encoder("timm", str(weights["pt"]), model=NETWORK)
    with pytest.raises(ConfigError, match=r"patches of 90 px.*own 160.*\+image\.options\.dynamic_img_size=true"):
        encoder(torch.rand(1, 3, 90, 90))


def test_weights_hold_tensors_and_nothing_that_runs(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "object.pt")
    (tmp_path / "text.safetensors").write_text("no tensors")
    for name in ("object.pt", "text.safetensors"):
        with pytest.raises(DataError, match="no file of weights"):
            make_encoder("timm", str(tmp_path / name), model=NETWORK)
    with pytest.raises(DataError, match="not a file"):
        make_encoder("timm", str(tmp_path / "absent.pt"), model=NETWORK)


def test_a_model_without_internet_names_the_way_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"cannot be fetched.*Without internet.*image\.weights=FILE") as plain:
        make_encoder("timm", model="resnet18")
    assert "on request" not in str(plain.value)
    with pytest.raises(DataError, match=r"on request.*https://huggingface\.co/MahmoodLab/UNI, .*huggingface-cli login"):
        make_encoder("timm", model="hf-hub:MahmoodLab/UNI")


def test_a_gated_model_says_where_to_ask_for_access(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import GatedRepoError

    def refuse(*args: object, **kwargs: object) -> None:
        request = httpx.Request("GET", "https://huggingface.co/owner/secret")
        raise GatedRepoError("403 Client Error", response=httpx.Response(403, request=request))

    monkeypatch.setattr("timm.models._hub.hf_hub_download", refuse)
    with pytest.raises(
        DataError, match=r"GatedRepoError.*ask for access on https://huggingface\.co/owner/secret, .*hf auth login"
    ):
        make_encoder("timm", model="hf-hub:owner/secret@main")


@pytest.mark.parametrize("preset", ["uni", "h_optimus"])
def test_presets_of_gated_models_build_their_network_offline(preset: str, compose: Callable) -> None:
    """On torch's meta device: shapes without memory."""
    image = OmegaConf.to_container(compose(f"image={preset}").image)
    own = {"architecture", "mean", "std"}
    options = {k: v for k, v in image["options"].items() if k not in own}
    with torch.device("meta"):
        network = timm.create_model(image["options"]["architecture"], num_classes=0, **options)
        width = network(torch.rand(1, 3, 224, 224)).shape[1]
    assert image["encoder"] == "timm"
    assert image["model"].startswith("hf-hub:")
    assert width == {"uni": 1024, "h_optimus": 1536}[preset], "as their model cards say"


def test_an_encoder_of_ten_lines(compose: Callable, cache: Path) -> None:
    before = dict(ENCODERS)
    try:

        class Darkness(ImageEncoder, name="darkness"):
            """One minus the mean intensity."""

            n_features = 1

            def __call__(self, patches: torch.Tensor) -> torch.Tensor:
                return 1 - patches.mean((1, 2, 3))[:, None]

        cfg = compose(f"image.cache={cache}", "image.color=false")
        cfg.image.encoder = "darkness"
        raw = DemoReader(rows=10, columns=8).read(None).sdata
        out = prepare_sections(cfg, [raw])[0]["image_features"]
        assert out.var["encoder"].tolist() == ["darkness"]
        image = contract.image_of(raw).mean(0)
        at = image[tuple(out.obsm["spatial"].round().astype(int).T[::-1])]
        assert np.corrcoef(out.X[:, 0].astype(float), at)[0, 1] < -0.4
    finally:
        ENCODERS.clear()
        ENCODERS.update(before)


@pytest.mark.parametrize("name", ["color", "none", "precomputed"])
def test_encoders_without_weights_refuse_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"image.weights is unknown to image.encoder='{name}'"):
        make_encoder(name, "weights.pt")
    with pytest.raises(ConfigError, match=r"image\.options\.levels is unknown"):
        make_encoder(name, options={"levels": 3})


SUBSPOTS = [f"a:{i}" for i in range(6)]


def view(*sections: str) -> SectionView:
    """The first of some sections, without an image."""
    nothing: Any = None
    return SectionView(sections[0], list(sections), SUBSPOTS, np.zeros((6, 2)), nothing, 1.0, 1.0, nothing)


def read(features: Any, *sections: str) -> np.ndarray:
    return make_encoder("precomputed", features=features).features_of(view(*(sections or ("s",))))


def test_precomputed_features_are_the_rows_of_the_file(
    compose: Callable, tmp_path: Path, rng: np.random.Generator
) -> None:
    raw = DemoReader(rows=8, columns=6).read(None).sdata
    n = 7 * raw.tables["rna"].n_obs
    values = rng.normal(size=(n, 5))
    np.save(tmp_path / "f.npy", values)
    cfg = compose("image=precomputed", f"image.features='{tmp_path}/f.npy'")
    out = prepare_sections(cfg, [raw])[0]["image_features"]
    np.testing.assert_allclose(out.X.astype(float), (values - values.mean(0)) / values.std(0), atol=2e-3)
    assert out.var["encoder"].unique().tolist() == ["precomputed"]


def test_a_table_of_features_is_put_into_order_by_name(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.normal(size=(6, 3)).astype(np.float32)
    pd.DataFrame(values, SUBSPOTS, ["x", "y", "z"]).iloc[[3, 1, 5, 0, 4, 2]].to_csv(tmp_path / "f.csv")
    np.testing.assert_allclose(read(str(tmp_path / "f.csv")), values, rtol=1e-6)


def test_precomputed_features_of_several_sections(tmp_path: Path, rng: np.random.Generator) -> None:
    values = {name: rng.normal(size=(6, 3)).astype(np.float32) for name in ("s0", "s1")}
    for name, rows in values.items():
        np.save(tmp_path / f"{name}.npy", rows)
    files = [str(tmp_path / f"{name}.npy") for name in values]
    for name, rows in values.items():
        encoder = make_encoder("precomputed", features=str(tmp_path / "{section}.npy"))
        listed = make_encoder("precomputed", features=files)
        section = replace(view("s0", "s1"), name=name)
        np.testing.assert_array_equal(encoder.features_of(section), rows)
        np.testing.assert_array_equal(listed.features_of(section), rows)
    with pytest.raises(ConfigError, match="names 1 files for 2 sections.*{section}"):
        read(files[0], "s0", "s1")
    np.save(files[1], values["s1"][:, :2])
    with pytest.raises(DataError, match="'s0': 3, 's1': 2"):
        together(make_encoder("precomputed", features=files), [view("s0", "s1"), replace(view("s0", "s1"), name="s1")])


def test_precomputed_features_that_do_not_fit(compose: Callable, tmp_path: Path) -> None:
    infinite = np.zeros((6, 2))
    infinite[3, 1] = np.inf
    for values, says in (
        (np.zeros((5, 2)), r"shape \(5, 2\).*'s' has 6 subspots, so \(6, number"),
        (np.zeros(6), "shape"),
        (infinite, "finite numbers, found 1 that are not"),
        (np.full((6, 1), "a"), "finite numbers"),
    ):
        np.save(tmp_path / "f.npy", values)
        with pytest.raises(DataError, match=says):
            read(str(tmp_path / "f.npy"))
    pd.DataFrame({"a": 1.0}, index=[*SUBSPOTS[1:], "else"]).to_csv(tmp_path / "f.csv")
    with pytest.raises(DataError, match="1 of 6 are missing, 1 unknown"):
        read(str(tmp_path / "f.csv"))
    with pytest.raises(DataError, match="is not a file; section 's' needs it"):
        read(str(tmp_path / "absent.npy"))
    (tmp_path / "f.txt").write_text("1")
    with pytest.raises(DataError, match=r"'\.txt' is not read. Give \.npy or \.csv"):
        read(str(tmp_path / "f.txt"))
    with pytest.raises(ConfigError, match=r"needs image\.features="):
        make_encoder("precomputed")
    with pytest.raises(ConfigError, match="validate=true merges spots"):
        check(compose("image=precomputed", "image.features=f.npy", "validate=true"))


def test_a_benchmark_takes_the_file_of_each_section(compose: Callable) -> None:
    from soscope.benchmarking import section_config

    cfg = compose(
        "data=st",
        "platform=st",
        "data.path=[/x/a,/x/b]",
        "image=precomputed",
        "image.features=[1.npy,2.npy]",
        name="benchmark",
    )
    assert [section_config(cfg, Path(p)).image.features for p in ("/x/a", "/x/b")] == ["1.npy", "2.npy"]
