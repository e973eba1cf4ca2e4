"""Platform folders and files to SpatialData. Importing this package registers the readers."""

from soscope.read.base import READERS, RawSection, Reader, make_reader
from soscope.read.dbit import DbitReader
from soscope.read.demo import DemoReader
from soscope.read.h5ad import AnnDataReader
from soscope.read.released import ReleasedReader
from soscope.read.section import SectionReader
from soscope.read.spatialdata_zarr import SpatialDataReader
from soscope.read.st import StReader
from soscope.read.table import TableReader
from soscope.read.truth import read_truth
from soscope.read.visium import VisiumReader
from soscope.read.visium_hd import VisiumHdReader
from soscope.read.xenium import XeniumReader

__all__ = [
    "READERS",
    "AnnDataReader",
    "DbitReader",
    "DemoReader",
    "RawSection",
    "Reader",
    "ReleasedReader",
    "SectionReader",
    "SpatialDataReader",
    "StReader",
    "TableReader",
    "VisiumHdReader",
    "VisiumReader",
    "XeniumReader",
    "make_reader",
    "read_truth",
]
