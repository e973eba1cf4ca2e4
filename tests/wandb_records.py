"""Read what W&B writes offline, without W&B's own reader, which versions place differently: a LevelDB log of protobuf records."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_HEADER, BLOCK = 7, 32768
RECORD_HEADER = struct.Struct("<IHB")  # checksum, length, kind
FULL, LAST = 1, 4  # kinds that end a record; 2 and 3 begin and go on with one


def read_records(file: Path) -> Iterator[Any]:
    """Go through the records of one ``run-*.wandb``."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = file.read_bytes(), FILE_HEADER, b""
    while at + RECORD_HEADER.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < RECORD_HEADER.size:  # a header never crosses blocks
            at += left
            continue
        _, length, kind = RECORD_HEADER.unpack_from(data, at)
        at += RECORD_HEADER.size
        parts += data[at : at + length]
        at += length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def read_artifacts(file: Path) -> list[Any]:
    """Return the artifacts in one ``run-*.wandb``, in the order they were logged or used."""
    return [r.artifact for r in read_records(file) if r.WhichOneof("record_type") == "artifact"]
