"""Search settings with Optuna: every trial is a run of its own, and coming back goes on with the same study.

    python scripts/tune.py OUT [--space FILE] [--trials 20] [--storage sqlite|journal|URL] [--study NAME]
        [--objective held_out|within_spot_r] SETTING ...

    python scripts/tune.py tuned data=visium data.path=FOLDER platform=visium
    python scripts/tune.py tuned --objective within_spot_r data=visium data.path=FOLDER platform=visium

Settings are those of `soscope train` (of `soscope benchmark` for within_spot_r). The search space is a YAML file, by default
scripts/tune.yaml. Several workers share a study when each is started with the same command. Trials that fall behind the median of
the others' held-out losses are stopped early. Needs `pip install 'soscope[tune]'`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console

SPACE = Path(__file__).with_suffix(".yaml")
MINIMIZE, MAXIMIZE = optuna.study.StudyDirection.MINIMIZE, optuna.study.StudyDirection.MAXIMIZE
OBJECTIVES = {"held_out": MINIMIZE, "within_spot_r": MAXIMIZE}
POLL = 1.0
console = Console()


def suggested(trial: optuna.Trial, space: dict[str, Any]) -> list[str]:
    """Return the settings a trial runs with."""
    words = []
    for key, choice in space.items():
        if "choices" in choice:
            value: Any = trial.suggest_categorical(key, choice["choices"])
        elif isinstance(choice["low"], int) and isinstance(choice["high"], int):
            value = trial.suggest_int(key, choice["low"], choice["high"], log=choice.get("log", False))
        else:
            value = trial.suggest_float(key, choice["low"], choice["high"], log=choice.get("log", False))
        words.append(f"{key}={value}")
    return words


def held_out(trial: optuna.Trial, folder: Path, words: list[str]) -> float:
    """Train, report the finetune stage's held-out loss epoch by epoch, and return the best."""
    only = "stages=[prepare,pretrain,finetune]"
    process = start("train", [*words, only, "trainer.progress=false", f"hydra.run.dir={folder}"], folder)
    told = 0
    while True:
        running = process.poll() is None
        losses = losses_in(folder / "metrics.csv")
        for step in range(told, len(losses)):
            trial.report(losses[step], step)
        told = len(losses)
        if running and told and trial.should_prune():
            process.terminate()
            process.wait()
            raise optuna.TrialPruned
        if not running:
            break
        time.sleep(POLL)
    check(process, folder)
    return min(losses)


def within_spot_r(trial: optuna.Trial, folder: Path, words: list[str]) -> float:
    """Benchmark our method on merged spots and return its within-spot r."""
    only = ["benchmark.methods=[soscope]", "benchmark.seeds=[0]", "trainer.progress=false"]
    process = start("benchmark", [*words, *only, f"hydra.run.dir={folder}"], folder)
    process.wait()
    check(process, folder)
    table = pd.read_csv(folder / "benchmark.csv")
    return float(table.query("method == 'soscope'")["within_spot_r"].mean())


def start(verb: str, words: list[str], folder: Path) -> subprocess.Popen:
    """Start a run in a process of its own, its output going to a file beside its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".log").open("w") as log:
        return subprocess.Popen([sys.executable, "-m", "soscope", verb, *words], stdout=log, stderr=subprocess.STDOUT)


def check(process: subprocess.Popen, folder: Path) -> None:
    """Fail a trial whose run failed."""
    if process.returncode:
        last = folder.with_suffix(".log").read_text().strip().splitlines()[-3:]
        raise RuntimeError(f"{folder.name} failed; the end of {folder.with_suffix('.log')}:\n" + "\n".join(last))


def losses_in(file: Path) -> list[float]:
    """Return the finetune stage's held-out losses so far."""
    if not file.is_file():
        return []
    try:
        table = pd.read_csv(file)
    except (pd.errors.EmptyDataError, pd.errors.ParserError):  # being written
        return []
    rows = table[table["stage"] == "finetune"] if {"stage", "held_out_loss"} <= set(table) else table.iloc[:0]
    return [] if rows.empty else rows["held_out_loss"].dropna().tolist()


def storage_of(word: str, out: Path) -> Any:
    """Return Optuna's storage: a file in OUT, or what a URL names."""
    if word == "journal":
        return JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return f"sqlite:///{out / 'study.db'}" if word == "sqlite" else word


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line; what is left are settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--space", type=Path, default=SPACE)
    parser.add_argument(
        "--trials", type=int, default=20, help="trials the study shall have, those of earlier runs included"
    )
    parser.add_argument("--storage", default="journal")
    parser.add_argument("--study", default="soscope")
    parser.add_argument(
        "--objective", choices=list(OBJECTIVES), help="by default what the file of the search space says"
    )
    parser.add_argument("--seed", type=int, default=None)
    return parser.parse_known_args()


def main() -> None:
    """Search, and print the best settings as a command takes them."""
    words, settings = arguments()
    search = yaml.safe_load(words.space.read_text())
    objective = words.objective or search["objective"]
    if objective not in OBJECTIVES:
        raise SystemExit(f"{words.space}: objective '{objective}' is unknown. Choose from: {', '.join(OBJECTIVES)}.")
    words.out.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=storage_of(words.storage, words.out),
        study_name=words.study,
        direction=OBJECTIVES[objective],
        sampler=optuna.samplers.TPESampler(seed=words.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=3),
        load_if_exists=True,
    )
    evaluate = {"held_out": held_out, "within_spot_r": within_spot_r}[objective]

    def one(trial: optuna.Trial) -> float:
        return evaluate(trial, words.out / f"trial-{trial.number}", [*settings, *suggested(trial, search["space"])])

    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    limit = optuna.study.MaxTrialsCallback(words.trials, states=states)
    if len(study.get_trials(deepcopy=False, states=states)) < words.trials:
        study.optimize(one, callbacks=[limit])
    finished = study.get_trials(deepcopy=False, states=states)
    console.print(f"{len(finished)} trials, best {objective} {study.best_value:.4f} (trial {study.best_trial.number}):")
    console.print("  " + " ".join(f"{k}={v}" for k, v in study.best_params.items()))
    study.trials_dataframe().to_csv(words.out / "trials.csv", index=False)


if __name__ == "__main__":
    main()
