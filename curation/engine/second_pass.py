"""The second pass: read the input again and write every document once, with its columns; record what was removed.

A task covers the consecutive parts of one output file, or of several when they come from one unit of input, which is then read
once: it leaves those files for each split, its rows of removed/ and duplicates/, and its records of quarantine/. Which parts
make a file follows from kept bytes alone, so the bytes depend on no worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation.engine.array_file import ArrayFile
from curation.engine.document_files import SUFFIXES, DocumentFile
from curation.engine.ipc_file import read_ipc
from curation.engine.part_writer import SPLITS
from curation.engine.parts import Part, Rows, read_rows
from curation.engine.quarantine import write_quarantine
from curation.engine.removal_log import RemovalLog
from curation.engine.samples import SampleChoice, Sampler
from curation.engine.stage_pass import KEPT, ROW
from curation.formats.records import Columns
from curation.stages import Stage


@dataclass(frozen=True)
class SecondPassTask:
    """The argument of `second_pass`."""

    parts: tuple[Part, ...]
    stages: list[Stage]
    decisions: tuple[tuple[int, str], ...]  # (index of a global stage, its decisions file), in stage order
    files: str  # a pickled FileTable
    columns: dict[str, Columns]
    lifted: tuple[str, ...]  # lifted columns of all sources: every file has all of them
    stage_columns: tuple[tuple[str, str], ...]  # (name, Arrow type) of those that user stages made
    maximum_document_bytes: int
    format: str
    cuts: tuple[int, ...]  # a file of documents ends before each of these places in `parts`
    n_partitions: int  # of removed/, duplicates/ and edited/
    samples: SampleChoice
    output: str


def second_pass(task: SecondPassTask) -> dict[str, Any]:
    """Write the documents of the task's parts, and the record of those that go."""
    parts = _DecidedParts(task)
    files = _Files(task)
    log = RemovalLog(task.stages, task.files)
    counts: dict[str, dict[str, list[int]]] = {"kept": {}, "splits": {}, "removed_by": {}, "reasons": {}}
    edited = 0
    try:
        with Sampler(task.samples, task.stages, f"{task.output}-samples.arrow") as sampler:
            wanted = _wanted_rows(task, parts, sampler)
            finished = 0
            for rows in read_rows(list(task.parts), wanted, task.columns, task.maximum_document_bytes, with_details=True):
                while finished < rows.part:
                    files.end_part(finished)
                    finished += 1
                part = parts[rows.part]
                _write_kept(part, rows, files)
                if part.columns.subset:
                    assert rows.details is not None
                    log.add(part, rows.rows, rows.details.column("subset"))
                sampler.add(part, rows)
        documents = files.close()
    except BaseException as error:
        files.abandon(error)
        raise
    for index in range(len(task.parts)):
        part = parts[index]
        _count(part, counts)
        edited += log.add_edits(part)
        if not part.columns.subset:
            log.add(part, np.arange(part.part.n_documents), None)
    removed = log.close(task.output, task.n_partitions)
    quarantine = _quarantine(task)
    outputs = [file["path"] for written in documents.values() for file in written]
    return {
        "outputs": [*outputs, *removed.values(), sampler.path, *([quarantine["path"]] if quarantine else [])],
        "documents": documents,
        "removed": removed,
        "quarantine": quarantine,
        "samples": sampler.path,
        "measures": sampler.measures,
        "edited": edited,
        "edited_by": dict(log.edited),
        **counts,
    }


def _wanted_rows(task: SecondPassTask, parts: _DecidedParts, sampler: Sampler) -> list[np.ndarray]:
    """The rows of each part that have to be read: those that stay, what is sampled, and all when removed rows need a subset."""
    wanted = []
    for index in range(len(task.parts)):
        part = parts[index]
        sampler.choose(part)
        wanted.append(np.arange(part.part.n_documents) if part.columns.subset else np.flatnonzero(part.kept))
    return [np.union1d(rows, sampler.rows(part)) for rows, part in zip(wanted, task.parts, strict=True)]


class _Files:
    """The files of documents of a task: one for each split and range between cuts."""

    def __init__(self, task: SecondPassTask) -> None:
        self.task = task
        self._number = 0
        self._closed: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        self._open()

    def _open(self) -> None:
        suffix = SUFFIXES[self.task.format]
        prefix = f"{self.task.output}-{self._number:04d}"
        members = tuple(name for name, _ in self.task.stage_columns)
        self._files = {split: DocumentFile(f"{prefix}-{split}.{suffix}", self.task.format, members) for split in SPLITS}

    def __getitem__(self, split: str) -> DocumentFile:
        return self._files[split]

    def end_part(self, index: int) -> None:
        """Part `index` is complete; its file too, where a cut follows."""
        if index + 1 in self.task.cuts:
            self.close()
            self._number += 1
            self._open()

    def close(self) -> dict[str, list[dict[str, Any]]]:
        """Publish the open files; all of the task's so far, by split."""
        for split, file in self._files.items():
            self._closed[split] += file.close()
        return self._closed

    def abandon(self, error: BaseException) -> None:
        """Drop the unfinished files."""
        for file in self._files.values():
            file.abandon(error)


