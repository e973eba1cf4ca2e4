"""`validate=true`: before training, the benchmark's protocol on the run's own sections, and what of the run to trust."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad

from soscope import contract
from soscope.benchmark.intervals import coverage_by_factor, find_widening
from soscope.benchmark.summary import OURS, over_seeds
from soscope.benchmark.verdicts import KRIGING, advise, in_one_line, judge, read_table, said_of_intervals
from soscope.benchmarking import BENCHMARK, benches, check_benchmark, collect
from soscope.errors import ConfigError, DataError
from soscope.folder import write_text
from soscope.lattice import Lattice, make_lattice
from soscope.methods import Bench, TrainedMethod
from soscope.report.benchmark_page import Scored
from soscope.run import TRAINING, Plan, Stage, do_stages
from soscope.schema import BENCHMARK_STAGES, BenchmarkConfig, ClusterConfig, LoggerConfig
from soscope.stages import Run, console, divide

log = logging.getLogger("soscope")
WAY_OUT = "Leave validate=true out to train without a verdict."


def training_plan(cfg: Any) -> Plan:
    """Return the stages of a run, `validate` among them when the config asks for it."""
    return VALIDATED if cfg.validate else TRAINING


def validate(run: Run) -> None:
    """Score the model on merged spots; write ``validation.csv``, ``advice.csv`` and ``intervals.csv``."""
    lattice = make_lattice(run.cfg.platform.lattice)
    _check_sections(run)
    console.print(f"  [bold]{lattice.merge_rule}: spots merged into larger ones, to be split again[/bold]")
    own = _merged_run(run, lattice.merge_rule, None)
    try:
        do_stages(own, BENCHMARK.stages, ["prepare"])
    except (ConfigError, DataError) as error:  # the section itself was prepared: it cannot be merged
        raise ConfigError(f"validate=true: {error} {WAY_OUT}") from error
    do_stages(own, BENCHMARK.stages, ["score", "compare"])
    scored = collect(own)
    table = pd.concat([_verdicts(own, s) for s in scored])
    write_text(run.folder.validation_file, table.to_csv(index=False))
    write_text(run.folder.advice_file, _advice(run, lattice, scored).to_csv(index=False))
    _settle_intervals(run, own)
    say_verdicts(run)


def _settle_intervals(run: Run, own: Run) -> None:
    """Write how wide the run's intervals have to be for 90 % of them to hold on merged spots, where truths are counts."""
    (modality,) = own.modalities
    found = list(benches(own))
    if own.cfg.enhance.posterior != "conditional" or not all(b.cases[modality].counted for b in found):
        run.folder.intervals_file.unlink(missing_ok=True)
        return
    by_section = [_coverage_by_factor(own, bench, modality) for bench in found]

    def coverage(factor: float) -> float:
        return float(np.mean([each(factor) for each in by_section]))

    before, widening = coverage(1.0), find_widening(coverage)
    row = {"modality": modality, "coverage90": before, "widening": widening, "coverage90_widened": coverage(widening)}
    write_text(run.folder.intervals_file, pd.DataFrame([row]).to_csv(index=False))


def _coverage_by_factor(own: Run, bench: Bench, modality: str) -> Callable[[float], float]:
    (section,) = bench.run.sections
    trained = TrainedMethod(OURS).run(bench, own.cfg.seed, own.folder.method(section, OURS, own.cfg.seed))
    return coverage_by_factor(next(divide(trained)).divider, bench.cases[modality])


def validation_config(cfg: Any, features: Any, rule: str, methods: Sequence[str] | None) -> Any:
    """Return the config of the benchmark that validates a run: its settings, one seed, the features named.

    Parameters
    ----------
    cfg
        Of the run.
    features
        Names of its features, or ``data.features`` as it was given.
    rule
        How spots are merged.
    methods
        Those scored; soscope and all baselines by default.
    """
    own: Any = copy.deepcopy(cfg)
    own.benchmark = BenchmarkConfig(
        merge=rule, seeds=[cfg.seed], methods=None if methods is None else list(methods), models={OURS: {}}
    )
    own.validate, own.stages, own.logger = False, list(BENCHMARK_STAGES), LoggerConfig()
    own.data.features, own.data.truth = features, None
    own.split.extent = "cell"  # merged spots fill their cells
    own.enhance.draws, own.cluster = 0, ClusterConfig()
    own.trainer.devices, own.trainer.num_nodes, own.trainer.strategy = 1, 1, "auto"
    return own


