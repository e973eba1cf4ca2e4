"""Open a result in napari: python scripts/open_in_napari.py RUN/SECTION.zarr (needs napari-spatialdata and a screen)."""

from __future__ import annotations

import sys

import numpy as np
from spatialdata import SpatialData, read_zarr

from soscope import contract


def numbered_for_napari(sdata: SpatialData) -> SpatialData:
    """Number subspots in the loaded object, and in the tables on them, where they are called by name.

    napari-spatialdata (0.7.2) takes whole numbers alone as the index of polygons. The files stay as they are; names of
    subspots are still the row names of the tables.
    """
    subspots = sdata.shapes[contract.SUBSPOTS]
    number = dict(zip(subspots.index, range(len(subspots)), strict=True))
    subspots.index = np.arange(len(subspots))
    for table in sdata.tables.values():
        if (table.obs[contract.REGION] == contract.SUBSPOTS).all():
            table.obs[contract.INSTANCE] = [number[name] for name in table.obs[contract.INSTANCE]]
    return sdata


if __name__ == "__main__":
    try:
        from napari_spatialdata import Interactive
    except ImportError:
        sys.exit("open_in_napari needs: pip install 'napari-spatialdata[all]' (best in an environment of its own)")
    Interactive(numbered_for_napari(read_zarr(sys.argv[1]))).run()
