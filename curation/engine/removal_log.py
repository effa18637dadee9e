"""The record of what goes and what is edited: removed/, duplicates/ and edited/, partitioned by a hash of the id that a person
looks up.

A task of the second pass leaves one file with a batch for each partition; an index task joins the batches of a partition, sorted
by that id, so that a reader's row-group statistics find one row in a large table.
"""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from curation import storage
from curation.documents import MAXIMUM_POSITION, POSITION_BITS, document_id
from curation.engine.ipc_file import read_ipc, write_ipc
from curation.stages import GlobalStage, Stage

if TYPE_CHECKING:
    from curation.engine.second_pass import DecidedPart

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
EDITED_SCHEMA = pa.schema(
    [("id", pa.string()), ("stage", pa.string()), ("characters_before", pa.uint64()), ("characters_after", pa.uint64())]
)
# Each table with the column that it is partitioned and sorted by.
LOGS = {
    "removed": (REMOVED_SCHEMA, "id"),
    "duplicates": (DUPLICATES_SCHEMA, "duplicate_of"),
    "edited": (EDITED_SCHEMA, "id"),
}


@dataclass(frozen=True)
class FileTable:
    """Where a rank lies: for each file number its source and relative path; enough to name any document without an id column."""

    sources: tuple[str, ...]
    relatives: tuple[str, ...]

    def document_ids(self, ranks: np.ndarray) -> list[str]:
        """The ids of the documents with these ranks (uint64)."""
        files = (ranks >> np.uint64(POSITION_BITS)).tolist()
        positions = (ranks & np.uint64(MAXIMUM_POSITION - 1)).tolist()
        return [document_id(self.sources[f], self.relatives[f], p) for f, p in zip(files, positions, strict=True)]


class RemovalLog:
    """Gathers the rows of one second-pass task."""

    def __init__(self, stages: list[Stage], files: str) -> None:
        self.stages = stages
        self._files_path = files
        self._files: FileTable | None = None
        self.edited: Counter[str] = Counter()  # documents by the stage that edited them
        self._tables: dict[str, list[pa.Table]] = {name: [] for name in LOGS}

    def add(self, part: DecidedPart, rows: np.ndarray, subset: pa.Array | None) -> None:
        """Log those of `rows` (int64) of the part that go; `subset` has an entry a row, or is None when the source has none."""
        at = np.flatnonzero(~part.kept[rows])
        if not len(at):
            return
        gone = rows[at]
        stages = part.removed_by[gone]
        names = np.array([stage.name for stage in self.stages], object)
        table = pa.table(
            [
                pa.array(part.ids(gone), pa.string()),
                pa.array(part.source_names(gone), pa.string()),
                subset.take(pa.array(at)) if subset is not None else pa.nulls(len(gone), pa.string()),
                pa.array(names[stages], pa.string()),
                pa.array(part.reasons(gone), pa.string()),
                pa.array(self._duplicates_of(part, gone, stages), pa.string()),
                pa.array(part.similarity[gone], pa.float32(), from_pandas=True),
                pa.array(self._details(part, gone, stages), pa.string()),
                pa.array(part.text_bytes[gone], pa.uint64()),
            ],
            schema=REMOVED_SCHEMA,
        )
        self._tables["removed"].append(table)
        duplicated = table.filter(pc.is_valid(table["duplicate_of"]))
        self._tables["duplicates"].append(duplicated.select(DUPLICATES_SCHEMA.names))

    def add_edits(self, part: DecidedPart) -> int:
        """Log what stages edited in the part, also in documents that they or later stages removed; how many documents that is."""
        edited = np.zeros(part.part.n_documents, bool)
        for index, stage in enumerate(self.stages):
            name = f"edited.{stage.name}"
            if f"{name}.row" not in part.arrays:
                continue
            rows = part.arrays.read(f"{name}.row").astype(np.int64)
            came = part.removed_by[rows] >= index  # of what earlier stages removed, the first pass did not know duplicates
            rows = rows[came]
            columns = [
                pa.array(part.ids(rows), pa.string()),
                pa.array([stage.name] * len(rows), pa.string()),
                pa.array(part.arrays.read(f"{name}.before")[came].astype(np.uint64)),
                pa.array(part.arrays.read(f"{name}.after")[came].astype(np.uint64)),
            ]
            self.edited[stage.name] += len(rows)
            self._tables["edited"].append(pa.table(columns, schema=EDITED_SCHEMA))
            edited[rows] = True
        return int(edited.sum())

    def _duplicates_of(self, part: DecidedPart, gone: np.ndarray, stages: np.ndarray) -> list[str | None]:
        of_global = np.array([isinstance(stage, GlobalStage) for stage in self.stages])[stages]
        named: list[str | None] = [None] * len(gone)
        where = np.flatnonzero(of_global)
        if not len(where):
            return named
        if part.duplicate_ids:
            for index in where.tolist():
                named[index] = part.duplicate_ids[int(gone[index])]
            return named
        if self._files is None:
            self._files = pickle.loads(storage.read_bytes(self._files_path))
        ids = self._files.document_ids(part.kept_rank[gone[where]])
        for index, value in zip(where.tolist(), ids, strict=True):
            named[index] = value
        return named

    def _details(self, part: DecidedPart, gone: np.ndarray, stages: np.ndarray) -> list[str | None]:
        details: list[str | None] = [None] * len(gone)
        measures = part.arrays.meta["measures"]
        for index in np.unique(stages).tolist():
            name = self.stages[index].name
            if name not in measures:
                continue
            values, unit = part.arrays.whole(f"measure.{name}"), measures[name]["unit"]
            for row in np.flatnonzero(stages == index).tolist():
                value = values[gone[row]]
                details[row] = None if np.isnan(value) else f"{value:.15g} {unit}".strip()
        return details

    def close(self, output: str, n_partitions: int) -> dict[str, str]:
        """Write the tables, one batch a partition; the paths of those that have rows."""
        paths = {}
        for name, (schema, key) in LOGS.items():
            table = pa.concat_tables(self._tables[name]) if self._tables[name] else schema.empty_table()
            if table.num_rows:
                paths[name] = f"{output}-{name}.arrow"
                _write_partitions(paths[name], table, key, n_partitions)
        return paths


