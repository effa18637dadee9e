"""The second pass: read the input again and write every document once, with its columns; record what was removed.

A task covers consecutive parts and leaves, by split, one or more finished files of `documents/`, its rows of `removed/` and
`duplicates/` (one batch for each of their partitions), and its records of `quarantine/`. Where a file of documents ends
depends on kept bytes at the ends of parts, and row groups on document bytes: neither on who did the work.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
import zstandard

from curation import storage
from curation.documents import SCHEMA, document_id
from curation.engine.array_file import ArrayFile
from curation.engine.first_pass import BAD_SCHEMA, KEPT, SPLITS, _write_ipc, read_ipc
from curation.engine.parts import Part, Rows, read_rows
from curation.formats.records import Columns
from curation.stages import GlobalStage, MapStage, Stage

_ROW_GROUP_BYTES = 32 * 2**20  # text bytes of a row group
_ZSTD_LEVEL = 3
REMOVED_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("subset", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("duplicate_of", pa.string()),
        ("similarity", pa.float32()),
        ("detail", pa.string()),
        ("text_bytes", pa.uint64()),
    ]
)
DUPLICATES_SCHEMA = pa.schema([("duplicate_of", pa.string()), ("id", pa.string()), ("stage", pa.string())])


@dataclass(frozen=True)
class FileTable:
    """Where a rank lies: for each file number its source and relative path; enough to name any document without an id column."""

    sources: tuple[str, ...]
    relatives: tuple[str, ...]

    def document_ids(self, ranks: np.ndarray) -> list[str]:
        """The ids of the documents with these ranks (uint64)."""
        files, positions = (ranks >> np.uint64(40)).tolist(), (ranks & np.uint64((1 << 40) - 1)).tolist()
        return [document_id(self.sources[f], self.relatives[f], p) for f, p in zip(files, positions, strict=True)]


@dataclass(frozen=True)
class SecondPassTask:
    """The argument of `second_pass`."""

    parts: tuple[Part, ...]
    stages: list[Stage]
    decisions: tuple[tuple[int, str], ...]  # (index of a global stage, its decisions file), in stage order
    files: str  # a pickled FileTable
    columns: dict[str, Columns]
    maximum_document_bytes: int
    format: str
    close_text_bytes: int  # a file of documents ends at the end of the part that reaches this much text
    n_partitions: int  # of removed/ and duplicates/
    excerpts: tuple[int, ...]  # numbers of documents whose first characters the summary shows
    output: str


def second_pass(task: SecondPassTask) -> dict[str, Any]:
    """Write the documents of the task's parts, and the record of those that go."""
    states = [_Decided(task, part) for part in task.parts]
    wanted = [state.wanted_rows() for state in states]
    writers = {split: _SplitWriter(task, split) for split in SPLITS}
    log = _RemovalLog(task)
    excerpts: dict[str, str] = {}
    seen: set[int] = set()
    current = 0
    for rows in read_rows(list(task.parts), wanted, task.columns, task.maximum_document_bytes, with_details=True):
        while current < rows.part:
            _finish_part(writers)
            current += 1
        state = states[rows.part]
        seen.add(rows.part)
        _write_kept(state, rows, writers)
        log.add(state, rows.rows, rows)
        excerpts.update(state.excerpts(rows))
    for index, state in enumerate(states):
        if not state.columns.subset:
            log.add(state, np.arange(state.part.n_documents), None)
    outputs: dict[str, Any] = {"documents": {}, "outputs": []}
    for split, writer in writers.items():
        files = writer.close()
        outputs["documents"][split] = files
        outputs["outputs"] += [file["path"] for file in files]
    outputs["removed"] = log.close()
    outputs["outputs"] += [path for path in outputs["removed"].values() if path]
    outputs["quarantine"] = _quarantine(task)
    outputs["outputs"] += [outputs["quarantine"]] if outputs["quarantine"] else []
    outputs["kept"] = _kept_counts(states)
    outputs["excerpts"] = excerpts
    return outputs


