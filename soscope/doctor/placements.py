"""Other places the spots could have on the image, and whether one of them fits better than the one given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from soscope.doctor.association import Association
from soscope.doctor.image_maps import ImageMaps
from soscope.doctor.orientations import AS_GIVEN, ORIENTATIONS, within_box, within_image

SHIFT_STEP, LARGEST_SHIFT = 2, 10
"""Pitches between shifts that are tried, and the largest."""
SCALES = np.geomspace(0.2, 5, 131)
"""Scales that are tried, 2.5 % apart; those within 10 % of one are left out."""
PER_TISSUE = 10.0
"""What all spots coming onto tissue counts, in standard deviations of the association's chance."""
TURN_GAIN, MOVE_GAIN = 3.0, 6.0
"""Standard deviations of chance by which another orientation, or one of many shifts and scales, has to be the better one."""
LEAST_Z, LEAST_R2 = 3.0, 0.1
"""What it has to reach itself."""
MOSTLY, WITHOUT_DOUBT = 0.85, 6.0
"""Share of spots on tissue; fewer are believed only of a placement so many standard deviations above chance."""
WITHIN_IMAGE = " within the image"


@dataclass(frozen=True)
class Placement:
    """A way to move all spots; ``fix`` says what has to be done if it is the right one."""

    words: str
    fix: str
    move: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Judged:
    """How well a placement fits.

    Attributes
    ----------
    placement
        What was judged.
    score
        Cross-validated R2 of profiles by the image.
    z
        The same in standard deviations of chance above chance's mean.
    on_tissue
        Share of spots on tissue.
    darkness_r
        Pearson correlation of log totals with darkness.
    """

    placement: Placement
    score: float
    z: float
    on_tissue: float
    darkness_r: float

    def better_than(self, other: Judged) -> float:
        """Return by how many standard deviations of chance this fits better, tissue that is covered counted in."""
        return self.z - other.z + PER_TISSUE * (self.on_tissue - other.on_tissue)

    @property
    def is_credible(self) -> bool:
        """Whether this could be the right placement, whatever it is compared with."""
        sure = self.on_tissue >= MOSTLY or self.z >= WITHOUT_DOUBT
        return sure and self.z >= LEAST_Z and self.score >= LEAST_R2

    def says(self) -> str:
        """Say what was measured."""
        return (
            f"{self.on_tissue:.0%} of spots on tissue, R2 of profiles by the image {self.score:.2f} "
            f"({self.z:.1f} sd above chance), r of log totals with darkness {self.darkness_r:.2f}"
        )


class Judge:
    """Judges placements of one section against what chance gives at the placement it came with.

    Parameters
    ----------
    maps, association
        What the image shows, and the profiles of spots or of blocks of them.
    spots_px
        Centres of all spots, ``(n_spots, 2)``: orientations within their box turn about its centre.
    side
        Spots along a block.
    """

    def __init__(self, maps: ImageMaps, association: Association, spots_px: np.ndarray, side: int = 1) -> None:
        self.maps, self.association = maps, association
        scores = association.chance(maps.features(association.xy))
        self.chance_mean, self.chance_sd = float(scores.mean()), float(scores.std())
        self.given = self(Placement(AS_GIVEN.words, "", lambda xy: xy))
        orientations = oriented(maps.size_px, spots_px.min(0), spots_px.max(0))
        self.turned = [self(p) for p in orientations]
        self.others = [self(p) for p in (*shifted(association.pitch, side), *scaled())]

    def __call__(self, placement: Placement) -> Judged:
        """Judge one placement."""
        xy = placement.move(self.association.xy)
        score = self.association.score(self.maps.features(xy))
        above = score - self.chance_mean
        z = above / self.chance_sd if self.chance_sd > 1e-9 else 0.0
        r = _correlation(self.maps.darkness(xy), self.association.targets[:, 0])
        return Judged(placement, score, z, float(self.maps.on_tissue(xy).mean()), r)

    @property
    def in_image(self) -> list[Judged]:
        """The eight orientations within the image, the given one first."""
        return [self.given, *self.turned[: len(self.turned) // 2]]

    def better(self) -> Judged | None:
        """Return the placement that fits clearly better than the one given, if there is one; turns go before moves."""
        for candidates, gain in ((self.turned, TURN_GAIN), (self.others, MOVE_GAIN)):
            credible = [c for c in candidates if c.is_credible and c.better_than(self.given) >= gain]
            if credible:
                return max(credible, key=lambda judged: judged.better_than(self.given))
        return None


def oriented(size_px: np.ndarray, low: np.ndarray, high: np.ndarray) -> Iterator[Placement]:
    """Go through the seven other orientations, within the image and within the box of the spots."""
    for o in ORIENTATIONS[1:]:
        fix = (
            f"Bring the image under the positions with Pillow's Image.transpose(Transpose.{o.image}) and read that file, or "
            f"give positions {o.words} within it."
        )
        yield Placement(f"{o.words}{WITHIN_IMAGE}", fix, lambda xy, o=o: within_image(xy, o, size_px))  # type: ignore[misc]
    for o in ORIENTATIONS[1:]:
        fix = f"Give positions that are {o.words}: array and pixel coordinates, or the barcodes, run the other way."
        yield Placement(f"{o.words} within their own box", fix, lambda xy, o=o: within_box(xy, o, low, high))  # type: ignore[misc]


def shifted(pitch: float, side: int = 1) -> Iterator[Placement]:
    """Go through shifts by whole pitches, of blocks ``side`` spots wide where spots are pooled."""
    steps = np.arange(-LARGEST_SHIFT, LARGEST_SHIFT + 1, SHIFT_STEP)
    for x, y in ((x, y) for x in steps for y in steps if x or y):
        sideways = f"{abs(x) * side} pitches to the {'right' if x > 0 else 'left'}"
        words = f"moved by about {sideways} and {abs(y) * side} {'down' if y > 0 else 'up'}"
        fix = "Use the image these positions were measured on; if it is, barcodes and positions are out of step by some rows."
        yield Placement(words, fix, lambda xy, x=x, y=y: xy + [x * pitch, y * pitch])  # type: ignore[misc]


def scaled() -> Iterator[Placement]:
    """Go through scales about the origin of the image."""
    for scale in SCALES[abs(np.log(SCALES)) > 0.1]:
        fix = (
            f"Multiply the scale factor of this image by about {scale:.2f} (Space Ranger: spatial/scalefactors_json.json), or "
            "name the image the positions are pixels of (data.options.image_file=FILE)."
        )
        yield Placement(f"scaled by about {scale:.2f}", fix, lambda xy, s=scale: xy * s)  # type: ignore[misc]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-5 and b.std() > 1e-5 else 0.0
