"""Pictures of an enhanced section: `soscope.pl`. squidpy, scanpy and spatialdata-plot draw its tables too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from spatialdata import SpatialData

from soscope import contract
from soscope.errors import DataError
from soscope.report import figures
from soscope.report.canvas import Canvas

__all__ = ["maps"]


def maps(
    sdata: SpatialData,
    features: str | Sequence[str] | None = None,
    modality: str | None = None,
    n_features: int = 3,
    save: str | Path | None = None,
    show: bool = True,
    dpi: int = 110,
) -> np.ndarray | None:
    """Draw a row per feature: tissue, observed spots, enhanced subspots, and their standard deviation.

    Parameters
    ----------
    sdata
        An enhanced section: what `soscope.tl.enhance` returns for a section, or ``spatialdata.read_zarr`` of a run's result.
    features
        Names; the first ``n_features`` of the table by default, which are the most spatially variable where the model chose.
    modality
        The table; by default the first that has all the features.
    n_features
        How many are drawn where none are named.
    save
        File to write, of a kind that matplotlib knows by its ending.
    show
        Whether to show the figure now. If not, the axes are returned.
    dpi
        Dots per inch of the file.

    Returns
    -------
    With ``show=False`` the axes, ``(n_features, 4)``, 3 without a tissue image; their figure is ``axes[0, 0].figure``.

    Raises
    ------
    DataError
        For a section that is not enhanced, and features that were not.
    """
    import matplotlib.pyplot as plt

    wanted = [features] if isinstance(features, str) else None if features is None else list(features)
    modality = _modality(sdata, wanted, modality)
    table = sdata.tables[contract.enhanced_name(modality)]
    names = table.var_names[:n_features].tolist() if wanted is None else wanted
    share = figures.equal_share(sdata, modality, names)
    mean, sd = figures.columns(table, names), figures.columns(table, names, "sd")
    canvas = Canvas.of(sdata)
    n_maps, words = figures.n_maps(canvas), figures.words_of(sdata, modality)
    size = (n_maps * figures.MAP_INCHES, len(names) * figures.MAPS_HEIGHT)
    figure, axes = plt.subplots(len(names), n_maps, figsize=size, dpi=dpi, layout="constrained", squeeze=False)
    for i, feature in enumerate(names):
        figures.draw_feature(axes[i], canvas, feature, words, share[:, i], mean[:, i], sd[:, i])
    if save is not None:
        figure.savefig(Path(save).expanduser(), dpi=dpi)
    if not show:
        return axes
    plt.show()
    return None


def _modality(sdata: SpatialData, wanted: list[str] | None, modality: str | None) -> str:
    """Return the table to draw; `DataError` where there is none that holds the features."""
    if not isinstance(sdata, SpatialData):
        raise DataError(
            f"maps are drawn of an enhanced section, found {type(sdata).__name__}. Draw tables with squidpy, or "
            "give soscope.tl.enhance the section that soscope.pp.to_section makes of your data."
        )
    section = contract.facts(sdata)["section"]
    enhanced = [m for m in contract.modalities(sdata) if contract.enhanced_name(m) in sdata.tables]
    if not enhanced:
        raise DataError(f"section '{section}' is not enhanced: no table '..._enhanced'. Run soscope.tl.enhance first.")
    if modality is not None and modality not in enhanced:
        raise DataError(
            f"section '{section}' has no enhanced table of '{modality}'. Choose from: {', '.join(enhanced)}."
        )
    names = {m: sdata.tables[contract.enhanced_name(m)].var_names for m in ([modality] if modality else enhanced)}
    if wanted is not None and not wanted:
        raise DataError("features=[] leaves nothing to draw. Name some, or leave it out.")
    found = next((m for m, known in names.items() if set(wanted or []) <= set(known)), None)
    if found is None:
        table = next(iter(names))
        unknown = next(f for f in wanted or [] if f not in names[table])
        raise DataError(
            f"section '{section}': '{unknown}' was not enhanced, or not in the table of the others. Choose from {table}: "
            f"{', '.join(names[table][:8])}, ..."
        )
    return found