class _Decided:
    """A part with all decisions about its documents."""

    def __init__(self, task: SecondPassTask, part: Part) -> None:
        self.task, self.part = task, part
        self.columns = task.columns[part.unit.source]
        arrays = part.arrays()
        n = part.n_documents
        self.arrays = arrays
        self.sources: list[str] = arrays.meta["sources"]
        self.removed_by = arrays.read("removed_by").astype(np.int64)
        self.removed_by[self.removed_by == KEPT] = len(task.stages)
        self.text_bytes = arrays.read("text_bytes")
        self.split = arrays.read("split")
        self.source = arrays.read("source")
        self.kept_rank = np.zeros(n, np.uint64)
        self.similarity = np.full(n, np.nan, np.float32)
        self.duplicate_ids: dict[int, str] = {}
        self.n_duplicates = np.zeros(n, np.uint32)
        self.annotations: list[tuple[str, np.ndarray, np.ndarray]] = []
        for index, path in task.decisions:
            self._apply(index, path)
        self.kept = self.removed_by == len(task.stages)

    def _apply(self, index: int, path: str) -> None:
        file = ArrayFile(path)
        base, n = self.part.base, self.part.n_documents
        stage = self.task.stages[index]
        annotate = getattr(stage.settings, "action", "remove") == "annotate"
        start, stop = _range(file.read("removed"), base, n)
        rows = (file.read("removed", start, stop) - np.uint64(base)).astype(np.int64)
        if annotate:
            self._annotate(stage.name, file)
        else:
            effective = self.removed_by[rows] > index
            rows = rows[effective]
            self.removed_by[rows] = index
            self.kept_rank[rows] = file.read("kept_rank", start, stop)[effective]
            self.similarity[rows] = file.read("similarity", start, stop)[effective]
            if storage.exists(f"{path}.ids"):
                ids = read_ipc(f"{path}.ids").read_all()["id"].slice(start, stop - start).to_pylist()
                self.duplicate_ids.update(zip(rows.tolist(), np.array(ids, object)[effective], strict=True))
        start, stop = _range(file.read("copies_of"), base, n)
        rows = (file.read("copies_of", start, stop) - np.uint64(base)).astype(np.int64)
        self.n_duplicates[:] = 0
        self.n_duplicates[rows] = file.read("n_duplicates", start, stop)

    def _annotate(self, name: str, file: ArrayFile) -> None:
        start, stop = _range(file.read("member"), self.part.base, self.part.n_documents)
        rows = (file.read("member", start, stop) - np.uint64(self.part.base)).astype(np.int64)
        component = self.part.ranks(self.arrays)
        component[rows] = file.read("component_rank", start, stop)
        is_kept = np.ones(self.part.n_documents, bool)
        is_kept[rows] = file.read("is_kept", start, stop)
        self.annotations.append((name, component, is_kept))

    def wanted_rows(self) -> np.ndarray:
        """Rows that have to be read again: the kept ones, what the summary shows, and all when removed rows need a subset."""
        wanted = self.kept.copy()
        if self.columns.subset:
            wanted[:] = True
        for number in self.task.excerpts:
            if 0 <= number - self.part.base < self.part.n_documents:
                wanted[number - self.part.base] = True
        return np.flatnonzero(wanted)

    def excerpts(self, rows: Rows) -> dict[str, str]:
        """The beginnings of the texts that the summary shows, by document number."""
        found = {}
        for number in self.task.excerpts:
            at = np.searchsorted(rows.rows, number - self.part.base)
            if at < len(rows.rows) and rows.rows[at] == number - self.part.base:
                found[str(number)] = rows.texts[int(at)].as_py()[:300]
        return found


def _range(values: np.ndarray, base: int, n: int) -> tuple[int, int]:
    start, stop = np.searchsorted(values, np.array([base, base + n], np.uint64)).tolist()
    return start, stop