class _DecidedParts:
    """The task's parts with their decisions; only the one in use is held, since a task may cover a whole large file."""

    def __init__(self, task: SecondPassTask) -> None:
        self._task = task
        self._held: tuple[int, DecidedPart] | None = None

    def __getitem__(self, index: int) -> DecidedPart:
        if self._held is None or self._held[0] != index:
            self._held = index, DecidedPart(self._task, self._task.parts[index])
        return self._held[1]


class DecidedPart:
    """A part with all decisions about its documents; `removed_by` int64[n] is the number of stages for those that stay."""

    def __init__(self, task: SecondPassTask, part: Part) -> None:
        self.task, self.part = task, part
        self.columns = task.columns[part.unit.source]
        self.arrays = part.arrays()
        n = part.n_documents
        self.sources: list[str] = self.arrays.meta["sources"]
        self.removed_by = self.arrays.read("removed_by").astype(np.int64)
        self.removed_by[self.removed_by == KEPT] = len(task.stages)
        self.text_bytes = self.arrays.read("text_bytes")
        self.split = self.arrays.read("split")
        self.source = self.arrays.read("source")
        self.kept_rank = np.zeros(n, np.uint64)
        self.similarity = np.full(n, np.nan, np.float32)
        self.duplicate_ids: dict[int, str] = {}
        self.n_duplicates = np.zeros(n, np.uint32)
        self._stage_columns: pa.Table | None = None
        self.annotations: list[tuple[np.ndarray, np.ndarray]] = []
        for index, path in task.decisions:
            self._apply(index, path)
        self.kept = self.removed_by == len(task.stages)

    def _apply(self, index: int, path: str) -> None:
        file = ArrayFile(path)
        if "member_starts" in file:
            self._annotate(file)
        else:
            start, stop = self._range(file, "removed_starts")
            rows = self._rows(file, "removed", start, stop)
            self.removed_by[rows] = index
            self.kept_rank[rows] = file.read("kept_rank", start, stop)
            self.similarity[rows] = file.read("similarity", start, stop)
            if any(columns.id for columns in self.task.columns.values()):
                ids = read_ipc(f"{path}.ids").get_batch(self.part.index).column("id").to_pylist()
                self.duplicate_ids.update(zip(rows.tolist(), ids, strict=True))
        start, stop = self._range(file, "copies_starts")
        self.n_duplicates[:] = 0
        self.n_duplicates[self._rows(file, "copies_of", start, stop)] = file.read("n_duplicates", start, stop)

    def _range(self, file: ArrayFile, starts: str) -> tuple[int, int]:
        start, stop = file.read(starts, self.part.index, self.part.index + 2).tolist()
        return start, stop

    def _rows(self, file: ArrayFile, name: str, start: int, stop: int) -> np.ndarray:
        return (file.read(name, start, stop) - np.uint64(self.part.base)).astype(np.int64)

    def _annotate(self, file: ArrayFile) -> None:
        start, stop = self._range(file, "member_starts")
        rows = self._rows(file, "member", start, stop)
        component = self.part.ranks(self.arrays)
        component[rows] = file.read("component_rank", start, stop)
        is_kept = np.ones(self.part.n_documents, bool)
        is_kept[rows] = file.read("is_kept", start, stop)
        self.annotations.append((component, is_kept))

    def ids(self, rows: np.ndarray) -> list[str]:
        """Ids of `rows`."""
        return self.part.ids(self.arrays, rows)

    def source_names(self, rows: np.ndarray) -> np.ndarray:
        """Source names of `rows`, object[k]."""
        return np.array(self.sources, object)[self.source[rows]]

    def reasons(self, rows: np.ndarray) -> list[str]:
        """Why each of `rows`, all removed, goes: a reason that its stage gave, or the stage's own."""
        names = self.arrays.meta["reasons"]
        codes = self.arrays.whole("reason")[rows].tolist() if "reason" in self.arrays else [0] * len(rows)
        own = np.array([stage.reason for stage in self.task.stages], object)[self.removed_by[rows]]
        of_map = self.arrays.read("removed_by")[rows] != KEPT
        return [names[code - 1] if code and mapped else default for code, mapped, default in zip(codes, of_map, own, strict=True)]

    def stage_columns(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """The columns that user stages made, of `rows` (int64[k])."""
        wanted = self.task.stage_columns
        if not wanted:
            return {}
        if self._stage_columns is None and "columns" in self.arrays.meta["beside"]:
            self._stage_columns = read_ipc(f"{self.part.path}.columns").read_all().combine_chunks()
        table = self._stage_columns
        if table is None:
            return {name: pa.nulls(len(rows), pa.type_for_alias(kind)) for name, kind in wanted}
        have = table[ROW].to_numpy()
        at = np.minimum(np.searchsorted(have, rows), max(0, len(have) - 1))
        take = pa.array(at, mask=have[at] != rows if len(have) else np.ones(len(rows), bool))
        columns = {}
        for name, kind in wanted:
            found = table[name].combine_chunks().take(take) if name in table.column_names else pa.nulls(len(rows))
            columns[name] = found.cast(pa.type_for_alias(kind))
        return columns


def _write_kept(part: DecidedPart, rows: Rows, files: _Files) -> None:
    kept = np.flatnonzero(part.kept[rows.rows])
    if not len(kept):
        return
    chosen = rows.rows[kept]
    take = pa.array(kept)
    details = rows.details
    assert details is not None
    columns: dict[str, pa.Array] = {
        "id": pa.array(part.ids(chosen), pa.string()),
        "rank": pa.array(part.part.ranks(part.arrays, chosen)),
        "text": rows.texts.take(take),
        "source": pa.array(part.source_names(chosen), pa.string()),
    }
    for name in ("subset", "url", "language", "meta"):
        columns[name] = details.column(name).take(take)
    own = {name for name, _ in part.columns.lifted}
    for name in part.task.lifted:
        columns[name] = details.column(name).take(take) if name in own else pa.nulls(len(kept), pa.float64())
    columns.update(part.stage_columns(chosen))
    if part.task.decisions:
        columns["n_duplicates"] = pa.array(part.n_duplicates[chosen])
    for component, is_kept in part.annotations:
        columns["component"] = pa.array(component[chosen])
        columns["is_kept"] = pa.array(is_kept[chosen])
    if part.task.format != "parquet":
        columns["text_member"] = pa.array([part.columns.text] * len(kept), pa.string())
        columns["id_member"] = pa.array([part.columns.id] * len(kept), pa.string())
    batch = pa.RecordBatch.from_pydict(columns)
    splits = part.split[chosen]
    for code, split in enumerate(SPLITS):
        mine = np.flatnonzero(splits == code)
        if len(mine):
            files[split].write(batch if len(mine) == len(splits) else batch.take(pa.array(mine)))


def _quarantine(task: SecondPassTask) -> dict[str, str] | None:
    if not any("bad" in part.arrays().meta["beside"] for part in task.parts):
        return None
    return write_quarantine(list(task.parts), f"{task.output}-quarantine.parquet")


def _count(part: DecidedPart, counts: dict[str, dict[str, list[int]]]) -> None:
    """Add to [documents, text bytes] kept by source and by split, and removed by "STAGE<tab>SOURCE" and "STAGE<tab>REASON"."""
    for code, source in enumerate(part.sources):
        mine = part.source == code
        _add(counts["kept"], source, mine & part.kept, part.text_bytes)
        for index in np.unique(part.removed_by[mine & ~part.kept]).tolist():
            key = f"{part.task.stages[index].name}\t{source}"
            _add(counts["removed_by"], key, mine & (part.removed_by == index), part.text_bytes)
    for code, split in enumerate(SPLITS):
        _add(counts["splits"], split, part.kept & (part.split == code), part.text_bytes)
    gone = np.flatnonzero(~part.kept)
    stages = part.removed_by[gone]
    reasons = pa.array(part.reasons(gone), pa.string()).dictionary_encode()
    codes = reasons.indices.to_numpy()
    for index, code in np.unique(np.stack([stages, codes], axis=1), axis=0).tolist():
        key = f"{part.task.stages[index].name}\t{reasons.dictionary[code].as_py()}"
        _add(counts["reasons"], key, (stages == index) & (codes == code), part.text_bytes[gone])


def _add(table: dict[str, list[int]], key: str, chosen: np.ndarray, text_bytes: np.ndarray) -> None:
    entry = table.setdefault(key, [0, 0])
    entry[0] += int(chosen.sum())
    entry[1] += int(text_bytes[chosen].sum())
