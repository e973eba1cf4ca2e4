"""Files that hold an encoder or a model: tensors and plain metadata, loaded strictly."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from soscope.errors import ModelFileError

FORMAT_VERSION = 1


@dataclass
class Description:
    """What a saved network was made for.

    Attributes
    ----------
    kind
        ``encoder`` or ``model``.
    features
        Feature names per modality, in order.
    likelihoods
        Likelihood per modality.
    sizes
        Widths by name.
    """

    kind: str
    features: dict[str, list[str]]
    likelihoods: dict[str, str]
    sizes: dict[str, int]


def save_module(module: nn.Module, about: Description, path: Path) -> None:
    """Write a module's tensors with their description, beside ``path``, then rename."""
    content = {"format_version": FORMAT_VERSION, **vars(about), "state": module.state_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def load_module(module: nn.Module, expected: Description, path: Path) -> None:
    """Load tensors into ``module`` strictly.

    Raises
    ------
    ModelFileError
        Names the first feature, size or tensor shape that differs, or what else is wrong with the file.
    """
    content = read_module(path, expected.kind)
    for what in ("likelihoods", "sizes"):
        _same_mapping(content[what], getattr(expected, what), what, path)
    _same_features(content["features"], expected.features, path)
    load_tensors(module, content["state"], path)


def load_tensors(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors strictly; `ModelFileError` names the first whose shape differs."""
    _same_tensors(state, module.state_dict(), path)
    module.load_state_dict(dict(state))


def read_module(path: Path, kind: str) -> dict[str, Any]:
    """Return what a file holds: the fields of `Description`, and tensors as ``state``.

    Raises
    ------
    ModelFileError
        For a file that is missing, damaged, of another format or of another kind.
    """
    content = _read(path)
    if content.get("format_version") != FORMAT_VERSION:
        raise ModelFileError(
            f"'{path}' has format {content.get('format_version')}, this soscope reads {FORMAT_VERSION}. Train it again."
        )
    if content["kind"] != kind:
        raise ModelFileError(f"'{path}' holds a {content['kind']}, expected a {kind}.")
    return content


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelFileError(f"'{path}' does not exist. Run the stage that writes it first.")
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ModelFileError(f"'{path}' cannot be read ({type(error).__name__}). Delete it and train again.") from error


def _same_mapping(found: Mapping[str, Any], expected: Mapping[str, Any], what: str, path: Path) -> None:
    for key in sorted(set(found) | set(expected)):
        if found.get(key) != expected.get(key):
            raise ModelFileError(
                f"'{path}' does not fit: {what} '{key}' is {found.get(key)} in the file, {expected.get(key)} in this run."
            )


def _same_features(found: Mapping[str, list[str]], expected: Mapping[str, list[str]], path: Path) -> None:
    _same_mapping(dict.fromkeys(found, "there"), dict.fromkeys(expected, "there"), "modality", path)
    for modality, names in expected.items():
        other = found[modality]
        for i, (ours, theirs) in enumerate(zip(names, other, strict=False)):
            if ours != theirs:
                raise ModelFileError(
                    f"'{path}' does not fit: feature {i} of '{modality}' is '{theirs}' in the file, '{ours}' in this run."
                )
        if len(names) != len(other):
            longer, where = (names, "run") if len(names) > len(other) else (other, "file")
            extra = longer[min(len(names), len(other))]
            raise ModelFileError(
                f"'{path}' does not fit: '{modality}' has {len(other)} features in the file, {len(names)} in this run "
                f"(only in the {where}: '{extra}')."
            )


def _same_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    for name in sorted(set(found) | set(expected)):
        ours = tuple(expected[name].shape) if name in expected else "absent"
        theirs = tuple(found[name].shape) if name in found else "absent"
        if ours != theirs:
            raise ModelFileError(f"'{path}' does not fit: tensor '{name}' is {theirs} in the file, {ours} in this run.")
