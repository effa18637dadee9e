"""Hugging Face data sets: a name on the hub, or a directory that `save_to_disk` left or `load_dataset` understands.

They are opened mapped, not read into memory, and a position is a row. A data set that is to be streamed is first copied
into Parquet files by `spool`, since the input is read twice. Set HF_HUB_OFFLINE=1 to be sure that the hub is not asked.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curation import storage
from curation.formats.records import Batch, Columns, Piece
from curation.formats.tables import ColumnError, batch_of, lost_table, needed_columns

_SAVED = "state.json"  # in a directory that `Dataset.save_to_disk` left
_SAVED_SPLITS = "dataset_dict.json"  # in one that `DatasetDict.save_to_disk` left
_SPOOL_BYTES = 256 * 2**20  # Arrow bytes of a spooled file
_SPOOL_ROWS = 1000  # of one batch of the stream
_SPOOLED = "complete.json"  # lists the files of a finished spool


def is_dataset_directory(path: str) -> bool:
    """Whether `path` is a local directory that `save_to_disk` left."""
    return any(os.path.isfile(os.path.join(path, name)) for name in (_SAVED, _SAVED_SPLITS))


def dataset_info(path: str, split: str | None = None) -> storage.FileInfo:
    """A data set's split as if it were a file: its path is PATH/SPLIT (PATH for one saved without splits).

    `path` may be NAME:CONFIGURATION. Raises ValueError when there is no such data set or split, or a choice of splits.
    """
    chosen = path.rstrip("/")
    if not os.path.isfile(os.path.join(path, _SAVED)):
        chosen = f"{chosen}/{_chosen_split(path, split)}"
    elif split is not None:
        raise ValueError(f"{path} was saved without splits, so it has no split {split!r}; leave `split` out")
    dataset = open_dataset(chosen)
    state = os.path.join(chosen, _SAVED)
    modified = os.stat(state).st_mtime_ns if os.path.isfile(state) else 0
    size = sum(os.path.getsize(file["filename"]) for file in dataset.cache_files) or int(dataset.data.nbytes)
    return storage.FileInfo(chosen, size, str(dataset._fingerprint), modified)


def dataset_splits(path: str) -> list[str | None]:
    """The splits of a directory that `save_to_disk` left; [None] when it was saved without any."""
    return [None] if os.path.isfile(os.path.join(path, _SAVED)) else list(_split_names(path))


def _chosen_split(path: str, split: str | None) -> str:
    names = _split_names(path)
    if split is None and len(names) == 1:
        return names[0]
    if split in names:
        return str(split)
    listed = ", ".join(names)
    if split is None:
        raise ValueError(
            f"{path} has the splits {listed}: choose one with `split: {names[0]}`, or name a source for each"
        )
    raise ValueError(f"{path} has no split {split!r}; its splits are {listed}")


def _split_names(path: str) -> list[str]:
    saved = os.path.join(path, _SAVED_SPLITS)
    if os.path.isfile(saved):
        with open(saved, encoding="utf-8") as file:
            return list(json.load(file)["splits"])
    return list(_load(path, None))


def _load(path: str, split: str | None, streaming: bool = False) -> Any:
    """What `load_dataset` gives. Raises ValueError when it cannot."""
    import datasets

    name, _, configuration = path.partition(":")
    try:
        return datasets.load_dataset(name, configuration or None, split=split, streaming=streaming)
    except Exception as error:  # it raises a dozen kinds, and none says more than its text
        raise ValueError(f"{path} cannot be opened as a Hugging Face data set: {error}") from error


@functools.lru_cache(maxsize=4)
def open_dataset(path: str) -> Any:
    """The `datasets.Dataset` that the path of a `dataset_info` or a piece names, mapped."""
    import datasets

    if os.path.isfile(os.path.join(path, _SAVED)):
        return datasets.load_from_disk(path).with_format("arrow")
    name, _, split = path.rpartition("/")
    return _load(name, split).with_format("arrow")


def pieces(info: storage.FileInfo, unit_bytes: int) -> list[Piece]:
    """Cut a data set into ranges of rows of about `unit_bytes`."""
    n_rows = len(open_dataset(info.path))
    step = max(1, unit_bytes * n_rows // max(1, info.size))
    starts = list(range(0, n_rows, step)) or [0]
    return [Piece(info.path, "huggingface", start, end) for start, end in zip(starts, [*starts[1:], -1], strict=True)]


class HuggingFaceReader:
    """The batches of a piece; `digest` stays "", since the data set's fingerprint is its etag."""

    def __init__(
        self,
        piece: Piece,
        columns: Columns,
        *,
        maximum_document_bytes: int,
        batch_bytes: int,
        wanted: np.ndarray | None = None,
        with_details: bool = False,
    ) -> None:
        self.digest = ""
        self._piece, self._columns, self._wanted = piece, columns, wanted
        self._maximum, self._batch_bytes, self._with_details = maximum_document_bytes, batch_bytes, with_details

    def __iter__(self) -> Iterator[Batch]:
        try:
            dataset = open_dataset(self._piece.path)
        except ValueError as error:
            raise OSError(str(error)) from error
        names = needed_columns(dataset.column_names, self._columns, self._with_details)
        end = len(dataset) if self._piece.end < 0 else min(self._piece.end, len(dataset))
        step = max(1, self._batch_bytes * max(1, len(dataset)) // max(1, dataset.data.nbytes))
        chosen = dataset.select_columns(names)
        for start in range(self._piece.start, end, min(step, 65_536)):
            stop = min(end, start + min(step, 65_536))
            positions = np.arange(start, stop, dtype=np.uint64)
            if self._wanted is not None:
                positions = self._wanted[slice(*np.searchsorted(self._wanted, np.array([start, stop], np.uint64)))]
                if not len(positions):
                    continue
            try:
                table = _one_batch(chosen[start:stop])
                if len(positions) < table.num_rows:
                    table = table.take(pa.array((positions - np.uint64(start)).astype(np.int64)))
                yield batch_of(table, positions, self._columns, self._maximum, self._with_details)
            except ColumnError as error:
                lost_bytes = int(dataset.data.nbytes) * (end - start) // max(1, len(dataset))
                yield lost_table(start, str(error), lost_bytes, end - start)
                return


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], table.schema)


