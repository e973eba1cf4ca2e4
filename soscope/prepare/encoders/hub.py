"""What to say when a model cannot be fetched from the Hugging Face hub."""

from __future__ import annotations

import re

from soscope.errors import DataError

GATED = (
    "MahmoodLab/UNI",
    "MahmoodLab/UNI2-h",
    "MahmoodLab/CONCH",
    "bioptimus/H-optimus-0",
    "bioptimus/H-optimus-1",
    "bioptimus/H0-mini",
    "paige-ai/Virchow",
    "paige-ai/Virchow2",
    "prov-gigapath/prov-gigapath",
)
"""Pathology encoders whose weights are handed out on request, so that the message says so even offline."""


def is_on_hub(model: str) -> bool:
    """Return whether a name is one of the hub, or of a folder laid out like its."""
    return re.match(r"(hf[-_]hub|local-dir):", model) is not None


def unreachable(model: str, error: Exception) -> DataError:
    """Return the message for a model whose weights cannot be had: how to get access, and the way without internet."""
    from huggingface_hub.errors import GatedRepoError

    repo = re.sub(r"^[\w-]+:|@.*$", "", model)
    reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no details'}"
    access = ""
    if _caused_by(error, GatedRepoError) or repo in GATED:
        access = (
            f"It is handed out on request: ask for access on https://huggingface.co/{repo}, then log in on this machine with "
            "`hf auth login` (`huggingface-cli login` in older versions). "
        )
    return DataError(
        f"image.model='{model}' cannot be fetched ({reason}). {access}Without internet, copy its weights from a machine that has "
        "them and give image.weights=FILE (.safetensors, .bin, .pt), for a model of the hub with its network in timm, such as "
        "+image.options.architecture=vit_large_patch16_224; or use image=efficientnet_lite0, which needs no download."
    )


def _caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False
