"""What each stage makes, and from what: told to loggers that keep artifacts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soscope import contract
from soscope.config import fingerprint, paths_of
from soscope.errors import RunFolderError
from soscope.loggers import Artifact
from soscope.stages import Run


def prepared(run: Run) -> list[Artifact]:
    """Return the prepared sections, each made from the files it was read from."""
    return [_prepared(run, section, _input(run, section)) for section in run.sections]


def encoder(run: Run) -> list[Artifact]:
    """Return the pretrained encoder with its best checkpoint, made from the prepared sections."""
    return [_encoder(run, tuple(_prepared(run, s) for s in run.sections))]


def model(run: Run) -> list[Artifact]:
    """Return the trained model with its best checkpoint, made from the prepared sections and the encoder."""
    return [_model(run, (*(_prepared(run, s) for s in run.sections), _encoder(run)))]


def results(run: Run) -> list[Artifact]:
    """Return the enhanced sections, each made from the prepared one by the model."""
    found = []
    for section in run.sections:
        tables = [run.folder.table(section, m) for m in run.modalities]
        draws = [run.folder.draws(section, m) for m in run.modalities]
        paths = _by_name(run.folder.result(section), *tables, *draws)
        facts = {"posterior": run.cfg.enhance.posterior, **_sizes(run, section)}
        made_from = (_prepared(run, section), _model(run))
        found.append(_artifact(run, f"result-{section}", "result", paths, facts, made_from))
    return found


def _artifact(
    run: Run,
    name: str,
    kind: str,
    paths: Mapping[str, Path],
    facts: Mapping[str, Any],
    made_from: tuple[Artifact, ...] = (),
    seen_from: Run | None = None,
) -> Artifact:
    """Describe files of a run, as another run sees them that takes them from there."""
    folder, here = (r.folder.path.absolute() for r in (run, seen_from or run))
    there = {n: p for n, p in paths.items() if p.exists()}
    if not there:
        raise RunFolderError(
            f"'{folder}' holds none of {', '.join(map(str, paths.values()))}, which '{name}' is made of."
        )
    return Artifact(
        name=re.sub(r"[^\w.-]", "-", name)[:128],  # what W&B allows
        kind=kind,
        paths=there,
        metadata={"run_folder": folder.name, "fingerprint": fingerprint(run.cfg), **facts},
        made_from=made_from,
        inside=all(p.absolute().is_relative_to(here) for p in paths.values()),
    )


def _by_name(*paths: Path) -> dict[str, Path]:
    return {path.name: path for path in paths}


def _input(run: Run, section: str) -> tuple[Artifact, ...]:
    """Return the raw files of a section and what all sections are given, such as weights; none of a simulated one."""
    roots = {s: p.absolute() for s, p in zip(run.sections, paths_of(run.cfg), strict=True) if p is not None}
    others = [root for s, root in roots.items() if s != section]
    hashes = {Path(f).absolute(): digest for f, digest in run.inputs.items()}
    hashes = {f: digest for f, digest in hashes.items() if not any(f.is_relative_to(root) for root in others)}
    if not hashes:
        return ()
    files = {_name_inside(f, roots.get(section)): f for f in hashes}
    facts = {"blake2b": {name: hashes[f] for name, f in files.items()}}
    return (_artifact(run, f"input-{section}", "input", files, facts),)


def _name_inside(file: Path, root: Path | None) -> str:
    """Return a file's path from the section's folder; of one elsewhere the whole path, for names may be there twice."""
    if root is not None and root != file and file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    return file.name if root == file else file.as_posix().lstrip("/")


def _prepared(run: Run, section: str, made_from: tuple[Artifact, ...] = ()) -> Artifact:
    name = _name(run, f"prepared-{section}")
    return _artifact(run, name, "dataset", _by_name(run.folder.prepared(section)), _sizes(run, section), made_from)


def _encoder(run: Run, made_from: tuple[Artifact, ...] = ()) -> Artifact:
    file = run.folder.encoder_file
    return _artifact(run, _name(run, f"encoder-{_label(run)}"), "model", _with_checkpoint(file), _facts(run), made_from)


def _model(run: Run, made_from: tuple[Artifact, ...] = ()) -> Artifact:
    """Describe the model a run trains, or the one it applies, which lies in the folder of another."""
    own = run if run.trained_in is None else Run(run.trained_in.config(), run.trained_in, [], {})
    name, files = _name(own, f"model-{_label(own)}"), _with_checkpoint(own.folder.model_file)
    return _artifact(own, name, "model", files, _facts(own), made_from, seen_from=run)


def _with_checkpoint(file: Path) -> dict[str, Path]:
    return _by_name(file, file.parent / "best.ckpt")


def _name(run: Run, name: str) -> str:
    """Keep what a benchmark made of merged spots apart from what was made of the section's own."""
    return name if run.cfg.benchmark is None else f"benchmark-{name}"


def _label(run: Run) -> str:
    first, *others = run.sections
    return f"{first}-and-{len(others)}-more" if others else first


def _facts(run: Run) -> dict[str, Any]:
    likelihoods = {m: choice.likelihood for m, choice in run.cfg.model.modalities.items()}
    return {
        "model": run.cfg.model.name,
        "likelihood": likelihoods,
        "objective": run.cfg.objective.name,
        "seed": run.cfg.seed,
    }


def _sizes(run: Run, section: str) -> dict[str, Any]:
    """Return how many spots, subspots and features a prepared section has."""
    _, tables = contract.open_tables(run.folder.prepared(section))
    spots = {m: tables[m] for m in run.modalities}
    return {
        "n_spots": next(iter(spots.values())).n_obs,
        "n_subspots": tables[contract.IMAGE_FEATURES].n_obs,
        "n_features": {m: table.n_vars for m, table in spots.items()},
    }
