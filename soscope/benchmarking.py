"""`soscope benchmark`: merge and prepare sections, score every method on them, compare."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData, read_h5ad
from omegaconf import OmegaConf
from rich.console import Console
from spatialdata import SpatialData

from soscope import contract
from soscope.benchmark.cases import Case
from soscope.benchmark.merge import check_rule, merge
from soscope.benchmark.summary import as_tables, draw_table, summarise
from soscope.config import paths_of, section_names
from soscope.errors import ConfigError, DataError
from soscope.folder import RunFolder, write_text
from soscope.lattice import make_lattice
from soscope.matrices import to_dense
from soscope.methods import Bench, Method, choose_methods
from soscope.numbering import names_of
from soscope.prepare.encoders.precomputed import feature_files
from soscope.prepare.panel import representation_of
from soscope.prepare.pipeline import prepare_sections
from soscope.read import make_reader, read_truth
from soscope.read.base import RawSection
from soscope.report.benchmark_page import Scored, write_benchmark_page
from soscope.run import Plan, Stage
from soscope.split import Split
from soscope.stages import Run, console
from soscope.training import count_devices

GIVEN = "given"
TABLE_WIDTH = 112


def rule_of(cfg: Any) -> str:
    """Return how spots are merged; for ``auto``, not at all where a truth is named, and else by the platform's lattice."""
    if cfg.benchmark.merge != "auto":
        return str(cfg.benchmark.merge)
    return GIVEN if cfg.data.truth is not None else make_lattice(cfg.platform.lattice).merge_rule


def check_benchmark(cfg: Any) -> None:
    """Raise `ConfigError` for methods, merging and values that no benchmark can be made of."""
    choose_methods(cfg)
    if cfg.dry_run:
        raise ConfigError("dry_run=true tells what training takes: use `soscope train` with the same settings.")
    if cfg.trainer.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError("trainer.accelerator=gpu, but torch sees no CUDA device. Use trainer=cpu.")
    if count_devices(cfg) > 1:
        raise ConfigError("a benchmark trains on one section at a time, so on one device. Use trainer.devices=1.")
    for modality, choice in cfg.model.modalities.items():
        if not representation_of(choice.representation).keeps_units:
            raise ConfigError(
                f"model={cfg.model.name} looks at '{modality}' as {choice.representation}, in which the truth does not add up to "
                "spots. Benchmark counts or values as they are: model=nb, or "
                f"model.modalities.{modality}.representation=values."
            )
    if rule_of(cfg) == GIVEN:
        return
    check_rule(rule_of(cfg), make_lattice(cfg.platform.lattice))
    if cfg.split.extent != "cell":
        raise ConfigError("merged spots fill their cells: split.extent=spot has no meaning there. Leave it out.")


def section_config(cfg: Any, path: Path | None) -> Any:
    """Return the config of one section: its own path, and the geometry of merged spots."""
    own = OmegaConf.merge(cfg, {"data": {"path": None if path is None else str(path)}})
    if cfg.image.features is not None:
        files = feature_files(cfg.image.features, section_names(cfg))
        own.image.features = str(files[paths_of(cfg).index(path)])
    if rule_of(cfg) != GIVEN:
        k = check_rule(rule_of(cfg), make_lattice(cfg.platform.lattice))
        own.split.subspots = k
        own.platform.pitch_um = float(cfg.platform.pitch_um * math.sqrt(k))
        own.platform.spot_diameter_um = None
    return own


def prepare(run: Run) -> None:
    """Read, merge and prepare every section apart, and keep its truth aside."""
    reader = make_reader(run.cfg.data.reader, dict(run.cfg.data.options))
    for name, path in zip(run.sections, paths_of(run.cfg), strict=True):
        cfg = section_config(run.cfg, path)
        raw = _merged(cfg, run, reader.read(path))
        sdata = prepare_sections(cfg, [raw.sdata])[0]
        truth = true_profiles(cfg, raw, sdata)
        contract.write_section(sdata, run.folder.prepared(name))
        contract.write_table(truth, run.folder.truth(name))
        spots, subspots = len(sdata.shapes[contract.SPOTS]), len(sdata.shapes[contract.SUBSPOTS])
        console.print(f"  {name}: {rule_of(cfg)}, {spots:,} spots, {subspots:,} subspots, {truth.n_vars:,} features")


