"""Verification: a document goes only if its true n-gram Jaccard similarity with some retained document reaches the threshold.

The components of the band graph say which documents could be compared. Their texts and band keys are gathered by component
(one file a task with a batch a partition), and each partition is then a greedy cover in keep order: bucket memberships are
needed, not only stars, since the first document of a component may resemble few of the others.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from curation import storage
from curation.documents import DocumentBatch, utf8_buffers
from curation.engine.array_file import ArrayFile, write_arrays
from curation.engine.decide import ComponentsTask, gather, write_decisions
from curation.engine.ipc_file import read_ipc
from curation.engine.keyed import mixed
from curation.engine.parts import Part, read_rows
from curation.formats.records import Columns
from curation.kernels.verification import greedy_cover, ngram_set
from curation.stages.minhash import MinHashSettings

# Text of a partition: its n-gram hashes (8 bytes each) go to a scratch file that is mapped, not to anonymous memory.
PARTITION_TEXT_BYTES = 32 * 2**20
# Past this many partitions they grow instead, up to 256 MB: each gather task leaves a batch for each of them.
_PARTITIONS_BEFORE_GROWTH = 64
_LARGEST_PARTITION_TEXT_BYTES = 256 * 2**20
_BATCH_TEXT_BYTES = 8 * 2**20
_ROUND_BYTES = 64 * 2**20
_SCHEMA = pa.schema([("number", pa.uint64()), ("place", pa.uint64()), ("keys", pa.list_(pa.uint64())), ("text", pa.large_string())])


def cover_partitions(text_bytes: int) -> int:
    """Partitions for candidates of `text_bytes` in all.

    >>> cover_partitions(10**6), cover_partitions(10**9), cover_partitions(10**12)
    (1, 30, 3726)
    """
    n_small = -(-text_bytes // PARTITION_TEXT_BYTES)
    grown = max(_PARTITIONS_BEFORE_GROWTH, -(-text_bytes // _LARGEST_PARTITION_TEXT_BYTES))
    return max(1, min(n_small, grown))


@dataclass(frozen=True)
class GatherTask:
    """Texts and band keys of the members among `parts`, by partition of their component."""

    stage: str
    parts: tuple[Part, ...]
    members: str  # what `components` left
    n_partitions: int
    columns: dict[str, Columns]
    maximum_document_bytes: int
    bands: int
    output: str


def gather_texts(task: GatherTask) -> dict[str, Any]:
    """Write rounds of a batch a partition; a round holds about 64 MB of text, however long the parts' file is."""
    schema = _SCHEMA.with_metadata({"partitions": str(task.n_partitions)})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with storage.commit(task.output) as temporary, pa.ipc.new_file(temporary, schema, options=options) as file:
        for batch in _rounds(task):
            file.write_batch(batch)
    return {"outputs": [task.output]}


def _rounds(task: GatherTask) -> Iterator[pa.RecordBatch]:
    """The batches of partition 0, 1, ... of each round."""
    file = ArrayFile(task.members)
    bounds = [file.read("starts", part.index, part.index + 2).tolist() for part in task.parts]
    numbers = [file.read("number", start, stop) for start, stop in bounds]
    wanted = [(own - np.uint64(part.base)).astype(np.int64) for own, part in zip(numbers, task.parts, strict=True)]
    part_index, held = -1, 0
    batches: list[list[pa.RecordBatch]] = [[] for _ in range(task.n_partitions)]
    for rows in read_rows(list(task.parts), wanted, task.columns, task.maximum_document_bytes):
        if rows.part != part_index:
            part_index = rows.part
            partitions = mixed(file.read("root", *bounds[part_index])) % np.uint64(task.n_partitions)
            places = file.read("place", *bounds[part_index])
            keys = _band_keys(task.parts[part_index], task, wanted[part_index])
        at = np.searchsorted(wanted[part_index], rows.rows)
        for chosen in np.unique(partitions[at]).tolist():
            mine = np.flatnonzero(partitions[at] == chosen)
            lists = pa.ListArray.from_arrays(
                np.arange(0, (len(mine) + 1) * task.bands, task.bands, dtype=np.int32), keys[at[mine]].reshape(-1)
            )
            member = at[mine]
            columns = [pa.array(numbers[part_index][member]), pa.array(places[member]), lists, rows.texts.take(pa.array(mine))]
            batches[chosen].append(pa.record_batch(columns, schema=_SCHEMA))
            held += batches[chosen][-1].nbytes
        if held >= _ROUND_BYTES:
            yield from map(_joined, batches)
            batches, held = [[] for _ in range(task.n_partitions)], 0
    yield from map(_joined, batches)


def _joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    joined = pa.Table.from_batches(batches, _SCHEMA).combine_chunks().to_batches()
    return joined[0] if joined else pa.RecordBatch.from_pylist([], _SCHEMA)