def _write_partitions(path: str, table: pa.Table, key: str, n_partitions: int) -> None:
    partition = id_partitions(table[key].to_pylist(), n_partitions)
    order = np.argsort(partition, kind="stable")
    bounds = np.searchsorted(partition[order], np.arange(n_partitions + 1)).tolist()
    table = table.take(pa.array(order)).combine_chunks()
    empty = pa.RecordBatch.from_pylist([], table.schema)
    batches = []
    for start, stop in pairwise(bounds):
        mine = table.slice(start, stop - start).to_batches()
        batches.append(mine[0] if mine else empty)
    write_ipc(path, table.schema, batches)


def id_partitions(ids: list[str], n_partitions: int) -> np.ndarray:
    """The partition of a log in which an id is looked up: XXH3-64 of its UTF-8 bytes modulo the number of partitions."""
    return np.array([xxhash.xxh3_64_intdigest(value.encode()) % n_partitions for value in ids], np.int64)


@dataclass(frozen=True)
class IndexTask:
    """One partition of a log."""

    partition: int
    segments: tuple[str, ...]
    schema: pa.Schema
    output: str


def index_partition(task: IndexTask) -> dict[str, Any]:
    """Merge a partition's segments, sorted by the id that it is looked up by; a file even when there is no row."""
    batches = [read_ipc(path).get_batch(task.partition) for path in task.segments]
    table = pa.Table.from_batches(batches, task.schema)
    order = ["id", "stage"] if task.schema.names[0] == "id" else ["duplicate_of", "id", "stage"]
    table = table.sort_by([(name, "ascending") for name in order])
    with storage.commit(task.output) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=65_536)
        sha256 = storage.sha256(temporary)
    return {"outputs": [task.output], "rows": table.num_rows, "sha256": sha256}