def _merged(cfg: Any, run: Run, raw: RawSection) -> RawSection:
    if rule_of(cfg) == GIVEN:
        return raw
    averaged = [m for m in run.modalities if not run.likelihood(m).adds_up]
    return merge(raw, rule_of(cfg), make_lattice(cfg.platform.lattice), averaged)


def true_profiles(cfg: Any, raw: RawSection, sdata: SpatialData) -> AnnData:
    """Return the truth of a prepared section: its subspots by its features.

    Raises
    ------
    ConfigError, DataError
        When there is no truth, or one of other subspots.
    """
    subspots = names_of(sdata.shapes[contract.SUBSPOTS])
    features = [f for m in cfg.model.modalities for f in sdata.tables[m].var_names]
    if cfg.data.truth is not None:
        truth = read_truth(Path(cfg.data.truth), features, len(subspots))
        truth.obs_names = pd.Index(subspots)
        return truth
    if raw.truth is None:
        raise ConfigError(
            f"section '{raw.name}' brings no truth, and benchmark.merge=given makes none. Name it with data.truth=FILE, or "
            "merge spots: benchmark.merge=auto."
        )
    if set(subspots) - set(raw.truth.obs_names):
        raise ConfigError(
            f"section '{raw.name}': its truth has {raw.truth.n_obs:,} subspots, split.subspots={cfg.split.subspots} makes "
            f"{len(subspots):,} others. Leave split.subspots as the truth has it, or merge spots: benchmark.merge=auto."
        )
    return raw.truth[subspots, features].copy()


def benches(run: Run) -> Iterator[Bench]:
    """Go through the sections with their data and truth."""
    for name, path in zip(run.sections, paths_of(run.cfg), strict=True):
        own = Run(section_config(run.cfg, path), run.folder, [], run.inputs)
        section = own.data().sections[0]
        truth = read_h5ad(run.folder.truth(name))
        cases = {}
        for m in run.modalities:
            true = to_dense(truth[:, section.modalities[m].features].X, np.float64)
            cases[m] = Case(section, m, run.likelihood(m), true, run.cfg.seed)
        yield Bench(own, cases)


def applicable(bench: Bench, cfg: Any) -> tuple[list[Method], dict[str, str]]:
    """Return the methods a section has the inputs for, and the names of the others with what they miss."""
    methods, left_out = [], {}
    for method in choose_methods(cfg):
        missing = [what for case in bench.cases.values() if (what := method.missing(case)) is not None]
        if missing:
            left_out[method.name] = missing[0]
        else:
            methods.append(method)
    return methods, left_out


def score(run: Run) -> None:
    """Score every method and seed on every section; what was scored before is left."""
    for bench in benches(run):
        (name,) = bench.run.sections
        methods, left_out = applicable(bench, run.cfg)
        if not methods:
            raise DataError(f"section '{name}': no method of benchmark.methods applies: {left_out}. Name others.")
        for other, what in left_out.items():
            console.print(f"  {name}: {other} is left out, for it needs {what}")
        units = [(m, s) for m in methods for s in (run.cfg.benchmark.seeds if m.seeded else [None])]
        for i, (method, seed) in enumerate(units, 1):
            label = method.name if seed is None else f"{method.name}, seed {seed}"
            _score(bench, method, seed, f"{name}: {label} ({i} of {len(units)})")


