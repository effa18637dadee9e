"""Files of documents: how kept documents become Parquet or JSON lines, and how small files are joined.

Row groups are cut where the text since the last cut reaches a fixed size, never where an upstream batch happened to end: the
same documents give the same bytes.
"""

from __future__ import annotations

import contextlib
import json
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
from curation.engine.member_kinds import MemberKinds

SUFFIXES = {"parquet": "parquet", "jsonl.zst": "jsonl.zst"}
ROW_GROUP_BYTES = 32 * 2**20  # of text, meta and a constant a row
_ROW_BYTES = 128
_ZSTD_LEVEL = 3


class DocumentFile:
    """Writes one file of documents; nothing is published unless `close` returns."""

    def __init__(self, path: str, file_format: str, members: tuple[str, ...] = ()) -> None:
        """`members` are columns that JSON lines get besides what the input had."""
        self.path, self.format = path, file_format
        self._members = members
        self.documents = 0
        self.text_bytes = 0
        self._ranks: tuple[int, int] | None = None  # of the first and the last document
        self._columns: dict[str, str] = {}  # of a table: name -> Arrow type
        self._kinds = MemberKinds()
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._commit: AbstractContextManager[str] | None = None
        self._sink: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Add documents; those that fill a row group are written."""
        ends = np.cumsum(_row_bytes(batch))
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
        if batch.num_rows:
            ranks = batch.column("rank")
            self._ranks = (ranks[0].as_py() if self._ranks is None else self._ranks[0], ranks[-1].as_py())
        self.documents += batch.num_rows
        self.text_bytes += pc.sum(pc.binary_length(batch.column("text"))).as_py() or 0

    def _flush(self) -> None:
        # One chunk: Parquet's pages would follow the borders of upstream batches.
        table = pa.Table.from_batches(self._waiting).combine_chunks()
        self._waiting, self._waiting_bytes = [], 0
        if self._sink is None:
            self._open(table.schema)
        if self.format == "parquet":
            self._sink.write_table(table, row_group_size=max(1, table.num_rows))
        else:
            # A frame a row group: readers may start at any of them, and files join by concatenation.
            self._sink.write(self._compressor.compress(_json_lines(table, self._members, self._kinds)))

    def _open(self, schema: pa.Schema) -> None:
        self._commit = storage.commit(self.path)
        self._temporary = temporary = self._commit.__enter__()
        if self.format == "parquet":
            self._columns = {field.name: str(field.type) for field in schema}
            self._sink = pq.ParquetWriter(
                temporary,
                schema,
                compression="zstd",
                compression_level=_ZSTD_LEVEL,
                use_dictionary=["source", "subset", "language"],
                write_statistics=["id", "rank", "source"],
            )
        else:
            self._sink = open(temporary, "wb")  # noqa: SIM115 - closed in close() or abandon()
            self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)

    def close(self) -> list[dict[str, Any]]:
        """Publish the file; a list of what it holds, empty when there was no document (documents come by rising rank)."""
        if self._waiting:
            self._flush()
        if self._commit is None:
            return []
        assert self._ranks is not None
        self._sink.close()
        sha256 = storage.sha256(self._temporary)
        self._commit.__exit__(None, None, None)
        return [
            {
                "path": self.path,
                "documents": self.documents,
                "text_bytes": self.text_bytes,
                "bytes": storage.file_size(self.path),
                "sha256": sha256,
                "first_rank": self._ranks[0],
                "last_rank": self._ranks[1],
                "columns": self._columns if self.format == "parquet" else self._kinds.kinds,
            }
        ]

    def abandon(self, error: BaseException) -> None:
        """Drop the unfinished file."""
        if self._commit is not None:
            with contextlib.suppress(Exception):
                self._sink.close()
            with contextlib.suppress(type(error)):
                self._commit.__exit__(type(error), error, error.__traceback__)


def _row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """What each row counts towards a row group, int64[n]."""
    text = np.asarray(pc.binary_length(batch.column("text")), dtype=np.int64)
    meta = np.asarray(pc.fill_null(pc.binary_length(batch.column("meta")), 0), dtype=np.int64)
    return text + meta + _ROW_BYTES


def _json_lines(table: pa.Table, stage_columns: tuple[str, ...], kinds: MemberKinds) -> bytes:
    """Documents in the input's layout: text and id under the input's own names, then its other members as they were read.

    The id is what removed/ and duplicates/ name; where the input has none of its own, it is added as `id`, unless another
    member may have that name. Stages that annotate or make columns add those.
    """
    members = [name for name in (*stage_columns, "component", "is_kept") if name in table.column_names]
    columns = [table[name].to_pylist() for name in ("text", "text_member", "id", "id_member", "meta", *members)]
    lines = []
    for text, text_member, own_id, id_member, meta, *values in zip(*columns, strict=True):
        if id_member is None and '"id"' not in (meta or ""):
            id_member = "id"
        written = {text_member: text} | ({id_member: own_id} if id_member else {})
        made = dict(zip(members, values, strict=True))
        if meta and any(f'"{name}"' in meta for name in members):
            meta = _without_members(meta, members)
        kinds.add(written)
        kinds.add_text(meta)
        kinds.add(made)
        line = orjson.dumps(written)[:-1]
        if meta and meta != "{}":
            line += b"," + meta[1:-1].encode()
        if members:
            line += b"," + orjson.dumps(made)[1:-1]
        lines.append(line + b"}")
    return b"\n".join(lines) + b"\n"


def _without_members(meta: str, names: list[str]) -> str:
    """The object without members that a stage makes anew: readers refuse two of one name."""
    try:
        left = {name: value for name, value in orjson.loads(meta).items() if name not in names}
        return orjson.dumps(left).decode()
    except ValueError:  # lone surrogates, NaN
        return json.dumps({name: value for name, value in json.loads(meta).items() if name not in names})


@dataclass(frozen=True)
class JoinTask:
    """Small files of the same split, to become one."""

    paths: tuple[str, ...]
    format: str
    output: str


def join_files(task: JoinTask) -> dict[str, Any]:
    """Concatenate: frames of compressed lines as they are, Parquet by cutting row groups anew."""
    if task.format != "parquet":
        with storage.commit(task.output) as temporary:
            with open(temporary, "wb") as sink:
                for path in task.paths:
                    sink.write(storage.read_bytes(path))
            sha256 = storage.sha256(temporary)
        return {"outputs": [task.output], "sha256": sha256}
    joined = DocumentFile(task.output, task.format)
    try:
        for path in task.paths:
            with storage.open_read(path) as source:
                file = pq.ParquetFile(source, pre_buffer=False)
                for group in range(file.num_row_groups):
                    for batch in file.read_row_group(group).to_batches():
                        joined.write(batch)
        (written,) = joined.close()
    except BaseException as error:
        joined.abandon(error)
        raise
    return {"outputs": [task.output], "sha256": written["sha256"]}