def say_verdicts(run: Run) -> None:
    """Print one line: how many features to trust, and soscope against the best other method."""
    rule = make_lattice(run.cfg.platform.lattice).merge_rule
    means = over_seeds(pd.read_csv(run.folder.validation(rule).table_of_scores(BenchmarkConfig.name)))
    console.print(f"  Validated by {rule}, {in_one_line(read_table(run.folder.validation_file), means)}")
    line = said_of_intervals(run.folder.intervals_file)
    if line:
        console.print(f"  {line}")


def _merged_run(run: Run, rule: str, methods: Sequence[str] | None) -> Run:
    """Return the benchmark of one merge, in a folder of its own."""
    (modality,) = run.modalities
    features = _prepared(run, run.sections[0], modality).var_names.tolist()
    cfg = validation_config(run.cfg, features, rule, methods)
    folder = run.folder.validation(rule)
    folder.claim(cfg)
    return Run(cfg, folder, [], run.inputs)


def _prepared(run: Run, section: str, modality: str) -> AnnData:
    return contract.open_section(run.folder.prepared(section)).tables[modality]


def _verdicts(own: Run, scored: Scored) -> pd.DataFrame:
    (modality,) = own.modalities
    spots, truth = _prepared(own, scored.name, modality), read_h5ad(own.folder.truth(scored.name))
    counts = pd.Series(np.asarray(truth.X.mean(0)).ravel(), truth.var_names)
    counted = pd.Series(np.asarray((spots.X != 0).sum(0)).ravel(), spots.var_names)
    n_free = counted * (truth.n_obs // spots.n_obs - 1)
    table = judge(scored.per_feature.astype({"feature": str}), counts, n_free)
    table.insert(0, "section", scored.name)
    return table


def _advice(run: Run, lattice: Lattice, scored: list[Scored]) -> pd.DataFrame:
    """Return counts and scores per number of subspots: the merge that was validated, and kriging alone on the others."""
    measured = {lattice.merge_rule: scored}
    rows = []
    for k in sorted({*lattice.splits, int(run.cfg.split.subspots)}):
        rule = lattice.rule(k)
        found = measured[rule] if rule in measured else _kriged(run, rule)
        tables = {s.name: s.per_feature for s in found}
        for section in run.sections:
            rows.append(advise(*_sizes(run, section), k, tables.get(section)).assign(section=section))
    return pd.concat(rows).sort_values("section", kind="stable")


def _kriged(run: Run, rule: str) -> list[Scored]:
    """Return what kriging scores on a merge; nothing where sections are too small for it."""
    console.print(f"  [bold]{rule}: kriging alone, for the advice on split.subspots[/bold]")
    own = _merged_run(run, rule, [KRIGING])
    try:
        do_stages(own, BENCHMARK.stages, ["prepare", "score"])
    except DataError as error:
        log.info("no scores of %s for the advice on split.subspots: %s", rule, error)
        return []
    return collect(own)


def _sizes(run: Run, section: str) -> tuple[float, float]:
    """Return a spot's mean count over the features, and its median count over all that was read; NaN for real values."""
    (modality,) = run.modalities
    if not run.likelihood(modality).sparse_result:
        return np.nan, np.nan
    table = _prepared(run, section, modality)
    return float(table.X.sum(1).mean()), float(table.obs[contract.LIBRARY_SIZE].median())


def _check_sections(run: Run) -> None:
    """Refuse sections that bring subspots of their own: merged, they would be others."""
    for name in run.sections:
        if contract.facts(contract.open_section(run.folder.prepared(name)))["extent"] == "given":
            raise ConfigError(
                f"validate=true merges spots, but section '{name}' brings subspots of its own, which a merged section has not "
                "got. Score them with soscope benchmark benchmark.merge=given data.truth=FILE where their true profiles are "
                f"known. {WAY_OUT}"
            )


def _check(cfg: Any) -> None:
    """Refuse, besides what no run can be made of, what cannot be validated."""
    TRAINING.check(cfg)
    if len(cfg.model.modalities) > 1:
        raise ConfigError(
            f"validate=true judges one table, model={cfg.model.name} has {', '.join(cfg.model.modalities)}. {WAY_OUT}"
        )
    rule = make_lattice(cfg.platform.lattice).merge_rule
    try:
        check_benchmark(validation_config(cfg, cfg.data.features, rule, None))
    except ConfigError as error:
        raise ConfigError(f"validate=true: {error} {WAY_OUT}") from error


def _say(run: Run) -> None:
    if "report" in run.folder.marks():
        say_verdicts(run)
    TRAINING.say(run)


VALIDATED = replace(
    TRAINING,
    stages={
        "prepare": TRAINING.stages["prepare"],
        "validate": Stage(validate, settings=("enhance.posterior",), leaves=("pretrain", "finetune")),
        **{name: stage for name, stage in TRAINING.stages.items() if name != "prepare"},
    },
    check=_check,
    say=_say,
    asked=("validate",),
)
