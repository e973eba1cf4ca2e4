"""Weights & Biases: losses, pictures, and artifacts with where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger

from soscope.config import fingerprint, hash_of, resolved
from soscope.loggers.base import Artifact, Tracker

UPLOADED: dict[str, frozenset[str]] = {
    "none": frozenset(),
    "models": frozenset({"model"}),
    "all": frozenset({"model", "dataset", "result"}),
}
"""Kinds of artifacts whose files are uploaded, by ``logger.artifacts``; others are noted by path and checksum, if any are."""


class WeightsAndBiases(Tracker, WandbLogger):
    """One W&B run per run folder, whatever number of commands fill it.

    Parameters
    ----------
    cfg
        The run's config.
    folder
        The run folder.
    """

    def __init__(self, cfg: Any, folder: Path) -> None:
        self.uploaded = UPLOADED[cfg.logger.artifacts]
        self.keeps_artifacts = bool(self.uploaded)
        self.settings_hash = fingerprint(cfg)
        self.known: dict[str, Any] = {}  # artifacts this process has logged, by name
        super().__init__(
            name=folder.name,
            id=hash_of([self.settings_hash, str(folder.absolute())]),
            save_dir=folder,
            project=cfg.logger.project,
            entity=cfg.logger.entity,
            tags=list(cfg.logger.tags),
            config=resolved(cfg),
            resume="allow",
        )

    def show(self, pictures: Mapping[str, Path]) -> None:
        """Log every picture under its title."""
        for title, file in pictures.items():
            self.log_image(key=title, images=[str(file)])

    def keep(self, made: Artifact) -> None:
        """Log an artifact as an output of the run, and as an input what it was made from outside the run.

        W&B's graph joins runs and artifacts and has no cycles: what one stage of a run hands to the next is an output alone.
        That the next was made from it stands in its metadata, ``made_from``, by digest.
        """
        for source in made.made_from:
            if not source.inside and source.name not in self.known:
                self._use(source)
        made_from = {source.name: self._known(source).digest for source in made.made_from}
        artifact = _built(made, made.kind in self.uploaded, {"made_from": made_from})
        self.known[made.name] = artifact
        self.experiment.log_artifact(artifact, aliases=["latest", self.settings_hash])

    def _use(self, source: Artifact) -> None:
        artifact, run = _built(source, upload=False), self.experiment
        self.known[source.name] = artifact
        if (
            run.offline
        ):  # use_artifact refuses, for artifacts by name would have to be looked up; this is what it does with others
            run._log_artifact(artifact, aliases=["latest"], is_user_created=True, use_after_commit=True)
        else:
            run.use_artifact(artifact, aliases=["latest"])

    def _known(self, source: Artifact) -> Any:
        """Return what was logged; what an earlier process did is read again, for its digest."""
        if source.name not in self.known:
            self.known[source.name] = _built(source, upload=False)
        return self.known[source.name]

    def close(self, status: str) -> None:
        """Finish the run, or the next job of a sweep would write into it."""
        opened = self._experiment
        if opened is not None:
            self.finalize(status)
            opened.finish(exit_code=0 if status == "success" else 1)


def _built(made: Artifact, upload: bool, metadata: Mapping[str, Any] | None = None) -> Any:
    """Return W&B's artifact; its digest is that of the content, whether files are uploaded or referred to."""
    import wandb

    artifact = wandb.Artifact(made.name, type=made.kind, metadata={**made.metadata, **(metadata or {})})
    for name, path in made.paths.items():
        if not upload:
            artifact.add_reference(f"file://{path.absolute()}", name=name)
        elif path.is_dir():
            artifact.add_dir(str(path), name=name)
        else:
            artifact.add_file(str(path), name=name)
    return artifact
