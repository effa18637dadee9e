"""The first pass: read a unit, run the stages over it, and leave what the global decisions need.

A unit becomes one part, or several when it turns out long (a large compressed file): a part covers about `part_bytes` of raw
text, so memory does not grow with the file. For each part:

  KEY-N.arrays   a row a document (position, file, text bytes, split, source, which map stage removes it) and, for each global
                 stage, its records sorted by key with an offset table of key prefixes
  KEY-N.texts    the texts that stages changed (Arrow IPC, LZ4: three times as fast as zstd here)
  KEY-N.bad      records that could not be read
  KEY-N.ids      the input's own ids
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
import zstandard

from curation import formats, storage
from curation.documents import MAXIMUM_POSITION, DocumentBatch
from curation.engine.array_file import write_arrays
from curation.engine.plan import Unit
from curation.formats.records import BadRecord, Batch, Columns, Piece
from curation.stages import GlobalStage, MapStage, Stage
from curation.stages.exact import text_hashes

IDS = "@ids"  # records of the input's own ids, to find one that occurs twice
KEPT = 255  # `removed_by` of a document that no map stage removes
PREFIX_BITS = 12  # a segment's offset table has this many bits of the key: up to 4,096 partitions
SPLITS = ("train", "validation", "test")
_READ_ATTEMPTS = 5
_SECONDS_BEFORE_RETRY = 0.2  # four times as long before each further one: 17 s in all
MOST_SOURCES = 1000
# The file is not there or not ours to read: no use in trying again. Anything else may pass, and must not cost documents.
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
_SAMPLE_BYTES = 2**18
_TEXTS_SCHEMA = pa.schema([("row", pa.uint32()), ("text", pa.large_string())])
BAD_SCHEMA = pa.schema(
    [("source", pa.string()), ("path", pa.string()), ("offset", pa.uint64()), ("reason", pa.string()), ("bytes", pa.binary())]
)


@dataclass(frozen=True)
class FirstPassTask:
    """The argument of `first_pass`."""

    unit: Unit
    stages: list[Stage]
    columns: Columns
    output: str  # outputs are this and "-N.arrays", ...
    part_bytes: int
    maximum_document_bytes: int
    seed: int
    shares: dict[str, float]  # held out, by split
    keep_columns: tuple[str, ...] = ()  # lifted columns that a keep rule compares
    limit: int | None = None  # read no more documents than this


@dataclass
class _Rows:
    """Growing columns of a part; arrays are joined when the part closes."""

    arrays: dict[str, list[np.ndarray]] = field(default_factory=dict)

    def add(self, name: str, values: np.ndarray) -> None:
        self.arrays.setdefault(name, []).append(values)

    def joined(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate(values) for name, values in self.arrays.items()}


class _Part:
    """A part while it is being read."""

    def __init__(self, task: FirstPassTask, number: int) -> None:
        self.task = task
        self.path = f"{task.output}-{number:04d}"
        self.rows = _Rows()
        self.records: dict[str, _Rows] = {stage.name: _Rows() for stage in task.stages if isinstance(stage, GlobalStage)}
        self.texts: list[pa.RecordBatch] = []
        self.bad: list[tuple[str, BadRecord]] = []
        self.ids: list[pa.Array] = []
        self.sources: dict[str, int] = {}  # name -> code
        self.counts: Counter[str] = Counter()
        self.by_source: dict[str, Counter[str]] = {}
        self.n_documents = 0
        self.raw_bytes = 0
        # What the unread rests of files hold beyond the bad record that says so: counted, or as raw bytes (estimated).
        self.unread_records = 0
        self.unread_bytes = 0
        self.compression_sample = (0, 0)

    def add(self, piece_number: int, batch: Batch) -> None:
        """Run the stages over a batch and keep what they leave."""
        task, n = self.task, len(batch.texts)
        relative = task.unit.files[piece_number].relative
        self.bad.extend((relative, record) for record in batch.bad)
        for rest in (record for record in batch.bad if record.is_rest):
            if rest.n_records is None:
                self.unread_bytes += int(rest.lost_bytes * task.unit.files[piece_number].expansion)
            else:
                self.unread_records += max(0, rest.n_records - 1)
        self.raw_bytes += batch.bytes_read
        if not n:
            return
        if int(batch.positions[-1]) >= MAXIMUM_POSITION:
            raise ValueError(f"{relative} is longer than the {MAXIMUM_POSITION} positions that a rank can number; split the file")
        original = DocumentBatch(batch.positions, batch.texts)
        documents, removed_by = self._through_stages(original)
        self._keep_changed_texts(original, documents, removed_by)
        if not self.n_documents:
            self.compression_sample = _compressed(documents)
        codes = self._source_codes(batch)
        hashes = text_hashes(documents, np.arange(n), task.seed)["key"] if task.shares else np.zeros(n, np.uint64)
        self.rows.add("position", batch.positions)
        self.rows.add("file", np.full(n, piece_number, np.uint32))
        self.rows.add("text_bytes", documents.text_bytes.astype(np.uint32))
        self.rows.add("removed_by", removed_by)
        self.rows.add("split", _splits(hashes, task.shares))
        self.rows.add("source", codes)
        if batch.ids is not None:
            self.ids.append(batch.ids.cast(pa.large_string()))
            records = {**id_hashes(batch.ids), "row": np.arange(self.n_documents, self.n_documents + n, dtype=np.uint32)}
            for name, values in records.items():
                self.records.setdefault(IDS, _Rows()).add(name, values)
        for name in task.keep_columns:
            assert batch.details is not None
            column = pc.cast(batch.details.column(name), pa.float64())
            self.rows.add(f"column.{name}", column.to_numpy(zero_copy_only=False))
        self._count(documents, codes)
        self.n_documents += n

    def _through_stages(self, documents: DocumentBatch) -> tuple[DocumentBatch, np.ndarray]:
        removed_by = np.full(len(documents), KEPT, np.uint8)
        for index, stage in enumerate(self.task.stages):
            if isinstance(stage, MapStage):
                result = stage.apply(documents)
                documents = result.documents
                if result.removed is not None:
                    removed_by[(removed_by == KEPT) & result.removed] = index
                if result.measure is not None:
                    self.rows.add(f"measure.{stage.name}", result.measure.astype(np.float32))
            elif isinstance(stage, GlobalStage):
                observed = stage.observe(documents, removed_by == KEPT)
                observed["row"] = observed["row"] + np.uint32(self.n_documents)
                for name, values in observed.items():
                    self.records[stage.name].add(name, values)
        return documents, removed_by

    def _keep_changed_texts(self, before: DocumentBatch, after: DocumentBatch, removed_by: np.ndarray) -> None:
        if after.texts is not before.texts:
            changed = np.asarray(pc.not_equal(before.texts, after.texts)) & (removed_by == KEPT)
            rows = np.flatnonzero(changed)
            if len(rows):
                columns = [pa.array(rows + self.n_documents, pa.uint32()), after.texts.take(pa.array(rows))]
                self.texts.append(pa.record_batch(columns, schema=_TEXTS_SCHEMA))

    def _source_codes(self, batch: Batch) -> np.ndarray:
        """Each document's source as an index into this part's list of source names."""
        default = self._code(self.task.unit.source)
        if batch.by is None:
            return np.full(len(batch.texts), default, np.uint16)
        encoded = batch.by.dictionary_encode()
        names = [self._code(name) for name in encoded.dictionary.to_pylist()]
        codes = np.array([*names, default], np.uint16)
        return codes[encoded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)]

    def _code(self, name: str) -> int:
        code = self.sources.setdefault(name, len(self.sources))
        if code >= MOST_SOURCES:
            raise ValueError(
                f"`by: {self.task.columns.by}` makes more than {MOST_SOURCES} sources of {self.task.unit.source}; "
                "name a member with few values"
            )
        return code

    def _count(self, documents: DocumentBatch, codes: np.ndarray) -> None:
        """Documents and bytes of each source."""
        text_bytes = documents.text_bytes
        names = list(self.sources)
        for code in np.flatnonzero(np.bincount(codes)).tolist():
            counter = self.by_source.setdefault(names[code], Counter())
            mine = codes == code
            counter["documents"] += int(mine.sum())
            counter["bytes"] += int(text_bytes[mine].sum())

    def close(self) -> dict[str, Any]:
        """Commit the part's files; what the driver needs to know of it."""
        arrays = {**self._empty_columns(), **self.rows.joined()}
        outputs = [f"{self.path}.arrays"]
        for name, records in self.records.items():
            arrays.update({f"{name}.{key}": values for key, values in sorted_segment(records.joined()).items()})
        if self.ids:
            joined = pa.concat_arrays(self.ids)
            write_ipc(f"{self.path}.ids", pa.schema([("id", pa.large_string())]), [pa.record_batch([joined], ["id"])])
            outputs.append(f"{self.path}.ids")
        if self.texts:
            write_ipc(f"{self.path}.texts", _TEXTS_SCHEMA, self.texts)
            outputs.append(f"{self.path}.texts")
        if self.bad:
            write_ipc(f"{self.path}.bad", BAD_SCHEMA, [_bad_batch(self.task.unit.source, self.bad)])
            outputs.append(f"{self.path}.bad")
        # Written last: what stands beside it counts only when it is named here, not when an earlier attempt left it.
        write_arrays(f"{self.path}.arrays", arrays, {"sources": list(self.sources), "beside": [_suffix(o) for o in outputs[1:]]})
        alive = arrays["removed_by"] == KEPT
        return {
            "path": self.path,
            "outputs": outputs,
            "n_documents": self.n_documents,
            "raw_bytes": self.raw_bytes,
            "text_bytes": int(arrays["text_bytes"][alive].sum()),
            "bad_records": len(self.bad),
            "lost_bytes": sum(record.lost_bytes for _, record in self.bad),
            "bad_record_bytes": sum(record.lost_bytes for _, record in self.bad if not record.is_rest),
            "unread_bytes": self.unread_bytes,
            "unread_records": self.unread_records,
            "bad_by_source": {self.task.unit.source: len(self.bad)} if self.bad else {},
            "bad_by_reason": Counter(record.reason.split(":")[0] for _, record in self.bad),
            "first_bad": [f"{self.task.unit.source}/{path} at {record.position}: {record.reason}" for path, record in self.bad[:3]],
            "by_source": {name: dict(counter) for name, counter in self.by_source.items()},
            "removed": {name: int((arrays["removed_by"] == index).sum()) for index, name in self._map_stages()},
            "records": {name: len(arrays.get(f"{name}.key", ())) for name in self.records},
            "sources": list(self.sources),
            "compression_sample": self.compression_sample,
        }

    def _empty_columns(self) -> dict[str, np.ndarray]:
        """The columns of a part without documents."""
        kinds = {"position": np.uint64, "file": np.uint32, "text_bytes": np.uint32, "removed_by": np.uint8}
        kinds |= {"split": np.uint8, "source": np.uint16}
        return {name: np.zeros(0, kind) for name, kind in kinds.items()}

    def _map_stages(self) -> list[tuple[int, str]]:
        stages = enumerate(self.task.stages)
        return [(index, stage.name) for index, stage in stages if isinstance(stage, MapStage)] if self.n_documents else []


