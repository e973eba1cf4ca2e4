"""Image encoders: from a section's image, or a file, to features of subspots; a new one is a class of ten lines."""

from soscope.prepare.encoders.base import ENCODERS, ImageEncoder, make_encoder
from soscope.prepare.encoders.networks import EfficientNetLite0, InceptionV3
from soscope.prepare.encoders.precomputed import Precomputed
from soscope.prepare.encoders.statistics import Color, NoImage
from soscope.prepare.encoders.timm_models import TimmModel

__all__ = [
    "ENCODERS",
    "Color",
    "EfficientNetLite0",
    "ImageEncoder",
    "InceptionV3",
    "NoImage",
    "Precomputed",
    "TimmModel",
    "make_encoder",
]
