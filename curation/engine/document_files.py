"""Files of documents: how kept documents become Parquet or JSON lines, and how small files are joined.

Row groups are cut where the text since the last cut reaches a fixed size, never where an upstream batch happened to end: the
same documents give the same bytes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from curation import storage

SUFFIXES = {"parquet": "parquet", "jsonl.zst": "jsonl.zst"}
ROW_GROUP_BYTES = 32 * 2**20  # text bytes of a row group
_ZSTD_LEVEL = 3


class DocumentFile:
    """Writes one file of documents; nothing is published unless `close` returns."""

    def __init__(self, path: str, file_format: str) -> None:
        self.path, self.format = path, file_format
        self.documents = 0
        self.text_bytes = 0
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._commit: AbstractContextManager[str] | None = None
        self._sink: Any = None
        self._file: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Add documents; those that fill a row group are written."""
        ends = np.cumsum(np.asarray(pc.binary_length(batch.column("text")), dtype=np.int64))
        start = 0
        while start < batch.num_rows:
            already = int(ends[start - 1]) if start else 0
            room = ROW_GROUP_BYTES - self._waiting_bytes
            stop = min(int(np.searchsorted(ends, already + room)) + 1, batch.num_rows)
            self._waiting.append(batch.slice(start, stop - start))
            self._waiting_bytes += int(ends[stop - 1]) - already
            if self._waiting_bytes >= ROW_GROUP_BYTES:
                self._flush()
            start = stop
        self.documents += batch.num_rows
        self.text_bytes += int(ends[-1]) if batch.num_rows else 0

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        if self._sink is None:
            self._open(table.schema)
        if self.format == "parquet":
            self._sink.write_table(table, row_group_size=max(1, table.num_rows))
        else:
            self._sink.write(_json_lines(table))

    def _open(self, schema: pa.Schema) -> None:
        self._commit = storage.commit(self.path)
        temporary = self._commit.__enter__()
        if self.format == "parquet":
            self._sink = pq.ParquetWriter(
                temporary,
                schema,
                compression="zstd",
                compression_level=_ZSTD_LEVEL,
                use_dictionary=["source", "subset", "language"],
                write_statistics=["id", "rank", "source"],
            )
        else:
            self._file = open(temporary, "wb")  # noqa: SIM115 - closed in close() or abandon()
            compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
            self._sink = compressor.stream_writer(self._file, closefd=False)

    def close(self) -> list[dict[str, Any]]:
        """Publish the file; a list of what it holds, empty when there was no document."""
        if self._waiting:
            self._flush()
        if self._commit is None:
            return []
        self._sink.close()
        if self._file is not None:
            self._file.close()
        self._commit.__exit__(None, None, None)
        size = storage.file_size(self.path)
        return [{"path": self.path, "documents": self.documents, "text_bytes": self.text_bytes, "bytes": size}]

    def abandon(self, error: BaseException) -> None:
        """Drop the unfinished file."""
        if self._commit is not None:
            if self._file is not None:
                self._file.close()
            self._commit.__exit__(type(error), error, error.__traceback__)


def _json_lines(table: pa.Table) -> bytes:
    """Documents in the input's layout: the text, then all other members of the record as they were read."""
    lines = []
    for text, meta in zip(table["text"].to_pylist(), table["meta"].to_pylist(), strict=True):
        members = meta[1:].encode() if meta and meta != "{}" else b"}"
        lines.append(b'{"text":' + orjson.dumps(text) + (b"," if len(members) > 1 else b"") + members)
    return b"\n".join(lines) + b"\n"


@dataclass(frozen=True)
class JoinTask:
    """Small files of the same split, to become one."""

    paths: tuple[str, ...]
    format: str
    output: str


def join_files(task: JoinTask) -> dict[str, Any]:
    """Concatenate: frames of compressed lines as they are, Parquet by cutting row groups anew."""
    if task.format != "parquet":
        with storage.commit(task.output) as temporary, open(temporary, "wb") as sink:
            for path in task.paths:
                sink.write(storage.read_bytes(path))
        return {"outputs": [task.output], "bytes": storage.file_size(task.output)}
    joined = DocumentFile(task.output, task.format)
    try:
        for path in task.paths:
            with storage.open_read(path) as source:
                for batch in pq.ParquetFile(source, pre_buffer=False).iter_batches():
                    joined.write(batch)
        (file,) = joined.close()
    except BaseException as error:
        joined.abandon(error)
        raise
    return {"outputs": [task.output], "bytes": file["bytes"]}