def _write_kept(state: _Decided, rows: Rows, writers: dict[str, _SplitWriter]) -> None:
    kept = np.flatnonzero(state.kept[rows.rows])
    if not len(kept):
        return
    chosen = rows.rows[kept]
    take = pa.array(kept)
    details = rows.details
    assert details is not None
    names = np.array(state.sources, object)[state.source[chosen]]
    columns: dict[str, pa.Array] = {
        "id": pa.array(state.part.ids(state.arrays, chosen), pa.string()),
        "rank": pa.array(state.part.ranks(state.arrays, chosen)),
        "text": rows.texts.take(take),
        "source": pa.array(names, pa.string()),
    }
    for name in ("subset", "url", "language", "meta"):
        columns[name] = details.column(name).take(take)
    for name, _ in state.columns.lifted:
        columns[name] = details.column(name).take(take)
    if state.task.decisions:
        columns["n_duplicates"] = pa.array(state.n_duplicates[chosen])
    for _, component, is_kept in state.annotations:
        columns["component"] = pa.array(component[chosen])
        columns["is_kept"] = pa.array(is_kept[chosen])
    batch = pa.RecordBatch.from_pydict(columns)
    splits = state.split[chosen]
    for code, split in enumerate(SPLITS):
        mine = np.flatnonzero(splits == code)
        if len(mine) == len(splits):
            writers[split].write(batch)
        elif len(mine):
            writers[split].write(batch.take(pa.array(mine)))


def _finish_part(writers: dict[str, _SplitWriter]) -> None:
    """At the end of a part every split's file ends together, so that files of the splits cover the same ranges."""
    if sum(writer.text_bytes for writer in writers.values()) >= writers["train"].task.close_text_bytes:
        for writer in writers.values():
            writer.roll()


class _SplitWriter:
    """Writes the documents of one split; rows gather until a row group's worth of text is there."""

    def __init__(self, task: SecondPassTask, split: str) -> None:
        self.task, self.split = task, split
        self.files: list[dict[str, Any]] = []
        self.text_bytes = 0
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0
        self._commit: Any = None
        self._sink: Any = None
        self._roll_number = 0
        self._documents = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add documents; row groups are cut exactly where the text since the last cut reaches the limit."""
        sizes = np.asarray(pa.compute.binary_length(batch.column("text")))
        start, ends = 0, np.cumsum(sizes)
        self.text_bytes += int(ends[-1])
        while True:
            already = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, already + _ROW_GROUP_BYTES - self._waiting_bytes)) + 1
            piece = batch.slice(start, stop - start)
            self._waiting.append(piece)
            if stop > batch.num_rows:
                self._waiting_bytes += int(ends[-1]) - already
                return
            self._flush()
            start = stop
            if start == batch.num_rows:
                return

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.Table.from_batches(self._waiting)
        self._waiting, self._waiting_bytes = [], 0
        if self._sink is None:
            self._open(table.schema)
        self._documents += table.num_rows
        if self.task.format == "parquet":
            self._sink.write_table(table, row_group_size=max(1, table.num_rows))
        else:
            self._sink.write(_jsonl(table))

    def _open(self, schema: pa.Schema) -> None:
        suffix = "parquet" if self.task.format == "parquet" else "jsonl.zst"
        path = f"{self.task.output}-{self.split}-{self._roll_number:04d}.{suffix}"
        self._commit = storage.commit(path)
        self._path, temporary = path, self._commit.__enter__()
        if self.task.format == "parquet":
            self._sink = pq.ParquetWriter(
                temporary,
                schema,
                compression="zstd",
                compression_level=_ZSTD_LEVEL,
                use_dictionary=["source", "subset", "language"],
                write_statistics=["id", "rank", "source"],
            )
        else:
            self._file = open(temporary, "wb")  # noqa: SIM115 - closed in roll()
            self._sink = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).stream_writer(self._file)

    def roll(self) -> None:
        """End the current file."""
        self._flush()
        if self._sink is not None:
            self._sink.close()
            self._commit.__exit__(None, None, None)
            size = storage.file_size(self._path)
            self.files.append({"path": self._path, "documents": self._documents, "text_bytes": self.text_bytes, "bytes": size})
        self._roll_number += 1
        self._sink, self._documents, self.text_bytes = None, 0, 0

    def close(self) -> list[dict[str, Any]]:
        """End the last file; all files that were written."""
        self.roll()
        return self.files

    def abandon(self) -> None:
        """Drop an unfinished file."""
        if self._commit is not None and self._sink is not None:
            error = RuntimeError("abandoned")
            self._commit.__exit__(type(error), error, None)


def _jsonl(table: pa.Table) -> bytes:
    """Documents in the input's layout: the text, then all other members of the record as they were read."""
    lines = []
    for text, meta in zip(table["text"].to_pylist(), table["meta"].to_pylist(), strict=True):
        members = meta[1:] if meta and meta != "{}" else None
        line = b'{"text":' + orjson.dumps(text)
        lines.append(line + (b"," + members.encode() if members else b"}"))
    return b"\n".join(lines) + b"\n"


