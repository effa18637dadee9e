"""What readers take and give: which columns mean what, a piece of a file, a batch of records, and what was wrong."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

RAW_BYTES = 65_536  # of a bad record that are kept
BATCH_BYTES = 4 * 2**20  # raw bytes of a batch


@dataclass(frozen=True)
class Columns:
    """Members (or columns) of a record by meaning; `subset`, `by` and the lifted paths may be dotted (`meta.url`)."""

    text: str = "text"
    id: str | None = None
    subset: str | None = None
    by: str | None = None
    lifted: tuple[tuple[str, str], ...] = ()  # (column of the output, path)


@dataclass(frozen=True)
class Piece:
    """A part of a file that one task reads: records at positions in [start, end); end -1 means the end of the file.

    A record's position is its row, or in JSON lines the offset of its line in the decompressed stream: a line belongs
    to the piece that it starts in. `path` of a Hugging Face data set is its name or directory, a slash, and the split.
    """

    path: str
    format: str
    start: int = 0
    end: int = -1


@dataclass(frozen=True)
class BadRecord:
    """A record that was read whole but cannot be used; or, with `is_rest`, all of a file from there on, which cannot be read."""

    position: int
    reason: str
    raw: bytes  # its first 64 KB
    lost_bytes: int  # the record's own size; of a rest the bytes of the file, which may be compressed
    is_rest: bool = False
    n_records: int | None = None  # of a rest, where the format tells
    stage: str | None = None  # that failed on a document which was read well
    id: str | None = None  # of such a document


@dataclass(frozen=True)
class Batch:
    """Consecutive records: n good ones, and the bad ones among them."""

    positions: np.ndarray  # uint64[n], ascending
    texts: pa.LargeStringArray  # no nulls
    ids: pa.Array | None = None  # strings, when the input has an id column
    by: pa.Array | None = None  # strings and nulls, when the source is split by a value
    details: pa.RecordBatch | None = None  # subset, url, language, meta (strings), then the lifted columns (float64)
    bad: list[BadRecord] = field(default_factory=list)
    bytes_read: int = 0  # raw bytes that the batch covers


def empty_batch(bad: list[BadRecord]) -> Batch:
    """A batch without good records."""
    return Batch(np.zeros(0, np.uint64), pa.array([], pa.large_string()), bad=bad)


def bad_record(position: int, reason: str, raw: bytes) -> BadRecord:
    """A record that was read whole but cannot be used."""
    return BadRecord(position, reason, raw[:RAW_BYTES], max(1, len(raw)))