def spool(
    path: str, split: str | None, directory: str, maximum_rows: int, n_rows: int | None = None
) -> list[str]:
    """Copy a data set (or its first `n_rows`), read as a stream, into Parquet files of at most `maximum_rows`; their paths.

    A finished copy is used again; one that was broken off starts over. Raises ValueError as `dataset_info` does.
    """
    marker = storage.join(directory, _SPOOLED)
    if storage.exists(marker):
        return [storage.join(directory, name) for name in json.loads(storage.read_bytes(marker))]
    storage.delete_tree(directory)
    names: list[str] = []
    waiting: list[pa.Table] = []
    for table in _stream(path, split, n_rows):
        while table.num_rows:
            room = maximum_rows - sum(t.num_rows for t in waiting)
            waiting.append(table.slice(0, room))
            table = table.slice(room)
            if sum(t.num_rows for t in waiting) == maximum_rows or sum(t.nbytes for t in waiting) >= _SPOOL_BYTES:
                names.append(_write_spooled(directory, len(names), waiting))
                waiting = []
    if waiting or not names:
        names.append(_write_spooled(directory, len(names), waiting))
    storage.write_bytes(marker, json.dumps(names).encode())
    return [storage.join(directory, name) for name in names]


def _stream(path: str, split: str | None, n_rows: int | None) -> Iterator[pa.Table]:
    """The tables of a streamed data set (of its first `n_rows`), all of one schema."""
    import datasets

    if os.path.isfile(os.path.join(path, _SAVED)) or os.path.isfile(os.path.join(path, _SAVED_SPLITS)):
        stream = datasets.load_from_disk(dataset_info(path, split).path).to_iterable_dataset()
    else:
        names = list(_load(path, None, streaming=True)) if split is None else [split]
        if len(names) != 1:
            raise ValueError(f"{path} has the splits {', '.join(names)}: choose one with `split: {names[0]}`")
        stream = _load(path, names[0], streaming=True)
    stream = stream if n_rows is None else stream.take(n_rows)
    schema = None if stream.features is None else stream.features.arrow_schema.remove_metadata()
    for table in stream.with_format("arrow").iter(_SPOOL_ROWS):
        table = table.replace_schema_metadata(None)
        schema = schema or table.schema
        yield table if table.schema == schema else table.cast(schema)


def _write_spooled(directory: str, number: int, tables: list[pa.Table]) -> str:
    name = f"part-{number:05d}.parquet"
    table = pa.concat_tables(tables) if tables else pa.table({"text": pa.array([], pa.large_string())})
    with storage.commit(storage.join(directory, name)) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=8192)
    return name
