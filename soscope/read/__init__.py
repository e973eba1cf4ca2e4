"""Platform folders and files to SpatialData. Importing this package registers the readers."""

from soscope.read.base import READERS, RawSection, Reader, make_reader
from soscope.read.demo import DemoReader
from soscope.read.visium import VisiumReader

__all__ = ["READERS", "DemoReader", "RawSection", "Reader", "VisiumReader", "make_reader"]