def _band_keys(part: Part, task: GatherTask, rows: np.ndarray) -> np.ndarray:
    """The band keys of `rows`, uint64[k, bands]."""
    if not len(rows):
        return np.zeros((0, task.bands), np.uint64)
    arrays = part.arrays()
    row = arrays.read(f"{task.stage}.row")
    chosen = np.zeros(part.n_documents, bool)
    chosen[rows] = True
    mine = np.flatnonzero(chosen[row])
    order = np.argsort(row[mine], kind="stable")
    return arrays.read(f"{task.stage}.key")[mine[order]].reshape(len(rows), task.bands)


@dataclass(frozen=True)
class CoverTask:
    """The greedy cover of one partition."""

    partition: int
    gathered: tuple[str, ...]
    settings: MinHashSettings
    scratch: str | None  # a local folder; None: the system's
    output: str


def cover(task: CoverTask) -> dict[str, Any]:
    """Compare the partition's documents in keep order; leaves (number, kept number, similarity) of what goes."""
    with tempfile.TemporaryDirectory(prefix=storage.SCRATCH_PREFIX, dir=task.scratch) as scratch:
        numbers, places, keys, sets, offsets = _load(task, os.path.join(scratch, "sets"))
        order = np.argsort(places).astype(np.int64)
        kept_by, similarity, past_limit = greedy_cover(
            order, keys, sets, offsets, task.settings.threshold, task.settings.maximum_comparisons
        )
        del sets
    removed = np.flatnonzero(kept_by >= 0)
    arrays = {"removed": numbers[removed], "kept": numbers[kept_by[removed]], "similarity": similarity[removed]}
    write_arrays(task.output, arrays)
    return {"outputs": [task.output], "past_limit": int(past_limit)}


def _load(task: CoverTask, path: str) -> tuple[np.ndarray, ...]:
    """(numbers, places, band keys, n-gram sets, their offsets) of the partition; the sets are a mapped scratch file."""
    settings = task.settings
    numbers, places, keys = [], [], []
    offsets = [np.zeros(1, np.int64)]
    end = 0
    with open(path, "wb") as file:
        for batch in _batches(task):
            numbers.append(batch.column("number").to_numpy().copy())
            places.append(batch.column("place").to_numpy().copy())
            keys.append(batch.column("keys").flatten().to_numpy().copy())
            texts = batch.column("text")
            for start, stop in _slices(texts):
                piece = DocumentBatch(np.zeros(stop - start, np.uint64), texts.slice(start, stop - start))
                data, text_offsets, _ = piece.cleaned
                sets, set_offsets = ngram_set(data, text_offsets, settings.unit, settings.ngram)
                file.write(np.ascontiguousarray(sets).data)
                offsets.append(set_offsets[1:] + end)
                end += len(sets)
    mapped = np.asarray(np.memmap(path, np.uint64, "r", shape=(end,))) if end else np.zeros(0, np.uint64)
    joined = [np.concatenate(values) for values in (numbers, places, keys, offsets)]
    return joined[0], joined[1], joined[2].reshape(-1, settings.bands), mapped, joined[3]


def _batches(task: CoverTask) -> Iterator[pa.RecordBatch]:
    """The partition's batches of all rounds in all files."""
    for gathered in task.gathered:
        reader = read_ipc(gathered)
        n_partitions = int(reader.schema.metadata[b"partitions"])
        for index in range(task.partition, reader.num_record_batches, n_partitions):
            yield reader.get_batch(index)


def _slices(texts: pa.LargeStringArray) -> list[tuple[int, int]]:
    """Cut an array into runs of at most 8 MB of text (or one document)."""
    if not len(texts):
        return []
    _, offsets = utf8_buffers(texts)
    slices, start = [], 0
    while start < len(texts):
        stop = int(np.searchsorted(offsets, offsets[start] + _BATCH_TEXT_BYTES, "right")) - 1
        stop = min(max(stop, start + 1), len(texts))
        slices.append((start, stop))
        start = stop
    return slices


@dataclass(frozen=True)
class VerifiedTask:
    """Joins the partitions' results into decisions; `components` is the argument that the components were made with."""

    components: ComponentsTask
    members: str
    covers: tuple[str, ...]
    output: str


def verified_decisions(task: VerifiedTask) -> dict[str, Any]:
    """The decisions of all partitions, in the form that unverified ones have."""
    file = ArrayFile(task.members)
    members = gather(task.components, file.read("number"), file.read("root"))
    files = [ArrayFile(path) for path in task.covers]
    removed, kept, similarity = (
        np.concatenate([f.read(name) for f in files]) for name in ("removed", "kept", "similarity")
    )
    order = np.argsort(removed)
    removed_at = np.searchsorted(members.numbers, removed[order])
    kept_at = np.searchsorted(members.numbers, kept[order])
    # Not over the members: a run that goes on, or other verify settings, read them again.
    decisions = replace(task.components, output=task.output)
    return write_decisions(decisions, removed_at, kept_at, similarity[order], members)