class _RemovalLog:
    """Rows of removed/ and duplicates/, by partition of the id that they are looked up by."""

    def __init__(self, task: SecondPassTask) -> None:
        self.task = task
        self.removed: list[pa.Table] = []
        self.duplicates: list[pa.Table] = []
        self._files: FileTable | None = None

    def add(self, state: _Decided, rows: np.ndarray, read: Rows | None) -> None:
        """Log those of `rows` that go; `read` gives their subset where the source has one."""
        if read is None and state.columns.subset or read is not None and not state.columns.subset:
            return
        at = np.flatnonzero(~state.kept[rows])
        if not len(at):
            return
        gone = rows[at]
        stages = state.removed_by[gone]
        ids = state.part.ids(state.arrays, gone)
        duplicate_of = self._duplicates_of(state, gone, stages)
        subset = read.details.column("subset").take(pa.array(at)) if read is not None and read.details is not None else None
        names = np.array([stage.name for stage in self.task.stages], object)
        reasons = np.array([getattr(stage, "reason", "") for stage in self.task.stages], object)
        table = pa.table(
            [
                pa.array(ids, pa.string()),
                pa.array(np.array(state.sources, object)[state.source[gone]], pa.string()),
                subset if subset is not None else pa.nulls(len(gone), pa.string()),
                pa.array(names[stages], pa.string()),
                pa.array(reasons[stages], pa.string()),
                pa.array(duplicate_of, pa.string()),
                pa.array(state.similarity[gone], pa.float32(), from_pandas=True),
                pa.array(self._details(state, gone, stages), pa.string()),
                pa.array(state.text_bytes[gone], pa.uint64()),
            ],
            schema=REMOVED_SCHEMA,
        )
        self.removed.append(table)
        duplicated = table.filter(pa.compute.is_valid(table["duplicate_of"]))
        self.duplicates.append(duplicated.select(["duplicate_of", "id", "stage"]).cast(DUPLICATES_SCHEMA))

    def _duplicates_of(self, state: _Decided, gone: np.ndarray, stages: np.ndarray) -> list[str | None]:
        of_global = np.array([isinstance(stage, GlobalStage) for stage in self.task.stages])[stages]
        named: list[str | None] = [None] * len(gone)
        where = np.flatnonzero(of_global)
        if state.duplicate_ids:
            for index in where.tolist():
                named[index] = state.duplicate_ids[int(gone[index])]
            return named
        if self._files is None:
            import pickle

            self._files = pickle.loads(storage.read_bytes(self.task.files))
        ids = self._files.document_ids(state.kept_rank[gone[where]])
        for index, value in zip(where.tolist(), ids, strict=True):
            named[index] = value
        return named

    def _details(self, state: _Decided, gone: np.ndarray, stages: np.ndarray) -> list[str | None]:
        details: list[str | None] = [None] * len(gone)
        for index in np.unique(stages).tolist():
            stage = self.task.stages[index]
            if not isinstance(stage, MapStage) or f"measure.{stage.name}" not in state.arrays:
                continue
            measure = state.arrays.read(f"measure.{stage.name}")
            for row in np.flatnonzero(stages == index).tolist():
                details[row] = f"{measure[gone[row]]:g} {stage.unit}"
        return details

    def close(self) -> dict[str, str | None]:
        """Write both tables, one batch a partition."""
        return {
            "removed": self._write("removed", self.removed, REMOVED_SCHEMA, "id"),
            "duplicates": self._write("duplicates", self.duplicates, DUPLICATES_SCHEMA, "duplicate_of"),
        }

    def _write(self, name: str, tables: list[pa.Table], schema: pa.Schema, key: str) -> str | None:
        table = pa.concat_tables(tables) if tables else schema.empty_table()
        if not table.num_rows:
            return None
        partition = id_partitions(table[key].to_pylist(), self.task.n_partitions)
        batches = []
        for index in range(self.task.n_partitions):
            mine = table.take(pa.array(np.flatnonzero(partition == index))).combine_chunks().to_batches()
            batches.append(mine[0] if mine else pa.RecordBatch.from_pylist([], schema))
        path = f"{self.task.output}-{name}.arrow"
        _write_ipc(path, schema, batches)
        return path


