"""Build and colour the layers of a result as napari-spatialdata does, without a window.

    QT_QPA_PLATFORM=offscreen python scripts/check_napari.py RUN/SECTION.zarr

Needs 'napari-spatialdata[all]' and not soscope. Stops where an element cannot be built, a table is not offered, or a colour is
not that of its value.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
from napari.components import ViewerModel
from napari.utils.events import EventedList
from napari_spatialdata._sdata_widgets import SdataWidget
from napari_spatialdata._view import QtAdataViewWidget
from qtpy.QtWidgets import QApplication
from spatialdata import SpatialData, read_zarr


def open_layers(viewer: ViewerModel, sdata: SpatialData) -> QtAdataViewWidget:
    """Add every element in its first coordinate system, and build it in the others."""
    panel = SdataWidget(viewer, EventedList([sdata]))
    view = QtAdataViewWidget(
        viewer, panel.viewer_model.model
    )  # before there are layers, as napari-spatialdata opens it
    for system in sorted(sdata.coordinate_systems):
        for name in [*sdata.images, *sdata.shapes]:
            build = panel.viewer_model.get_sdata_image if name in sdata.images else panel._get_shapes
            layer = build(sdata, name, system, False)
            print(f"{system}: {name} as {type(layer).__name__}, tables {layer.metadata.get('table_names')}")
            if name not in viewer.layers:
                viewer.add_layer(layer)
    return view


def check_colours(viewer: ViewerModel, view: QtAdataViewWidget, sdata: SpatialData, element: str, table: str) -> None:
    """Colour an element by a feature of a table and of each of its layers; stop where colours are not those of the values."""
    viewer.layers.selection.select_only(viewer.layers[element])
    view.table_name_widget.setCurrentText(table)
    if view.var_widget.count() != sdata[table].n_vars:
        sys.exit(f"{element}: {view.var_widget.count()} features are offered, {table} has {sdata[table].n_vars}")
    feature = sdata[table].var_names[0]
    for layer in ["X", *sdata[table].layers]:
        view.var_widget.setAdataLayer(layer)
        view.var_widget._onAction((feature,))
        values = sdata[table].to_df(None if layer == "X" else layer)[feature].to_numpy(float)
        expected = mpl.colormaps["viridis"]((values - values.min()) / max(np.ptp(values), 1e-12))
        np.testing.assert_allclose(viewer.layers[element].face_color, expected, atol=1e-6)
        print(f"{element}: coloured by {table}, {layer}, {feature}")
    view.var_widget.setAdataLayer("X")


def main() -> None:
    application = QApplication(sys.argv)
    ViewerModel.window = SimpleNamespace(add_dock_widget=lambda *_, **__: None)  # panels go nowhere
    print(*(f"{name} {version(name)}" for name in ("napari", "napari-spatialdata", "spatialdata")), sep=", ")
    sdata, viewer = read_zarr(sys.argv[1]), ViewerModel()
    view = open_layers(viewer, sdata)
    for table in sdata.tables:
        if table != "image_features":
            check_colours(viewer, view, sdata, str(sdata[table].obs["region"].iloc[0]), table)
    application.quit()


if __name__ == "__main__":
    main()
