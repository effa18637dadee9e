"""A part of the input as the first pass leaves it in work/: what the decisions need of its documents, and their second reading.

  KEY-N.arrays   a row a document (position, file, text bytes, split, source, which map stage removes it) and, for each global
                 stage, its records sorted by key with an offset table of key prefixes
  KEY-N.columns  the columns that user stages made, of documents that stay
  KEY-N.texts    the texts that stages changed (Arrow IPC, LZ4: three times as fast as zstd here)
  KEY-N.bad      records that could not be read
  KEY-N.ids      the input's own ids
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
import zstandard

from curation.documents import MAXIMUM_POSITION, DocumentBatch
from curation.engine.array_file import write_arrays
from curation.engine.ipc_file import write_ipc
from curation.engine.plan import Unit
from curation.engine.stage_pass import (
    KEPT,
    ROW,
    Measure,
    Passed,
    compared_column,
    document_batch,
    joined_columns,
    needs_columns,
    pass_stages,
    without,
)
from curation.formats.records import BadRecord, Batch, Columns
from curation.stages import DocumentFailuresError, GlobalStage, MapStage, Stage
from curation.stages.exact import text_hashes

IDS = "@ids"  # records of the input's own ids, to find one that occurs twice
PREFIX_BITS = 12  # a segment's offset table has this many bits of the key: up to 4,096 partitions
SPLITS = ("train", "validation", "test")
MOST_SOURCES = 1000
MOST_REASONS = 1000  # of all stages
_SAMPLE_BYTES = 2**18
_TEXTS_SCHEMA = pa.schema([("row", pa.uint32()), ("text", pa.large_string())])
BAD_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("path", pa.string()),
        ("offset", pa.uint64()),
        ("reason", pa.string()),
        ("bytes", pa.binary()),  # the raw record; the text of a document on which a stage failed
        ("id", pa.string()),  # of such a document
    ]
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


class PartWriter:
    """A part while it is being read; `close` commits its files."""

    def __init__(self, task: FirstPassTask, number: int) -> None:
        self.task = task
        self.path = f"{task.output}-{number:04d}"
        self.rows = _Rows()
        self.records: dict[str, _Rows] = {stage.name: _Rows() for stage in task.stages if isinstance(stage, GlobalStage)}
        self.texts: list[pa.RecordBatch] = []
        self.bad: list[tuple[int, BadRecord]] = []  # with the number of the piece
        self.columns: list[pa.Table] = []
        self.measures: dict[str, list[tuple[int, Measure]]] = {}  # by stage: (first row, what was measured from there on)
        self.reasons: dict[str, int] = {}  # those that stages give beside their own -> code, from 1
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
        task = self.task
        relative = task.unit.files[piece_number].relative
        self.bad.extend((piece_number, record) for record in batch.bad)
        for rest in (record for record in batch.bad if record.is_rest):
            if rest.n_records is None:
                self.unread_bytes += int(rest.lost_bytes * task.unit.files[piece_number].expansion)
            else:
                self.unread_records += max(0, rest.n_records - 1)
        self.raw_bytes += batch.bytes_read
        if len(batch.texts) and int(batch.positions[-1]) >= MAXIMUM_POSITION:
            raise ValueError(f"{relative} is longer than the {MAXIMUM_POSITION} positions that a rank can number; split the file")
        while len(batch.texts):
            original = document_batch(batch, task.unit.source, relative, needs_columns(task.stages))
            try:
                passed = pass_stages(task.stages, original)
            except DocumentFailuresError as error:
                batch, failed = without(batch, original, error)
                self.bad.extend((piece_number, record) for record in failed)
                continue
            self._keep(piece_number, batch, passed)
            return

    def _keep(self, piece_number: int, batch: Batch, passed: Passed) -> None:
        """Add what the stages left of a batch."""
        task, n, documents = self.task, len(batch.texts), passed.documents
        self._keep_changed_texts(batch.texts, documents, passed.removed_by)
        if not self.n_documents:
            self.compression_sample = _compressed(documents)
        codes = self._source_codes(batch)
        hashes = text_hashes(documents, np.arange(n), task.seed)["key"] if task.shares else np.zeros(n, np.uint64)
        self.rows.add("position", batch.positions)
        self.rows.add("file", np.full(n, piece_number, np.uint32))
        self.rows.add("text_bytes", documents.text_bytes.astype(np.uint32))
        self.rows.add("removed_by", passed.removed_by)
        self.rows.add("split", _splits(hashes, task.shares))
        self.rows.add("source", codes)
        self._keep_findings(passed)
        if batch.ids is not None:
            self.ids.append(batch.ids.cast(pa.large_string()))
            records = {**id_hashes(batch.ids), "row": np.arange(self.n_documents, self.n_documents + n, dtype=np.uint32)}
            for name, values in records.items():
                self.records.setdefault(IDS, _Rows()).add(name, values)
        for name in task.keep_columns:
            self.rows.add(f"column.{name}", compared_column(name, batch, passed))
        self._count(documents, codes)
        self.n_documents += n

    def _keep_findings(self, passed: Passed) -> None:
        """What single stages left: records of global ones, reasons, measures, columns and edits of map stages."""
        for name, observed in passed.observed.items():
            observed["row"] = observed["row"] + np.uint32(self.n_documents)
            for key, values in observed.items():
                self.records[name].add(key, values)
        for name, measure in passed.measures.items():
            self._check_measure(name, measure)
            self.measures.setdefault(name, []).append((self.n_documents, measure))
        if needs_columns(self.task.stages):
            codes = np.zeros(len(passed.documents), np.uint16)
            for row, reason in passed.reasons.items():
                codes[row] = self._reason_code(reason)
            self.rows.add("reason", codes)
        if passed.columns:
            rows = np.flatnonzero(passed.removed_by == KEPT)
            numbers = pa.array(rows + self.n_documents, pa.uint32())
            columns = {name: column.take(pa.array(rows)) for name, column in passed.columns.items()}
            self.columns.append(pa.table({ROW: numbers, **columns}))
        for name, edits in passed.edits.items():
            self.rows.add(f"edited.{name}.row", edits["row"] + np.uint32(self.n_documents))
            self.rows.add(f"edited.{name}.before", edits["before"])
            self.rows.add(f"edited.{name}.after", edits["after"])

    def _check_measure(self, name: str, measure: Measure) -> None:
        if name in self.measures:
            first = self.measures[name][0][1]
            if (first.threshold, first.unit) != (measure.threshold, measure.unit):
                raise ValueError(
                    f"{name}: the threshold is {first.threshold} {first.unit} in one batch and {measure.threshold} {measure.unit} "
                    "in the next; it may depend on the settings alone"
                )

    def _reason_code(self, reason: str) -> int:
        code = self.reasons.setdefault(reason, len(self.reasons) + 1)
        if code > MOST_REASONS:
            raise too_many_reasons(reason)
        return code

    def _keep_changed_texts(self, before: pa.LargeStringArray, after: DocumentBatch, removed_by: np.ndarray) -> None:
        if after.texts is not before:
            changed = np.asarray(pc.not_equal(before, after.texts)) & (removed_by == KEPT)
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
        arrays = {**self._empty_columns(), **self.rows.joined(), **self._measured()}
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
        columns = self._joined_columns()
        if columns is not None:
            write_ipc(f"{self.path}.columns", columns.schema, columns.to_batches())
            outputs.append(f"{self.path}.columns")
        # What stages failed on stands in the order of the file, like what could not be read.
        self.bad.sort(key=lambda item: (item[0], item[1].position))
        bad = [(self.task.unit.files[number].relative, record) for number, record in self.bad]
        if bad:
            write_ipc(f"{self.path}.bad", BAD_SCHEMA, [_bad_batch(self.task.unit.source, bad)])
            outputs.append(f"{self.path}.bad")
        # Written last: what stands beside it counts only when it is named here, not when an earlier attempt left it.
        meta = {
            "sources": list(self.sources),
            "beside": [_suffix(o) for o in outputs[1:]],
            "reasons": list(self.reasons),  # by code, from 1
            "measures": {name: {"unit": m.unit, "threshold": m.threshold} for name, [(_, m), *_] in self.measures.items()},
        }
        write_arrays(f"{self.path}.arrays", arrays, meta)
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
            "bad_by_source": {self.task.unit.source: len(bad)} if bad else {},
            "failed": Counter(record.stage for _, record in bad if record.stage),  # by stage, of those
            "bad_by_reason": Counter(record.reason.split(":")[0] for _, record in self.bad),
            "first_bad": [f"{self.task.unit.source}/{path} at {record.position}: {record.reason}" for path, record in bad[:3]],
            "by_source": {name: dict(counter) for name, counter in self.by_source.items()},
            "removed": {name: int((arrays["removed_by"] == index).sum()) for index, name in self._map_stages()},
            "records": {name: len(arrays.get(f"{name}.key", ())) for name in self.records},
            "sources": list(self.sources),
            "compression_sample": self.compression_sample,
            "reasons": list(self.reasons),
            "stage_columns": {} if columns is None else {f.name: str(f.type) for f in columns.schema if f.name != ROW},
            "edited": {stage.name: len(arrays.get(f"edited.{stage.name}.row", ())) for stage in self.task.stages},
        }

    def _measured(self) -> dict[str, np.ndarray]:
        """Measures of all rows, NaN where a stage did not look."""
        arrays = {}
        for name, pieces in self.measures.items():
            array = np.full(self.n_documents, np.nan)
            for start, measure in pieces:
                array[start : start + len(measure.values)] = measure.values
            arrays[f"measure.{name}"] = array
        return arrays

    def _joined_columns(self) -> pa.Table | None:
        """The columns that stages made. Raises ValueError when their types differ between batches."""
        if not self.columns:
            return None
        try:
            return joined_columns(self.columns)
        except ValueError as error:
            file = self.task.unit.files[0].info.path
            raise ValueError(f"{error}, in {file} or a file that is read with it; give pa.array(values, TYPE)") from None

    def _empty_columns(self) -> dict[str, np.ndarray]:
        """The columns of a part without documents."""
        kinds = {"position": np.uint64, "file": np.uint32, "text_bytes": np.uint32, "removed_by": np.uint8}
        kinds |= {"split": np.uint8, "source": np.uint16}
        return {name: np.zeros(0, kind) for name, kind in kinds.items()}

    def _map_stages(self) -> list[tuple[int, str]]:
        stages = enumerate(self.task.stages)
        return [(index, stage.name) for index, stage in stages if isinstance(stage, MapStage)] if self.n_documents else []


def too_many_reasons(last: str) -> ValueError:
    """What is raised past MOST_REASONS."""
    return ValueError(
        f"stages give more than {MOST_REASONS:,} different reasons, {last[:80]!r} among them; a reason names a kind of document, a "
        "column or the measure holds what is special to one"
    )


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
        [record.id for _, record in bad],
    ]
    return pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, BAD_SCHEMA, strict=True)], schema=BAD_SCHEMA)