def id_partitions(ids: list[str], n_partitions: int) -> np.ndarray:
    """The partition of removed/ and duplicates/ in which an id is looked up: XXH3-64 of its UTF-8 bytes modulo their number."""
    return np.array([xxhash.xxh3_64_intdigest(value) % n_partitions for value in ids], np.int64)


def _quarantine(task: SecondPassTask) -> str | None:
    batches = []
    for part in task.parts:
        if storage.exists(f"{part.path}.bad"):
            reader = read_ipc(f"{part.path}.bad")
            batches += [reader.get_batch(index) for index in range(reader.num_record_batches)]
    if not batches:
        return None
    path = f"{task.output}-quarantine.parquet"
    with storage.commit(path) as temporary:
        pq.write_table(pa.Table.from_batches(batches, BAD_SCHEMA), temporary, compression="zstd")
    return path


def _kept_counts(states: list[_Decided]) -> dict[str, dict[str, list[int]]]:
    """Documents and bytes kept, by split and source; documents removed by stage and source (map stages after global ones count here)."""
    kept: dict[str, Counter[str]] = {}
    counts: dict[str, dict[str, list[int]]] = {"kept": {}, "split": {}, "stage": {}}
    del kept
    for state in states:
        names = [stage.name for stage in state.task.stages]
        for code, source in enumerate(state.sources):
            mine = state.source == code
            _add(counts["kept"], source, mine & state.kept, state.text_bytes)
            for index in np.unique(state.removed_by[mine & ~state.kept]).tolist():
                _add(counts["stage"], f"{names[index]}\t{source}", mine & (state.removed_by == index), state.text_bytes)
        for code, split in enumerate(SPLITS):
            _add(counts["split"], split, state.kept & (state.split == code), state.text_bytes)
    return counts


def _add(counts: dict[str, list[int]], key: str, chosen: np.ndarray, text_bytes: np.ndarray) -> None:
    entry = counts.setdefault(key, [0, 0])
    entry[0] += int(chosen.sum())
    entry[1] += int(text_bytes[chosen].sum())


@dataclass(frozen=True)
class IndexTask:
    """One partition of removed/ or duplicates/."""

    partition: int
    segments: tuple[str, ...]
    key: str
    output: str


def index_partition(task: IndexTask) -> dict[str, Any]:
    """Merge a partition's segments, sorted by the id that it is looked up by, so that row-group statistics find a row."""
    batches = [read_ipc(path).get_batch(task.partition) for path in task.segments]
    table = pa.Table.from_batches(batches)
    second = "id" if task.key != "id" else "stage"
    table = table.sort_by([(task.key, "ascending"), (second, "ascending")])
    with storage.commit(task.output) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=65_536)
    return {"outputs": [task.output], "rows": table.num_rows}


def empty_parquet(path: str, schema: pa.Schema) -> None:
    """Commit a Parquet file without rows, so that readers find the columns."""
    os.makedirs(os.path.dirname(path), exist_ok=True) if not storage.is_remote(path) else None
    with storage.commit(path) as temporary:
        pq.write_table(schema.empty_table(), temporary)


OUTPUT_SCHEMA = SCHEMA
