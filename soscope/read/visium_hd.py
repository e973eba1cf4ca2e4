"""Space Ranger ``outs`` folders of Visium HD: bins of 2, 8 or 16 um."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from spatialdata import SpatialData

from soscope import contract
from soscope.errors import ConfigError, DataError
from soscope.names import section_name
from soscope.read.base import (
    RawSection,
    Reader,
    as_image,
    check_ids,
    check_inside,
    check_names,
    existing_folder,
    split_modalities,
)
from soscope.read.slides import open_slide
from soscope.read.visium import plain, read_scales, under_tissue

BINS, COUNTS, POSITIONS = "binned_outputs", "filtered_feature_bc_matrix.h5", "spatial/tissue_positions.parquet"
SCALES, HIRES, SLICE = "spatial/scalefactors_json.json", "tissue_hires_image.png", "feature_slice.h5"
NEEDED = ("spot_diameter_fullres", "tissue_hires_scalef", "bin_size_um", "microns_per_pixel")
WHAT = f"a Space Ranger 'outs' folder of Visium HD, with {SLICE} and {BINS}"


@dataclass
class VisiumHdReader(Reader, name="visium_hd"):
    """Read one bin size of a Visium HD folder with spatialdata-io; bins are the spots.

    Attributes
    ----------
    bin_um
        2, 8 or 16, of the bins the folder has.
    image_file
        Full-resolution image or slide, the one positions are pixels of; the hires image is taken without it.
    """

    bin_um: int = 8
    image_file: str | None = None

    def inputs(self, path: Path | None) -> list[Path]:
        """List matrix, positions and scale factors of the bins, the feature slice, and the image used."""
        folder = existing_folder(path, WHAT)
        slices = sorted(folder.glob(f"*{SLICE}"))
        if len(slices) != 1:
            raise DataError(f"'{folder}': {len(slices)} files *{SLICE}, expected one. Point data.path at {WHAT}.")
        bins = self._bins(folder)
        image = Path(self.image_file).expanduser() if self.image_file else self._hires(folder)
        files = [bins / COUNTS, bins / POSITIONS, bins / SCALES, slices[0], image]
        for file in files:
            if not file.is_file():
                raise DataError(f"'{folder}': '{file}' is missing. Point data.path at {WHAT}.")
        return files

    def read(self, path: Path | None) -> RawSection:
        """Read one folder; only bins under tissue are kept."""
        folder = existing_folder(path, WHAT)
        inputs = self.inputs(folder)
        scales, section = read_scales(inputs[2], NEEDED), section_name(folder)
        with contract.quiet():
            sdata = self._open(folder)
        table = sdata.tables[self._bins(folder).name]
        check_names(table, f"section '{section}'")
        check_ids(table, f"'{inputs[0]}'")
        table = under_tissue(table, f"'{inputs[1]}'")
        image, scale = self._image(sdata, scales)
        xy_px = np.asarray(table.obsm["spatial"], dtype=np.float64) * scale
        check_inside(xy_px, image, f"section '{section}', {inputs[-1].name}")
        tables = {name: plain(part) for name, part in split_modalities(table).items()}
        facts = {"reader": "visium_hd", "image_source": inputs[-1].name, "files": [str(f) for f in inputs]}
        radius, names = scales["spot_diameter_fullres"] / 2 * scale, table.obs_names.tolist()
        pitch_um = float(self.bin_um)
        return RawSection(
            contract.new_section(section, image, names, xy_px, radius, tables, pitch_um=pitch_um, **facts)
        )

    def _bins(self, folder: Path) -> Path:
        bins = folder / BINS / f"square_{self.bin_um:03}um"
        if not bins.is_dir():
            there = sorted(int(f.name[7:10]) for f in (folder / BINS).glob("square_[0-9][0-9][0-9]um"))
            if not there:
                raise DataError(f"'{folder}': no bins in '{BINS}'. Point data.path at {WHAT}.")
            raise ConfigError(
                f"'{folder}' has no bins of data.options.bin_um={self.bin_um} um. Choose from: {', '.join(map(str, there))}."
            )
        return bins

    def _hires(self, folder: Path) -> Path:
        found = sorted(folder.rglob(HIRES))
        if not found:
            raise DataError(f"'{folder}': no image. Looked for {HIRES}; name another with data.options.image_file=...")
        return found[0]

    def _open(self, folder: Path) -> SpatialData:
        import spatialdata_io

        try:
            with redirect_stdout(io.StringIO()):  # it prints when a folder has segmentations, which are not used
                return spatialdata_io.visium_hd(
                    folder, bin_size=self.bin_um, bins_as_squares=False, load_segmentations_only=False, gex_only=False
                )
        except Exception as error:
            raise DataError(
                f"'{folder}' cannot be read ({type(error).__name__}: {error}). A file may be truncated, or matrix, positions "
                "and scale factors may belong to different bins: compare with the original."
            ) from error

    def _image(self, sdata: SpatialData, scales: dict[str, float]) -> tuple[np.ndarray, float]:
        """Return the image and its pixels per full-resolution pixel."""
        if self.image_file:
            return open_slide(Path(self.image_file).expanduser(), scales["spot_diameter_fullres"])
        name = next(name for name in sdata.images if name.endswith("_hires_image"))
        return as_image(np.asarray(sdata.images[name].data), f"'{HIRES}'"), scales["tissue_hires_scalef"]
