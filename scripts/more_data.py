"""Is more data better? Sections, and tables, trained together against apart, scored on merged spots with the same features.

    python scripts/more_data.py sections OUT data=st "data.path=[A,B,C]" platform=st
    python scripts/more_data.py tables OUT data=visium data.path=FOLDER platform=visium

What follows OUT is settings of `soscope benchmark`. `sections` trains one model per section, then one on all. `tables` deals the
features of one table out to two, trains a model on each, one on both, which share z, and one on the single table. The panel
and the image features are chosen once, for all sections together. Writes OUT/sections.csv or OUT/tables.csv and prints
its means; the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import open_dict
from spatialdata import SpatialData

from soscope import contract
from soscope.benchmark.cases import Case
from soscope.benchmark.merge import merge
from soscope.benchmarking import rule_of, section_config
from soscope.conf_files import conf_dir
from soscope.config import paths_of, register
from soscope.folder import RunFolder
from soscope.lattice import make_lattice
from soscope.matrices import to_dense
from soscope.numbering import names_of
from soscope.prepare.pipeline import prepare_sections
from soscope.read import make_reader
from soscope.run import TRAINING, do_stages
from soscope.stages import Run, divide

SCORES = ["pearson", "within_spot_r", "within_spot_r_composition", "coverage90"]
Truths = dict[str, pd.DataFrame]


def prepare(cfg: Any, folder: RunFolder) -> Truths:
    """Merge and prepare all sections alike, deal their features out to two more tables, and return the truths."""
    reader, lattice = make_reader(cfg.data.reader, dict(cfg.data.options)), make_lattice(cfg.platform.lattice)
    merged = [merge(reader.read(path), rule_of(cfg), lattice) for path in paths_of(cfg)]
    truths = {}
    for raw, sdata in zip(merged, prepare_sections(section_config(cfg, None), [m.sdata for m in merged]), strict=True):
        table = sdata.tables["rna"]
        for i, name in enumerate(("even", "odd")):
            sdata.tables[name] = contract.annotate(table[:, i::2].copy(), contract.SPOTS)
        if not folder.prepared(raw.name).exists():
            contract.write_section(sdata, folder.prepared(raw.name))
        truths[raw.name] = _truth(raw.truth, sdata, table.var_names)
    return truths


def _truth(truth: Any, sdata: SpatialData, features: pd.Index) -> pd.DataFrame:
    chosen = truth[names_of(sdata.shapes[contract.SUBSPOTS]), features]
    return pd.DataFrame(to_dense(chosen.X, np.float64), columns=features)


def trainings(what: str, paths: list[str]) -> Iterator[tuple[str, list[str], list[str]]]:
    """Go through what is trained: a name, the sections' folders, and the tables."""
    if what == "sections":
        yield from (("apart", [path], ["rna"]) for path in paths)
        yield "together", paths, ["rna"]
    else:
        yield from (("apart", paths, [name]) for name in ("even", "odd"))
        yield "together", paths, ["even", "odd"]
        yield "one table", paths, ["rna"]


def score(cfg: Any, prepared: RunFolder, folder: Path, truths: Truths) -> pd.DataFrame:
    """Train one model and score it on every section and table it saw."""
    run = Run(cfg, RunFolder(folder, prepared_in=prepared.prepared_in), [], {})
    run.folder.claim(cfg)
    do_stages(run, TRAINING.stages, ["pretrain", "finetune"])
    rows = []
    for section, divider in divide(run):
        for modality, split in divider.split(np.arange(section.n_subspots), with_cdf=True).items():
            truth = truths[section.name][section.features[modality]].to_numpy()
            case = Case(section, modality, run.likelihood(modality), truth)
            rows.append(case.score(split).assign(section=section.name))
    return pd.concat(rows)


def own_config(cfg: Any, paths: list[str], tables: list[str], seed: int) -> Any:
    """Return the settings of one training."""
    own = section_config(cfg, None)
    with open_dict(own):
        choice = own.model.modalities["rna"]
        own.model.modalities = dict.fromkeys(tables, choice)
    own.data.path, own.seed = paths, seed
    return own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sections", "tables"))
    parser.add_argument("out", type=Path, help="folder for everything that is written")
    parser.add_argument("settings", nargs="*", help="of `soscope benchmark`")
    args = parser.parse_args()
    register()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("benchmark", args.settings)
    prepared = RunFolder(args.out)
    prepared.claim(cfg)
    truths = prepare(cfg, prepared)
    tables = []
    for name, paths, modalities in trainings(args.what, [str(p) for p in paths_of(cfg)]):
        for seed in cfg.benchmark.seeds:
            label = "-".join([name.replace(" ", "_"), *(Path(p).name for p in paths), *modalities])
            folder = args.out / args.what / label / f"seed{seed}"
            table = score(own_config(cfg, paths, modalities, seed), prepared, folder, truths)
            tables.append(table.assign(trained=name, seed=seed))
    table = pd.concat(tables)
    table.to_csv(args.out / f"{args.what}.csv", index=False)
    print(table.groupby(["section", "trained"], sort=False)[SCORES].mean().round(4).to_string())
    print(table.groupby("trained", sort=False)[SCORES].mean().round(4).to_string())


if __name__ == "__main__":
    main()
