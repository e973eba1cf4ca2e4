"""The published program's objective: each formula against a plain reference, its config, and a whole run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUICK, TINY
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor
from torch.distributions import Independent, NegativeBinomial, Normal, Poisson
from torch.nn.functional import binary_cross_entropy, mse_loss, softplus

from soscope.build import build_finetune, build_pretrain
from soscope.conf_files import conf_dir, with_objective
from soscope.config import resolved
from soscope.config_checks import check
from soscope.data.cutter import TileCutter
from soscope.data.section import Profiles, Section
from soscope.data.tiles import Tile
from soscope.enhance import Divider, latent_means
from soscope.errors import ConfigError
from soscope.likelihoods import LIKELIHOODS, Likelihood
from soscope.likelihoods import NegativeBinomial as ExactNegativeBinomial
from soscope.nn.gaussian import Latent
from soscope.nn.noise import keyed_normal
from soscope.nn.parent import Parent
from soscope.nn.schedule import Exponential
from soscope.posteriors import NegativeBinomialPosterior
from soscope.prepare.graphs import Graph
from soscope.released.graph_terms import saturating_cross_entropy
from soscope.released.likelihoods import RELEASED, ReleasedLikelihood, make_released
from soscope.released.networks import ReleasedEncoder, subspots_of_spot, with_self_loops
from soscope.released.stages import ReleasedModule, sampled_kl

K, N, G, D = 4, 6, 3, 8
MODELS = sorted(RELEASED)


def full(*overrides: str) -> DictConfig:
    """Compose a config without what makes tests' runs short."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", overrides=list(overrides))


@pytest.fixture
def section(rng: np.random.Generator) -> Section:
    """Six spots in a row, four subspots each."""
    spot = np.arange(N - 1)
    sub = np.arange(N * K - 1)

    def chain(i: np.ndarray) -> Graph:
        edges = np.concatenate([np.stack([i, i + 1]), np.stack([i + 1, i])], 1)
        return Graph(edges, rng.uniform(0.1, 1, edges.shape[1]))

    x = rng.poisson(20, (N, G)).astype(np.float32)
    centre = np.column_stack([100.0 * np.arange(N), np.zeros(N)])
    return Section(
        name="row",
        spots=[f"s{i}" for i in range(N)],
        modalities={"rna": Profiles(x, [f"g{i}" for i in range(G)], x.sum(1))},
        image_features=rng.normal(size=(N * K, 5)).astype(np.float32),
        image_blocks=[np.arange(5)],
        parent=np.repeat(np.arange(N), K),
        xy_um=centre,
        subspot_xy_um=np.repeat(centre, K, 0) + rng.uniform(-40, 40, (N * K, 2)),
        spot_graph=chain(spot),
        subspot_graph=chain(sub),
        pitch_um=100.0,
    )


@pytest.fixture
def stages(section: Section) -> Callable[..., tuple[ReleasedModule, ReleasedModule, Tile]]:
    """Build both stages for a model on the row of spots."""

    def build(model: str, *overrides: str) -> tuple[ReleasedModule, ReleasedModule, Tile]:
        cfg = full(f"model={model}", "objective=released", "model.n_hidden=16", f"model.n_latent={D}", *overrides)
        data = SimpleNamespace(sections=[section], features=section.features, n_image=section.image_features.shape[1])
        first, second = build_pretrain(cfg, data), build_finetune(cfg, data)  # type: ignore[arg-type]
        return first, second, TileCutter(section, z_width=0.0)()  # type: ignore[return-value]

    return build


def drawn_z(module: ReleasedModule, tile: Tile, step: int) -> tuple[Latent, Tensor]:
    latent = module.encoder(tile.profiles["rna"], tile.spot_edges)
    return latent, latent.mean + latent.scale * keyed_normal(module.settings.seed, step, "z", tile.keys, D)


def kl_at(latent: Latent, z: Tensor) -> Tensor:
    q, prior = Normal(latent.mean, latent.scale), Normal(0.0, 1.0)
    return (Independent(q, 1).log_prob(z) - prior.log_prob(z).sum(1)).mean()


def dense_cross_entropy(vectors: Tensor, graph: object) -> Tensor:
    """Average over all ordered pairs as published; the graph's self-loops of weight one are its diagonal."""
    target = torch.eye(len(vectors))
    target[graph.row, graph.col] = graph.weight  # type: ignore[attr-defined]
    return binary_cross_entropy(torch.sigmoid(vectors @ vectors.T), target)


