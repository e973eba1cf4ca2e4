"""Processes that train together: which is which, waiting, and results shared out between them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from soscope.split import Split

POLL, PATIENCE = 0.05, 3600.0
"""Seconds between two looks whether another process has finished a part, and until it is given up."""

Splits = dict[str, Split]


def is_main_process() -> bool:
    """Tell whether this process writes: the only one, or the first of several that train together."""
    return getattr(rank_zero_only, "rank", 0) == 0


def wait_for_all() -> None:
    """Let processes that train together meet, so that one reads what another has written."""
    if _together():
        torch.distributed.barrier()


def rank_and_size() -> tuple[int, int]:
    """Return this process's number and how many there are."""
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if _together() else (0, 1)


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def shared_out(do: Callable[[np.ndarray], Splits], parts: Sequence[np.ndarray], folder: Path) -> Iterator[Splits]:
    """Divide parts of a section in turn on all processes; the main one gets every result in order, the others nothing.

    Parameters
    ----------
    do, parts
        What is done with what; the same on all processes.
    folder
        Where results pass from one process to another, a file each, removed once read. Only this run may write there.
    """
    rank, size = rank_and_size()
    if size == 1:
        yield from map(do, parts)
        return
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    wait_for_all()
    for i, part in enumerate(parts):
        file = folder / f"{i}.npz"
        if i % size == rank and rank:
            _hand_over(do(part), file)
        elif not rank:
            yield do(part) if i % size == 0 else _take(file)
    wait_for_all()
    if rank == 0:
        shutil.rmtree(folder, ignore_errors=True)


def _hand_over(splits: Splits, file: Path) -> None:
    partial = file.with_suffix(".partial")
    arrays = {f"{m}/{name}": value for m, split in splits.items() for name, value in split.to_arrays().items()}
    with partial.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]
    partial.replace(file)


def _take(file: Path) -> Splits:
    start = time.monotonic()
    while not file.is_file():
        if time.monotonic() - start > PATIENCE:
            raise RuntimeError(f"another process has not written '{file}' within an hour: it has probably died.")
        time.sleep(POLL)
    arrays: dict[str, dict[str, np.ndarray]] = {}
    with np.load(file, allow_pickle=False) as found:
        for key in found.files:
            modality, name = key.split("/", 1)
            arrays.setdefault(modality, {})[name] = found[key]
    file.unlink()
    return {m: Split.from_arrays(a) for m, a in arrays.items()}
