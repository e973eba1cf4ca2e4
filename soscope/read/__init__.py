"""Platform folders and files to SpatialData. Importing this package registers the readers."""

from soscope.read.base import READERS, RawSection, Reader, make_reader
from soscope.read.demo import DemoReader
from soscope.read.released import ReleasedReader
from soscope.read.section import SectionReader
from soscope.read.st import StReader
from soscope.read.truth import read_truth
from soscope.read.visium import VisiumReader

__all__ = [
    "READERS",
    "DemoReader",
    "RawSection",
    "Reader",
    "ReleasedReader",
    "SectionReader",
    "StReader",
    "VisiumReader",
    "make_reader",
    "read_truth",
]
