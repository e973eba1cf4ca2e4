"""What is a model worth on a section it has not seen? Each section by a model of the others against one of its own.

    python scripts/unseen_sections.py OUT data=st "data.path=[A,B,C]" platform=st

What follows OUT is settings of `soscope benchmark`. Spots are merged, divided and scored as there. The model of the others
chooses its features and reduces image features without the section, as it would be if that came later; the model of the
section itself gets the same features. Writes OUT/unseen.csv, a row per section, training, seed and feature, and prints its
means; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from omegaconf import open_dict

from soscope import contract
from soscope.benchmark.baselines import BASELINES
from soscope.benchmark.cases import Case
from soscope.benchmark.merge import merge
from soscope.benchmarking import rule_of, section_config
from soscope.conf_files import composed
from soscope.config import paths_of
from soscope.folder import RunFolder
from soscope.lattice import make_lattice
from soscope.matrices import to_dense
from soscope.numbering import names_of
from soscope.read import make_reader
from soscope.run import APPLYING, execute, unseen_config
from soscope.stages import Run, divide

SCORES = ["pearson", "within_spot_r", "within_spot_r_composition", "coverage90"]
TRAINED = ["prepare", "pretrain", "finetune"]


def merged_sections(cfg: Any, out: Path) -> dict[Path, AnnData]:
    """Merge the spots of every section; returns where each is written, and the truth of its subspots."""
    reader, lattice = make_reader(cfg.data.reader, dict(cfg.data.options)), make_lattice(cfg.platform.lattice)
    truths = {}
    for path in paths_of(cfg):
        merged = merge(reader.read(path), rule_of(cfg), lattice)
        to = out / "merged" / merged.name
        if not to.exists():
            contract.write_section(merged.sdata, to)
        truths[to] = merged.truth
    return truths


def config_for(cfg: Any, paths: list[Path], seed: int, features: list[str] | None = None) -> Any:
    """Return the settings of one training on merged sections."""
    own = section_config(cfg, None)
    with open_dict(own):
        own.benchmark, own.stages, own.seed = None, TRAINED, seed
    own.data.reader, own.data.options, own.data.path = "section", {}, [str(p) for p in paths]
    if features is not None:
        own.data.features = features
    return own


def scored(cfg: Any, folder: Path, truth: AnnData, plan: Any = None) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Do a run's stages and score its one section: by method, a row per feature; and the features."""
    run = Run(cfg, execute(cfg, folder, plan), [], {})
    ((section, divider),) = divide(run)
    split = divider.split(np.arange(section.n_subspots), with_cdf=True)["rna"]
    subspots = names_of(contract.open_section(run.folder.prepared(section.name)).shapes[contract.SUBSPOTS])
    features = section.features["rna"]
    case = Case(section, "rna", run.likelihood("rna"), to_dense(truth[subspots, features].X, np.float64))
    return {
        "soscope": case.score(split),
        "copy_down": case.score(BASELINES["copy_down"](section, "rna", case.likelihood)),
    }, features


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for everything that is written")
    parser.add_argument("settings", nargs="*", help="of `soscope benchmark`")
    args = parser.parse_args()
    cfg = composed(args.settings, "benchmark")
    RunFolder(args.out).claim(cfg)
    truths = merged_sections(cfg, args.out)
    tables = []
    for path, truth in truths.items():
        for seed in cfg.benchmark.seeds:
            folder = args.out / "unseen" / path.name / f"seed{seed}"
            others = config_for(cfg, [p for p in truths if p != path], seed)
            execute(others, folder / "others")
            applied = unseen_config(others, folder / "others", ["prepare"])
            applied.data.path = str(path)
            of_others, features = scored(applied, folder / "applied", truth, APPLYING)
            of_itself, _ = scored(config_for(cfg, [path], seed, features), folder / "itself", truth)
            by = {"others": of_others["soscope"], "itself": of_itself["soscope"], "copy_down": of_itself["copy_down"]}
            tables += [t.assign(section=path.name, model_of=name, seed=seed) for name, t in by.items()]
    table = pd.concat(tables)
    table.to_csv(args.out / "unseen.csv", index=False)
    print(table.groupby(["section", "model_of"], sort=False)[SCORES].mean().round(4).to_string())
    print(table.groupby("model_of", sort=False)[SCORES].mean().round(4).to_string())


if __name__ == "__main__":
    main()
