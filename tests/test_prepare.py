"""Panel, representations, patches, encoders, and the prepared section as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from soscope import contract
from soscope.errors import ConfigError, DataError
from soscope.prepare.encoders import ENCODERS, make_encoder
from soscope.prepare.image_features import PatchCutter, encode_patches
from soscope.prepare.panel import choose_features, represent
from soscope.prepare.pipeline import prepare_sections
from soscope.prepare.reduction import Reduction
from soscope.prepare.subspots import Subspots
from soscope.read import DemoReader
from soscope.schema import ModalityConfig


@pytest.fixture
def table(rng: np.random.Generator) -> tuple[AnnData, np.ndarray]:
    xy = np.stack(np.mgrid[:12, :12], -1).reshape(-1, 2).astype(float)
    smooth = np.exp(xy[:, :1] / 4) * np.ones((1, 3))
    counts = np.concatenate([rng.poisson(smooth), rng.poisson(5.0, (144, 3))], 1)
    return AnnData(X=sparse.csr_matrix(counts.astype(np.float32)), var=pd.DataFrame(index=list("abcdef"))), xy


def test_number_takes_the_spatially_variable_features(table: tuple) -> None:
    chosen = choose_features(3, [table[0]], [table[1]], 1.2, "rna")
    assert set(chosen.index) == {"a", "b", "c"}
    assert chosen["morans_i"].is_monotonic_decreasing


def test_morans_i_equals_its_formula(table: tuple) -> None:
    adata, xy = table
    w = (np.linalg.norm(xy[:, None] - xy[None], axis=2) < 1.2) & ~np.eye(144, dtype=bool)
    w = w / w.sum(1, keepdims=True)
    x = np.log1p(adata.X.toarray())
    x = x - x.mean(0)
    expected = 144 / w.sum() * np.einsum("ig,ij,jg->g", x, w, x) / (x**2).sum(0)
    found = choose_features("all", [adata], [xy], 1.2, "rna").loc[list("abcdef"), "morans_i"]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_names_files_and_nonsense(table: tuple, tmp_path: Path) -> None:
    adata, xy = table
    assert choose_features(["f", "a"], [adata], [xy], 1.2, "rna").index.tolist() == ["f", "a"]
    (tmp_path / "names.txt").write_text("c\n\nb\n")
    assert choose_features(str(tmp_path / "names.txt"), [adata], [xy], 1.2, "rna").index.tolist() == ["c", "b"]
    with pytest.raises(DataError, match="'Abc' is|first: 'Abc'"):
        choose_features(["a", "Abc"], [adata], [xy], 1.2, "rna")
    for wrong in (0, 2.5, "somewhere.txt"):
        with pytest.raises(ConfigError, match=r"data\.features"):
            choose_features(wrong, [adata], [xy], 1.2, "rna")


def test_sections_share_features_by_name(table: tuple) -> None:
    adata, xy = table
    shuffled = adata[:, list("fbdac")].copy()
    assert set(choose_features("all", [adata, shuffled], [xy, xy], 1.2, "rna").index) == set("abcdf")
    stranger = AnnData(X=adata.X, var=pd.DataFrame(index=list("uvwxyz")))
    with pytest.raises(DataError, match="share no feature"):
        choose_features(3, [adata, stranger], [xy, xy], 1.2, "rna")


def test_representations(table: tuple) -> None:
    adata, _ = table
    size = np.asarray(adata.X.sum(1)).ravel()
    normal = represent("lognorm", [adata], [size])[0].X
    np.testing.assert_allclose(np.expm1(normal).sum(1), np.median(size), rtol=1e-4)
    parts = represent("components", [adata[:100], adata[100:]], [size[:100], size[100:]], n_components=3)
    assert [p.shape for p in parts] == [(100, 3), (44, 3)]
    back = parts[0].uns["fitted"]
    rebuilt = np.concatenate([p.X for p in parts]) @ back["loadings"] * back["sd"] + back["mean"]
    assert abs(rebuilt - normal).mean() < abs(normal - normal.mean(0)).mean()
    with pytest.raises(ConfigError, match="counts, values, lognorm, components"):
        represent("cpm", [adata], [size])


def test_patches_are_where_they_should_be_and_mirrored_at_the_border() -> None:
    image = np.zeros((3, 40, 60), dtype=np.uint8)
    image[0] = np.arange(60)[None] * 4
    image[1] = np.arange(40)[:, None] * 6
    patch = PatchCutter(image, 8, 8)(np.array([[20.0, 10.0]]))[0] * 255
    np.testing.assert_allclose(patch[0, 0], np.arange(16, 24) * 4, atol=1e-3)
    np.testing.assert_allclose(patch[1, :, 0], np.arange(6, 14) * 6, atol=1e-3)
    corner = PatchCutter(image, 8, 8)(np.array([[0.0, 0.0]]))[0] * 255
    np.testing.assert_allclose(corner[0, 0], np.array([3, 2, 1, 0, 0, 1, 2, 3]) * 4, atol=1e-3)
    wide = PatchCutter(image, 32, 8)(np.array([[30.0, 20.0]]))[0] * 255
    assert wide[0].mean() == pytest.approx(29.5 * 4, abs=1)


@pytest.mark.parametrize("name", sorted(set(ENCODERS) - {"inception_v3", "timm", "precomputed"}))
def test_encoders_give_the_columns_they_promise_and_cache_them(
    name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    encoder = make_encoder(name)
    image = rng.integers(0, 255, (3, 64, 64), dtype=np.uint8)
    xy = rng.uniform(0, 64, (10, 2))
    first = encode_patches(encoder, image, xy, 16, 32, 4, tmp_path, progress=False)
    assert first.shape == (10, encoder.n_features)
    assert first.dtype == np.float16
    file = next(tmp_path.glob("features-*.npy"))
    np.save(file, first + 1)
    np.testing.assert_array_equal(encode_patches(encoder, image, xy, 16, 32, 4, tmp_path, progress=False), first + 1)
    fresh = encode_patches(encoder, image, xy + 1, 16, 32, 4, tmp_path, progress=False)
    assert not len(fresh.T) or not np.array_equal(fresh, first + 1)


def test_efficientnet_tells_textures_apart() -> None:
    """Loaded weights, not random ones: two patches of one texture are more alike than two textures."""
    encoder = make_encoder("efficientnet_lite0")
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    stripes = [((x + s) // 6 % 2).float() for s in (0, 2)]
    rings = [(((x - 48 - s) ** 2 + (y - 48) ** 2).float().sqrt() // 8 % 2) for s in (0, 2)]
    with torch.inference_mode():
        f = torch.nn.functional.normalize(encoder(torch.stack([*stripes, *rings])[:, None].expand(-1, 3, -1, -1)))
    alike = f @ f.T
    assert min(alike[0, 1], alike[2, 3]) > alike[:2, 2:].max() + 0.1


def test_inception_takes_a_state_dict_and_says_what_to_do_offline(tmp_path: Path) -> None:
    from torchvision.models import inception_v3

    torch.save(inception_v3(weights=None, init_weights=False).state_dict(), tmp_path / "weights.pt")
    encoder = make_encoder("inception_v3", str(tmp_path / "weights.pt"))
    with torch.inference_mode():
        assert encoder(torch.rand(2, 3, 96, 96)).shape == (2, 2048)
    with pytest.raises(DataError, match="not a file"):
        make_encoder("inception_v3", str(tmp_path / "absent.pt"))
    with pytest.raises(ConfigError, match="efficientnet_lite0, inception_v3, none, precomputed, timm"):
        make_encoder("resnet")


def test_inception_offline_names_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import Inception_V3_Weights

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(Inception_V3_Weights, "get_state_dict", fail)
    with pytest.raises(DataError, match=r"image\.weights=FILE.*image=efficientnet_lite0"):
        make_encoder("inception_v3")


def test_reduced_features_keep_the_relative_size_of_components(rng: np.random.Generator) -> None:
    wide = rng.normal(size=(200, 40)) * np.linspace(5, 0.1, 40)
    narrow = rng.normal(3, 2, (200, 4))
    out = Reduction.fit(wide, 8, seed=0)[1]
    assert out.shape == (200, 8)
    assert out[:, 0].std() > 1.2 * out[:, 7].std()
    np.testing.assert_allclose(out.std(), 1, rtol=1e-4)
    np.testing.assert_allclose(Reduction.fit(narrow, 8, seed=0)[1].std(0), 1, rtol=1e-4)


def test_prepared_section_survives_the_disk(compose: Callable, tmp_path: Path, cache: Path) -> None:
    cfg = compose(f"image.cache={cache}")
    raw = DemoReader(rows=10, columns=8).read(None).sdata
    prepared = prepare_sections(cfg, [raw])[0]
    contract.write_section(prepared, tmp_path / "s.zarr")
    back = contract.open_section(tmp_path / "s.zarr")
    n = len(back.shapes["spots"])
    assert len(back.shapes["subspots"]) == 7 * n
    np.testing.assert_array_equal(back.shapes["subspots"]["parent"], np.repeat(np.arange(n), 7))
    np.testing.assert_array_equal(back["image_features"].X, prepared["image_features"].X)
    graph = back["rna"].obsp["spatial_connectivities"]
    assert graph.max() == pytest.approx(1)
    assert abs(graph - graph.T).max() < 1e-12
    assert back["rna"].var["morans_i"].is_monotonic_decreasing
    full = np.asarray(raw.tables["rna"].X.sum(1)).ravel()
    np.testing.assert_allclose(back["rna"].obs["library_size"], full)
    assert contract.facts(back)["um_per_px"] == pytest.approx(100 / 24, rel=1e-6)


def test_wrong_platform_table_or_values_stop_before_any_encoding(compose: Callable) -> None:
    raw = DemoReader(rows=10, columns=8).read(None).sdata
    with pytest.raises(DataError, match="contradicts platform=dbit.*platform=visium"):
        prepare_sections(compose("platform=dbit"), [raw])
    cfg = compose()
    cfg.model.modalities = {"lipids": ModalityConfig(likelihood="nb")}
    with pytest.raises(ConfigError, match="needs a table 'lipids'.*has: rna"):
        prepare_sections(cfg, [raw])
    raw.tables["rna"].X.data[5] = 0.5
    with pytest.raises(DataError, match="fractional.*model=gaussian"):
        prepare_sections(compose(), [raw])


def test_real_values_as_given_for_the_gaussian_model(compose: Callable, cache: Path) -> None:
    raw = DemoReader(rows=10, columns=8).read(None).sdata
    counts = raw.tables["rna"].X.toarray()
    raw.tables["rna"].X = np.log1p(counts) - 2
    with pytest.raises(DataError, match="representation=values"):
        prepare_sections(compose("model=gaussian"), [raw])
    cfg = compose("model=gaussian", "model.modalities.rna.representation=values", f"image.cache={cache}")
    table = prepare_sections(cfg, [raw])[0]["rna"]
    assert table.n_vars == 12
    assert table.var["morans_i"].min() > 0
    assert table.X.min() < 0


def test_names_given_on_the_command_line_are_taken_in_their_order(compose: Callable, cache: Path) -> None:
    raw = DemoReader(rows=10, columns=8).read(None).sdata
    cfg = compose("data.features=[gene_003,gene_001]", f"image.cache={cache}")
    assert prepare_sections(cfg, [raw])[0]["rna"].var_names.tolist() == ["gene_003", "gene_001"]


def test_subspots_under_no_spot_have_names_of_their_own() -> None:
    corners = np.zeros((4, 3, 2)) + np.array([[0, 0], [1, 0], [0, 1]])
    shapes = Subspots(np.array([0, -1, 1, -1]), np.zeros((4, 2)), np.zeros((4, 2)), corners).to_shapes(["a", "b"])
    assert shapes.index.tolist() == ["a:0", ":0", "b:0", ":1"]
    assert shapes["parent_name"].tolist() == ["a", "", "b", ""]


def test_another_format_version_is_refused(compose: Callable, cache: Path) -> None:
    raw = DemoReader(rows=10, columns=8).read(None).sdata
    raw.attrs["soscope"]["format_version"] = 99
    with pytest.raises(DataError, match="data format 99"):
        prepare_sections(compose(f"image.cache={cache}"), [raw])


def test_a_feature_that_is_the_same_everywhere_has_no_morans_i_and_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    raw = DemoReader(rows=6, columns=5, n_features=4).read(None).sdata.tables["rna"]
    raw.X = raw.X.toarray()
    raw.X[:, 1] = 3
    xy = np.asarray(raw.obs[["array_col", "array_row"]], dtype=float) * [0.5, np.sqrt(0.75)]
    chosen = choose_features("all", [raw], [xy], 1.1, "rna")
    assert chosen["morans_i"].iloc[1] == 0
    assert not [w for w in recwarn if "constant" in str(w.message)]