def raw_of(module: ReleasedModule, tile: Tile, z: Tensor) -> tuple[Tensor, Tensor]:
    """Return both halves of the decoder's output, from its layers one by one."""
    net = module.decoder
    h = net.first(torch.cat([z.repeat_interleave(K, 0) / K, (2 - 1 / K) * tile.image_features], 1))
    for block in net.blocks:
        h = h + torch.relu(block.second(torch.relu(block.first(h))))
    out = net.head.maps["rna"](h)
    return out[:, :G], out[:, G:]


def subspot_values(model: str, halves: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
    """Return what enters the squared error: means of counts by torch's distributions, samples of real values."""
    first, second = halves
    positive = softplus(second) + 1e-7
    if model == "nb":
        return NegativeBinomial(total_count=positive, logits=first).mean
    if model == "poisson":
        return Poisson(positive).mean
    return first + positive.clamp(1 / K, 100 / K) * noise


@pytest.mark.parametrize("model", MODELS)
def test_finetune_loss_equals_the_plain_definition(model: str, stages: Callable) -> None:
    _, module, tile = stages(model)
    step = 3
    latent, z = drawn_z(module, tile, step)
    noise = keyed_normal(module.settings.seed, step, "subspot", tile.subspot_keys, G)
    values = subspot_values(model, raw_of(module, tile, z), noise)
    x = tile.profiles["rna"]
    blocks = values.reshape(N, K, G)
    summed, part = (blocks.mean(1), x) if model == "gaussian" else (blocks.sum(1), x / K)
    expected = {
        "reconstruction": mse_loss(summed, x) / module.settings.scale,
        "kl": kl_at(latent, z),
        "graph": dense_cross_entropy(values - part.repeat_interleave(K, 0), tile.subspot_graph),
    }
    terms = module.losses(tile, step)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-4, msg=name)
    torch.testing.assert_close(terms["loss"], sum(expected.values()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_pretrain_loss_equals_the_plain_definition(model: str, stages: Callable) -> None:
    module, _, tile = stages(model)
    latent, z = drawn_z(module, tile, 0)
    net, x = module.decoder, tile.profiles["rna"]
    out = net.head.maps["rna"](torch.relu(net.second(torch.relu(net.first(z)))))
    first, positive = out[:, :G], softplus(out[:, G:]) + 1e-7
    p = {
        "nb": NegativeBinomial(total_count=positive, logits=first),
        "poisson": Poisson(positive),
        "gaussian": Normal(first, 11.16418),
    }[model]
    beta = 1e-3 if model == "poisson" else 1.0
    expected = -p.log_prob(x).sum(1).mean() + dense_cross_entropy(z, tile.spot_graph) + beta * kl_at(latent, z)
    torch.testing.assert_close(module.losses(tile, 0)["loss"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [0.1, 1.0, 5.0, 1000.0])
def test_graph_term_and_gradient_saturate_as_published(size: float, stages: Callable) -> None:
    tile = stages("nb")[2]
    v = (size * torch.randn(N * K, G, generator=torch.Generator().manual_seed(0))).requires_grad_()
    ours = saturating_cross_entropy([v], tile.subspot_graph, tile.subspot_core, N * K)
    dense = dense_cross_entropy(v, tile.subspot_graph)
    torch.testing.assert_close(ours, dense, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(term, v)[0] for term in (ours, dense)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)
    assert ours <= 100


def test_graph_term_of_two_modalities_takes_either_edge(stages: Callable) -> None:
    tile = stages("nb")[2]
    v, none = torch.randn(N * K, G), torch.zeros(N * K, G)
    graph = tile.subspot_graph
    target = torch.eye(N * K)
    target[graph.row, graph.col] = graph.weight
    p = torch.sigmoid(v @ v.T)
    expected = binary_cross_entropy(p + 0.5 - 0.5 * p, target)
    torch.testing.assert_close(saturating_cross_entropy([v, none], graph, tile.subspot_core, N * K), expected)


def test_the_whole_loss_is_multiplied_by_gamma(stages: Callable) -> None:
    _, module, tile = stages("nb")
    assert module.settings.gamma == Exponential(1.0, 1e-2, 10000, 5000)
    module.settings.gamma = Exponential(1.0, 1e-2, steps=10)
    for step, gamma in ((0, 1.0), (5, 0.1), (10, 0.01), (30, 0.01)):
        terms = module.losses(tile, step)
        whole = terms["reconstruction"] + terms["graph"] + terms["kl"]
        torch.testing.assert_close(terms["loss"], gamma * whole)


@pytest.mark.parametrize("model", MODELS)
def test_a_step_minds_the_whole_loss_and_reaches_every_parameter(model: str, stages: Callable) -> None:
    *modules, tile = stages(model)
    for module in modules:
        module.log = lambda *args, **kwargs: None
        expected = module.losses(tile, module.global_step)["loss"]
        loss = module.training_step(tile, 0)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())
    kinds = [type(module.configure_optimizers()).__name__ for module in modules]
    assert kinds == (["SGD", "Adam"] if model == "gaussian" else ["Adam", "Adam"])


def test_encoder_takes_raw_counts_with_self_loops_and_no_weights(section: Section) -> None:
    torch.manual_seed(0)
    encoder = ReleasedEncoder(G, 16, D)
    x, edges = torch.as_tensor(section.modalities["rna"].x), torch.as_tensor(section.spot_graph.edges)
    looped = with_self_loops(edges, N)
    assert looped.shape[1] == edges.shape[1] + N
    assert (looped[:, -N:] == torch.arange(N)).all()
    h = torch.relu(encoder.second(torch.relu(encoder.first(x, looped)), looped))
    mean, scale = encoder.third(h, looped).chunk(2, 1)
    latent = encoder(x, edges)
    torch.testing.assert_close(latent.mean, mean)
    torch.testing.assert_close(latent.scale, softplus(scale) + 1e-7)
    alone = encoder(x[:1], torch.zeros(2, 0, dtype=torch.long))
    attended = encoder.first.lin_value(x[:1]) + encoder.first.lin_skip(x[:1])  # attention to itself alone
    torch.testing.assert_close(encoder.first(x[:1], with_self_loops(torch.zeros(2, 0, dtype=torch.long), 1)), attended)
    assert torch.isfinite(alone.mean).all()


def test_k_follows_each_spot_and_is_the_mean_under_none() -> None:
    parent = Parent(torch.tensor([0, 0, 0, 1, -1]), 3)
    assert subspots_of_spot(parent)[:, 0].tolist() == [3, 3, 3, 1, 2]


def test_sampled_kl_averages_to_the_closed_form() -> None:
    torch.manual_seed(0)
    latent = Latent(torch.randn(1, 4).expand(20000, 4), (torch.rand(1, 4) + 0.3).expand(20000, 4))
    draws = sampled_kl(latent, latent.sample(torch.randn(20000, 4)))
    assert abs(draws.mean() - latent.kl()[0]) < 4 * draws.std() / 20000**0.5


def test_nb_with_logits_is_our_nb_with_phi_of_its_own() -> None:
    likelihood, raw = make_released("nb", G), torch.randn(10, G, 2)
    p = likelihood.parameters_of(raw)
    theirs = NegativeBinomial(softplus(raw[..., 1]) + 1e-7, logits=raw[..., 0])
    prior = likelihood.prior(p)
    assert isinstance(prior, NegativeBinomialPosterior)
    torch.testing.assert_close(prior.mean().float(), theirs.mean)
    torch.testing.assert_close(prior.sd().square().float(), theirs.variance)
    x = torch.randint(0, 9, (10, G)).float()
    torch.testing.assert_close(likelihood.log_prob(x, p), theirs.log_prob(x), rtol=1e-4, atol=1e-4)
    total = likelihood.aggregate(p, Parent(torch.zeros(10, dtype=torch.long), 1))
    torch.testing.assert_close(total["mu"][0] * (1 + total["phi"][0]), theirs.variance.sum(0))


@pytest.mark.parametrize("model", ["nb", "poisson"])
def test_means_of_counts_stay_finite_and_non_negative_whatever_the_decoder_says(model: str) -> None:
    p = make_released(model, G).parameters_of(
        torch.tensor([-1e6, -50.0, 0.0, 50.0, 1e6])[:, None, None].expand(5, G, 2)
    )
    assert torch.isfinite(p["mu"].square()).all()
    assert (p["mu"] >= 0).all()


@pytest.mark.parametrize("model", MODELS)
def test_result_is_the_decoder_alone_at_the_mean_of_z(model: str, stages: Callable, section: Section) -> None:
    _, module, tile = stages(model)
    with torch.no_grad():
        latent = module.encoder(tile.profiles["rna"], tile.spot_edges)
        expected = subspot_values(model, raw_of(module, tile, latent.mean), torch.zeros(N * K, G))
    cutter = TileCutter(section, z_width=0.0)
    for posterior in ("prior", "conditional"):
        (mean,) = latent_means(module, [tile], [N])
        found = Divider(module, cutter, mean, posterior).split(np.arange(N * K))["rna"].mean
        np.testing.assert_allclose(
            getattr(found, "toarray", lambda f=found: f)(), expected.numpy(), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(mean, latent.mean.numpy())


def test_a_likelihood_without_a_published_form_is_refused(stages: Callable) -> None:
    class Mine(ExactNegativeBinomial, name="mine"):
        pass

    try:
        with pytest.raises(ConfigError, match="no entry for likelihood 'mine'.*gaussian, nb, poisson"):
            stages("nb", "model.modalities.rna.likelihood=mine", "pretrain.learning_rate=1", "finetune.learning_rate=1")
        with pytest.raises(ConfigError, match="has no likelihood 'mine'"):
            make_released("mine", G)
    finally:
        del LIKELIHOODS["mine"]
    assert issubclass(ReleasedLikelihood, Likelihood)


@pytest.mark.parametrize(
    ("model", "steps", "rates"),
    [("nb", 2500, (1e-3, 5e-4)), ("poisson", 5000, (1e-3, 1e-4)), ("gaussian", 10000, (1e-4, 1e-3))],
)
def test_steps_and_rates_are_the_demo_s(model: str, steps: int, rates: tuple[float, float]) -> None:
    for cfg in (
        full(f"model={model}", "objective=released"),
        with_objective(full(f"model={model}"), "released"),
    ):
        check(cfg)
        plain = resolved(cfg)
        assert plain["pretrain"]["max_epochs"] * plain["pretrain"]["steps_per_epoch"] == steps
        assert plain["finetune"]["max_epochs"] * plain["finetune"]["steps_per_epoch"] == steps
        assert (plain["pretrain"]["learning_rate"], plain["finetune"]["learning_rate"]) == rates
        assert plain["data"]["held_out"] == plain["model"]["z_width"] == plain["trainer"]["gradient_clip"] == 0
        assert plain["enhance"]["posterior"] == "prior"


def test_with_objective_equals_composing_and_keeps_the_rest() -> None:
    same = ["seed=3", "data.features=7", "finetune.steps_per_epoch=50"]
    base = full(*same)
    derived = with_objective(base, "released", ["pretrain.max_epochs=2"])
    composed = full(*same, "objective=released", "pretrain.max_epochs=2")
    assert resolved(derived) == resolved(composed)
    assert derived.finetune.max_epochs == 50
    assert base.objective.name == "exact"
    with pytest.raises(ConfigError, match=r"objective=best is unknown.*exact, released"):
        with_objective(base, "best")
    with pytest.raises(OmegaConfBaseException, match="max_epoch"):
        with_objective(base, "released", ["pretrain.max_epoch=2"])


@pytest.mark.parametrize("word", ["data.held_out=0.1", "model.z_width=0.5", "enhance.posterior=conditional"])
def test_what_the_program_has_not_got_is_refused(word: str) -> None:
    key = word.split("=")[0]
    with pytest.raises(ConfigError, match=rf"objective=released needs {key}=.*Leave {key} out"):
        check(full("objective=released", word))
    with pytest.raises(ConfigError, match=r"objective\.name=best is unknown. Choose from: exact, released"):
        check(full("objective.name=best"))


def test_whole_run_on_the_tiny_section(tmp_path: Path, soscope: Callable, cache: Path) -> None:
    folder = tmp_path / "run"
    words = [*TINY, *QUICK, "objective=released", f"image.cache={cache}", f"hydra.run.dir={folder}"]
    assert soscope("train", *words) == 0
    table = anndata.read_h5ad(folder / "demo_rna.h5ad")
    mean = np.asarray(table.X)
    assert np.isfinite(mean).all()
    assert (mean >= 0).all()
    assert "decoder's alone" in " ".join((folder / "report.html").read_text().replace("&#39;", "'").split())
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["step"].max() >= 5
    assert "held_out_loss" not in metrics or metrics["held_out_loss"].isna().all()
    scores = pd.read_csv(folder / "comparison.csv")
    assert np.isfinite(scores[["pearson", "within_spot_r", "nmse"]]).all().all()


@pytest.mark.parametrize("key", ["pretrain.averaging", "finetune.averaging"])
def test_weights_are_not_averaged_as_the_program_does_not(key: str, compose: Callable) -> None:
    cfg = compose("objective=released")
    stage, name = key.split(".")
    assert cfg[stage][name] == 0
    with pytest.raises(ConfigError, match=key):
        check(compose("objective=released", f"{key}=0.9"))
