"""The first pass: read a unit, run the stages over it, and leave what the global decisions need.

A unit becomes one part, or several when it turns out long (a large compressed file): a part covers about `part_bytes` of raw
text, so memory does not grow with the file.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from curation import formats, storage
from curation.engine.part_writer import FirstPassTask, PartWriter
from curation.engine.stage_pass import needs_columns
from curation.formats.records import BadRecord, Batch, Piece

_READ_ATTEMPTS = 5
_SECONDS_BEFORE_RETRY = 0.2  # four times as long before each further one: 17 s in all
# The file is not there or not ours to read: no use in trying again. Anything else may pass, and must not cost documents.
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def first_pass(task: FirstPassTask) -> dict[str, Any]:
    """Read a unit and commit its parts.

    A file that is not there or may not be read is quarantined as a whole; any other failure of reading is tried again, and
    raised in the end, since quarantining it would make the output depend on the weather.
    """
    for attempt in range(_READ_ATTEMPTS - 1):
        try:
            return _read_unit(task)
        except _UnreadableError:
            time.sleep(_SECONDS_BEFORE_RETRY * 4**attempt)
    return _read_unit(task)


class _UnreadableError(OSError):
    """A failure of reading the input, as opposed to one of writing the output."""


def _read_unit(task: FirstPassTask) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    part = PartWriter(task, 0)
    digests: dict[int, str] = {}
    left = task.limit
    for number, piece in enumerate(task.unit.pieces):
        for batch in _batches(task, number, piece, digests):
            if left is not None:
                batch = _cut(batch, left)
                left -= len(batch.texts)
            part.add(number, batch)
            if part.raw_bytes >= task.part_bytes:
                parts.append(part.close())
                part = PartWriter(task, len(parts))
            if left == 0:
                break
        if left == 0:
            break
    if part.n_documents or part.bad or not parts:
        parts.append(part.close())
    return {
        "outputs": [path for part in parts for path in part.pop("outputs")],
        "parts": parts,
        "modified_ns": [file.info.mtime_ns for file in task.unit.files],
        "digests": {str(number): digest for number, digest in digests.items()},
        "unreadable": task.limit is None and len(digests) < len(task.unit.pieces),
    }


def _batches(task: FirstPassTask, number: int, piece: Piece, digests: dict[int, str]) -> Iterator[Batch]:
    """The piece's batches; a file that is not there or may not be read becomes one bad record."""
    file = task.unit.files[number]
    try:
        reader = formats.read(
            piece,
            task.columns,
            maximum_document_bytes=task.maximum_document_bytes,
            with_details=bool(task.keep_columns) or needs_columns(task.stages),
        )
        yield from reader
        if task.limit is None:
            digests[number] = reader.digest
    except OSError as error:
        # A store also refuses when credentials ran out, which must not cost documents either.
        lasting = FileNotFoundError if storage.is_remote(piece.path) else _LASTING
        if not isinstance(error, lasting) and error.errno != errno.ELOOP:
            raise _UnreadableError(f"{piece.path} cannot be read: {error}") from error
        reason = f"cannot be read: {error.strerror or error}"
        lost = file.info.size if piece.end == -1 else piece.end - piece.start
        bad = [BadRecord(max(piece.start, 0), reason, b"", lost, is_rest=True)]
        yield Batch(np.zeros(0, np.uint64), pa.array([], pa.large_string()), None, None, None, bad, 0)


def piece_digests(task: FirstPassTask) -> dict[str, Any]:
    """The digests that `first_pass` would record: whether touched files still hold the same bytes."""
    digests: dict[int, str] = {}
    for number, piece in enumerate(task.unit.pieces):
        for _ in _batches(task, number, piece, digests):
            pass
    return {"digests": {str(number): digest for number, digest in digests.items()}}


def _cut(batch: Batch, n: int) -> Batch:
    if len(batch.texts) <= n:
        return batch
    ids, by = (None if array is None else array.slice(0, n) for array in (batch.ids, batch.by))
    details = batch.details.slice(0, n) if batch.details is not None else None
    bad = [record for record in batch.bad if record.position < int(batch.positions[n])]
    return Batch(batch.positions[:n], batch.texts.slice(0, n), ids, by, details, bad, batch.bytes_read)