def _score(bench: Bench, method: Method, seed: int | None, label: str) -> None:
    folder, settings = _unit(bench, method, seed)
    if folder.is_done("score", settings):
        console.print(f"  [dim]{label}: done before[/dim]")
        return
    console.print(f"  [bold]{label}[/bold]")
    splits, cost = method.split(bench, seed or 0, folder.path)
    table = pd.concat([case.score(splits[m]) for m, case in bench.cases.items()])
    write_text(folder.per_feature_file, table.to_csv(index=False))
    contract.write_table(_means(bench, splits), folder.means_file)
    folder.mark("score", settings, cost)
    console.print(f"    Pearson r {table['pearson'].mean():.3f}, {cost.seconds:.1f} s")


def _unit(bench: Bench, method: Method, seed: int | None) -> tuple[RunFolder, Any]:
    """Return the folder of a method and seed, and the settings its scores depend on besides the run's."""
    (section,) = bench.run.sections
    path = bench.run.folder.method(section, method.name, seed if method.seeded else None)
    return RunFolder(path), {"posterior": bench.run.cfg.enhance.posterior}


def _means(bench: Bench, splits: dict[str, Split]) -> AnnData:
    features = [f for case in bench.cases.values() for f in case.features]
    means = np.concatenate([to_dense(splits[m].mean, np.float32) for m in bench.cases], axis=1)
    rows = [str(i) for i in range(len(means))]
    return AnnData(X=means, obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=features))


def compare(run: Run) -> None:
    """Write the table, ``per_feature.csv`` and the page from what was scored."""
    shown = collect(run)
    per_feature = pd.concat([s.per_feature for s in shown], ignore_index=True)
    rows = summarise(per_feature, pd.concat([s.costs for s in shown]))
    write_text(run.folder.per_feature_file, per_feature.to_csv(index=False))
    write_text(run.folder.table_of_scores(run.cfg.benchmark.name), rows.to_csv(index=False))
    write_benchmark_page(run.cfg, run.folder, shown, rows)


def collect(run: Run) -> list[Scored]:
    """Gather what was scored, section by section."""
    shown = []
    for bench in benches(run):
        methods, left_out = applicable(bench, run.cfg)
        features, costs = _collect(bench, methods, list(run.cfg.benchmark.seeds))
        means = {m.name: _unit(bench, m, run.cfg.benchmark.seeds[0])[0].means_file for m in methods}
        shown.append(Scored(bench.run.sections[0], rule_of(bench.run.cfg), left_out, means, features, costs))
    return shown


def _collect(bench: Bench, methods: list[Method], seeds: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return scores per feature and costs of a section's methods and ceilings, those without seeds repeated for each."""
    features, costs = [], []
    ceilings = [table.assign(method=name) for case in bench.cases.values() for name, table in case.ceilings().items()]
    for seed in seeds:
        for method in methods:
            folder, _ = _unit(bench, method, seed)
            mark = folder.marks()["score"]
            features.append(pd.read_csv(folder.per_feature_file).assign(method=method.name, seed=seed))
            costs.append({"method": method.name, "seed": seed} | {key: mark[key] for key in ("seconds", "peak_mb")})
        features += [table.assign(seed=seed) for table in ceilings]
    section = bench.run.sections[0]
    first = ["section", "modality", "method", "seed", "feature"]
    table = pd.concat(features, ignore_index=True).assign(section=section)
    table = table[[*first, *(c for c in table if c not in first)]]
    return table, pd.DataFrame(costs).assign(section=section)


def say(run: Run) -> None:
    """Print the tables and where everything is."""
    if "compare" not in run.folder.marks():
        return
    name = run.cfg.benchmark.name
    table, page = run.folder.table_of_scores(name), run.folder.page_of_scores(name)
    wide = Console(width=max(console.width, TABLE_WIDTH), soft_wrap=True)
    for title, means in as_tables(pd.read_csv(table)):
        wide.print(draw_table(title, means))
    for file in (table, run.folder.per_feature_file, page):
        console.print(f"  {file}")


BENCHMARK = Plan(
    stages={
        "prepare": Stage(prepare),
        "score": Stage(score, settings=("benchmark", "enhance")),
        "compare": Stage(compare, settings=("report",)),
    },
    check=check_benchmark,
    say=say,
)