def _suffix(path: str) -> str:
    return path.rsplit(".", 1)[1]


def _compressed(documents: DocumentBatch) -> tuple[int, int]:
    """(bytes, compressed bytes) of a sample of the texts, to foresee the size of output files."""
    data = documents.utf8[0][:_SAMPLE_BYTES]
    return len(data), len(zstandard.ZstdCompressor(level=3).compress(data.tobytes())) if len(data) else 0


def id_hashes(ids: pa.Array) -> dict[str, np.ndarray]:
    """128-bit XXH3 of ids as "key" (high) and "low" halves, uint64[n]."""
    hashed = b"".join(xxhash.xxh3_128_digest(value.encode()) for value in ids.to_pylist())
    halves = np.frombuffer(hashed, ">u8").reshape(-1, 2).astype(np.uint64)
    return {"key": np.ascontiguousarray(halves[:, 0]), "low": np.ascontiguousarray(halves[:, 1])}


def sorted_segment(records: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Records sorted by (key, row), with "prefix": uint64[4097] offsets of the key's top 12 bits."""
    if not records:
        records = {"key": np.zeros(0, np.uint64), "row": np.zeros(0, np.uint32)}
    order = np.argsort(records["key"], kind="stable")
    records = {name: values[order] for name, values in records.items()}
    bounds = np.arange(1 << PREFIX_BITS, dtype=np.uint64) << np.uint64(64 - PREFIX_BITS)
    starts = np.searchsorted(records["key"], bounds)
    return {**records, "prefix": np.append(starts, len(order)).astype(np.uint64)}


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
    part = _Part(task, 0)
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
                part = _Part(task, len(parts))
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
            with_details=bool(task.keep_columns),
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


def _splits(hashes: np.ndarray, shares: dict[str, float]) -> np.ndarray:
    """The split of each document: validation and test take the lowest shares of the hash's range, train the rest.

    >>> _splits(np.array([0, 2**63], dtype=np.uint64), {"validation": 0.25}).tolist()
    [1, 0]
    """
    place = hashes.astype(np.float64) / 2.0**64
    validation = shares.get("validation", 0.0)
    splits = np.where(place < validation, 1, np.where(place < validation + shares.get("test", 0.0), 2, 0))
    return splits.astype(np.uint8)


def _bad_batch(source: str, bad: list[tuple[str, BadRecord]]) -> pa.RecordBatch:
    columns = [
        [source] * len(bad),
        [path for path, _ in bad],
        [record.position for _, record in bad],
        [record.reason for _, record in bad],
        [record.raw for _, record in bad],
    ]
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, BAD_SCHEMA, strict=True)], schema=BAD_SCHEMA)


def write_ipc(path: str, schema: pa.Schema, batches: list[pa.RecordBatch]) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with storage.commit(path) as temporary, pa.ipc.new_file(temporary, schema, options=options) as file:
        for batch in batches:
            file.write_batch(batch)


def read_ipc(path: str) -> pa.ipc.RecordBatchFileReader:
    """Open a file that `write_ipc` left."""
    return pa.ipc.open_file(pa.memory_map(path) if not storage.is_remote(path) else storage.open_read(path))
