"""Checks of the image against the spots: is it theirs, and does it lie under them."""

from __future__ import annotations

from soscope.doctor.examined import Examined
from soscope.doctor.findings import NOTE, SERIOUS, WARNING, Seen, check

BLANK_SD, MOST, SOME = 2.0, 0.2, 0.05
"""Grey levels of standard deviation below which a window one pitch wide is blank, and shares of spots that matter."""
LEAST_WINDOW_PX = 3
"""Pixels of a window's side below which their standard deviation says nothing."""
LEAST_ON_TISSUE, HARDLY_ON_TISSUE = 0.5, 0.2
ASSOCIATED, SURELY = 2.5, 3.0
"""Standard deviations above chance below which profiles do not follow the image, and from which there is no doubt."""
ENOUGH_SPOTS = 150
"""Spots from which the lack of any association is serious."""
NO_IMAGE = "If there is no other image: image=none, which splits spots by position alone."


@check("image")
def image_is_there(section: Examined) -> Seen:
    """An image, where the config encodes one."""
    brings = section.placed is not None and section.placed.given is not None
    if section.image is None and section.looks_at_image and not brings:
        yield SERIOUS, "the section has no image, and the config encodes one", "image=none"


@check("blank patches", "image", "spots")
def blank_patches(section: Examined) -> Seen:
    """Windows around spots without any texture."""
    if section.maps.window_px < LEAST_WINDOW_PX:
        width = f"{section.maps.window_px} px"
        yield NOTE, f"not looked at: a window one pitch wide is {width}, too few to have texture", ""
        return
    share = float((section.maps.texture(section.xy_px) < BLANK_SD).mean())
    if share > SOME:
        severity = SERIOUS if share > MOST else WARNING
        seen = f"the image is blank (standard deviation below {BLANK_SD:g} grey levels) at {share:.0%} of spots"
        yield severity, seen, f"Name the image that shows the tissue. {NO_IMAGE}"


@check("spots on tissue", "image", "spots")
def spots_on_tissue(section: Examined) -> Seen:
    """Spots on the background of the image; Otsu's threshold may part pale tissue from dark, so half of them is no fault."""
    share = float(section.maps.on_tissue(section.xy_px).mean())
    if share < LEAST_ON_TISSUE:
        severity = SERIOUS if share < HARDLY_ON_TISSUE else WARNING
        seen = f"{share:.0%} of spots lie on tissue ({section.maps.tissue.mean():.0%} of the image is tissue)"
        yield severity, seen, f"Look at the overlay: another image, scale or orientation. {NO_IMAGE}"


@check("orientation and place", "image", "spots")
def placement(section: Examined) -> Seen:
    """The placement given against the other orientations, shifts and scales."""
    better = section.judge.better()
    if better is not None:
        seen = f"spots fit the image better {better.placement.words}: {better.says()}; as given: {section.judge.given.says()}"
        yield SERIOUS, seen, better.placement.fix


@check("image and profiles", "image", "spots")
def association(section: Examined) -> Seen:
    """Profiles that follow the image no more than unrelated ones of the same smoothness would."""
    given = section.judge.given
    if given.z < ASSOCIATED:
        severity = SERIOUS if section.table.n_obs >= ENOUGH_SPOTS else WARNING
        seen = (
            f"profiles do not follow this image more than chance: {given.says()}, {ASSOCIATED:g} sd expected at least"
        )
        yield severity, seen, f"Is it the image of another section? {NO_IMAGE}"
    elif given.z < SURELY:
        yield (
            WARNING,
            f"profiles follow this image hardly more than chance: {given.says()}",
            "Look at the overlay with care.",
        )
    else:
        yield NOTE, f"profiles follow the image: {given.says()}", ""
