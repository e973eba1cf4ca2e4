"""Checks of positions, pixels and lattice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image
from scipy.spatial import cKDTree

from soscope.affine import fit_affine
from soscope.conf_files import conf_dir
from soscope.doctor.examined import Examined
from soscope.doctor.findings import NOTE, SERIOUS, WARNING, Seen, check
from soscope.errors import DataError
from soscope.lattice import make_lattice
from soscope.read.visium import IMAGES, SCALES

SIZES_AGREE = 1.05
"""Ratio of the sizes of the full image that two scale factors may imply."""
FINEST_UM = 0.2
"""Micrometres per pixel below which the pitch is doubtful: slides are scanned at 0.25 (40x)."""
FEWEST_PX = 6
"""Pixels of a spot's width below which its patches show next to nothing."""


@check("refused by prepare")
def would_be_refused(section: Examined) -> Seen:
    """Whatever `prepare` refuses; for a platform that contradicts the array, those that would not."""
    if section.refusal is None:
        return
    fix = "As the message says; training would stop there."
    if section.placed is None:
        fitting = fitting_platforms(section)
        fix = f"Platforms whose lattice fits: {', '.join(f'platform={p}' for p in fitting) or 'none that come with soscope'}."
    yield SERIOUS, str(section.refusal), fix


def fitting_platforms(section: Examined) -> list[str]:
    """Return the platforms that come with soscope whose lattice the section's positions follow."""
    files = sorted((conf_dir() / "platform").glob("*.yaml"))
    return [f.stem for f in files if _fits(section, str(OmegaConf.load(f)["lattice"]))]  # type: ignore[index]


def _fits(section: Examined, lattice_name: str) -> bool:
    lattice, obs = make_lattice(lattice_name), section.table.obs
    if not {"array_row", "array_col"} <= set(obs):
        return False
    row, col = (obs[key].to_numpy().astype(np.int64) for key in ("array_row", "array_col"))
    if lattice.contradiction(row, col):
        return False
    try:
        fit_affine(lattice.unit_xy(row, col), section.xy_px, "", "")
    except DataError:
        return False
    return True


@check("two spots in one place")
def shared_places(section: Examined) -> Seen:
    """Spots nearer to each other than half the pitch."""
    pairs = cKDTree(section.xy_px).query_pairs(0.5 * section.pitch_px or 1e-6, output_type="ndarray")
    if not len(pairs):
        return
    a, b = (section.table.obs_names[i] for i in pairs[0])
    seen = f"{len(pairs):,} pairs of spots lie less than half a pitch apart (first: '{a}' and '{b}')"
    yield SERIOUS, seen, "A position occurs twice: keep one row a spot in the positions."


@check("scale factors", "image")
def scale_factors(section: Examined) -> Seen:
    """Images of one slide at two resolutions, with their scale factors, come from a full image of one size."""
    file = next((Path(f) for f in section.facts.get("files", []) if str(f).endswith(SCALES)), None)
    if file is None or not file.is_file():  # a section that was written elsewhere, or moved
        return
    scales, folder = json.loads(file.read_text()), file.parents[1]
    full = {}
    for kind, name in IMAGES.items():
        if (folder / name).is_file():
            with Image.open(folder / name) as image:
                full[kind] = max(image.size) / scales[f"tissue_{kind}_scalef"]
    if len(full) < 2 or max(full.values()) < SIZES_AGREE * min(full.values()):
        return
    yield (
        SERIOUS,
        f"the full-resolution image would be {full['hires']:,.0f} px by tissue_hires_scalef={scales['tissue_hires_scalef']:g}, "
        f"and {full['lowres']:,.0f} px by tissue_lowres_scalef={scales['tissue_lowres_scalef']:g}: one scale factor is another "
        "image's",
        _scale_fix(full, scales),
    )


def _scale_fix(full: dict[str, float], scales: dict[str, float]) -> str:
    """Say what either scale factor would be if the other one is right."""
    ratio = full["hires"] / full["lowres"]
    return (
        f"In spatial/scalefactors_json.json: tissue_hires_scalef {scales['tissue_hires_scalef'] * ratio:.6g} if the lowres one "
        f"is right, or tissue_lowres_scalef {scales['tissue_lowres_scalef'] / ratio:.6g} if the hires one is."
    )


@check("pixels", "image", "lattice")
def pixel_size(section: Examined) -> Seen:
    """Micrometres per pixel, by the pitch of platform and positions, and how many pixels wide a spot and a patch are."""
    platform, placed = section.cfg.platform, section.placed
    if placed is None or section.image is None:
        return
    um, pitch = placed.um_per_px, platform.pitch_um / placed.um_per_px
    spot = (platform.spot_diameter_um or platform.pitch_um) / um
    patch = (section.cfg.image.patch_width_um or placed.subspot_pitch_um) / um
    height, width = section.image.shape[1:]
    seen = (
        f"pitch {pitch:.1f} px = {platform.pitch_um:g} um, so {um:.3g} um per pixel; the image is {width * um / 1000:.2f} x "
        f"{height * um / 1000:.2f} mm; a spot is {spot:.1f} px wide, an image patch {patch:.1f} px"
    )
    yield NOTE, seen, ""
    if um < FINEST_UM:
        fix = "Check the platform: platform.pitch_um=N sets another pitch."
        yield WARNING, f"{um:.3g} um per pixel is finer than a slide scanner's", fix
    if spot < FEWEST_PX:
        fix = "Give the full-resolution image: data.options.image_file=FILE. Or widen patches: image.patch_width_um=N."
        yield WARNING, f"a spot is {spot:.1f} px wide: its patches show little but a mean colour", fix
