"""The verb: read each section, make every check, print what was found by severity, and draw the overlay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from soscope.config import paths_of, section_names
from soscope.config_checks import check as check_config
from soscope.doctor import of_counts, of_geometry, of_image, of_machine
from soscope.doctor.examined import Examined
from soscope.doctor.findings import CHECKS, Check, Finding, Severity
from soscope.doctor.overlay import write_overlay
from soscope.doctor.placements import WITHIN_IMAGE
from soscope.errors import ConfigError, DataError
from soscope.likelihoods import make_likelihood
from soscope.read import make_reader
from soscope.stages import console

MODULES = (of_machine, of_geometry, of_counts, of_image)
"""Modules whose checks are made, in this order: what is free is measured before the others take some of it."""
COLOURS = {Severity.SERIOUS: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


def examine(cfg: Any, folder: Path) -> None:
    """Look at every section of a config, print findings, and write ``doctor-<section>.png`` into a folder.

    Raises
    ------
    ConfigError
        For settings that cannot run, before anything is read.
    DataError
        In the end, when there is a serious finding: training would be meaningless.
    """
    check_config(cfg)
    for modality in cfg.model.modalities.values():
        make_likelihood(modality.likelihood, 1, **dict(modality.options))
    reader = make_reader(cfg.data.reader, dict(cfg.data.options))
    if reader.needs_path and None in paths_of(cfg):
        raise ConfigError(f"data={cfg.data.reader} needs data.path=FOLDER.")
    serious = {}
    for name, path in zip(section_names(cfg), paths_of(cfg), strict=True):
        console.print(f"[bold]{name}[/bold]")
        found = look_at(cfg, reader, path, folder / f"doctor-{name}.png")
        _say(found)
        serious[name] = [f.about for f in found if f.severity == Severity.SERIOUS]
    bad = {name: about for name, about in serious.items() if about}
    if bad:
        each = "; ".join(f"section '{name}': {', '.join(dict.fromkeys(about))}" for name, about in bad.items())
        raise DataError(
            f"training would be meaningless. Serious findings in {len(bad)} of {len(serious)} sections: {each}."
        )


def in_order() -> list[Check]:
    """Return all checks, those of `MODULES` first."""
    order = [module.__name__ for module in MODULES]
    return sorted(CHECKS, key=lambda c: order.index(c.look.__module__) if c.look.__module__ in order else len(order))


def look_at(cfg: Any, reader: Any, path: Path | None, overlay: Path) -> list[Finding]:
    """Return all findings of a section, most serious first; one that cannot be read has just that as a finding."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not cfg.trainer.progress,
    ) as bar:
        task = bar.add_task("reading")
        try:
            section = Examined(cfg, reader.read(path))
        except DataError as error:
            return [
                Finding(
                    Severity.SERIOUS, "reading", str(error), "As the message says; nothing else could be looked at."
                )
            ]
        found: list[Finding] = []
        for check in in_order():
            bar.update(task, description=check.name)
            found += check(section)
        bar.update(task, description="overlay")
        overlay.parent.mkdir(parents=True, exist_ok=True)
        write_overlay(section, overlay)
    _say_orientations(section)
    console.print(f"  {overlay}  (spots over the image)")
    return sorted(found, key=lambda f: f.severity)


def _say(found: list[Finding]) -> None:
    """Print findings one by one and unwrapped: overrides are there to be copied."""
    for f in found:
        console.print(f"  {f.severity.name.lower():8}", style=COLOURS[f.severity], end="")
        console.print(f"{f.about}: {f.seen}", markup=False, highlight=False)
        if f.fix:
            console.print(f"          -> {f.fix}", markup=False, highlight=False)
    if not any(f.severity == Severity.SERIOUS for f in found):
        console.print("  [green]nothing serious[/green]")


def _say_orientations(section: Examined) -> None:
    if section.lacks("image") or section.lacks("spots"):
        return
    table = Table(title="Positions in the eight orientations within the image")
    table.add_column("positions", no_wrap=True)
    for title in ("r, totals and darkness", "R2 by the image", "sd above chance", "on tissue"):
        table.add_column(title, justify="right")
    for judged in section.judge.in_image:
        cells = (f"{judged.darkness_r:.2f}", f"{judged.score:.3f}", f"{judged.z:.1f}", f"{judged.on_tissue:.0%}")
        table.add_row(judged.placement.words.removesuffix(WITHIN_IMAGE), *cells)
    console.print(table)
