"""The files of a result, opened to read little of them.

removed/, duplicates/ and edited/ are partitioned by a hash of the id that is looked up and sorted by it. So an id leads to one
file, row-group statistics lead to one row group of it, and a binary search to the row.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from curation import storage
from curation.engine.removal_log import id_partitions

_READ_BUFFER_BYTES = 2**20  # of a column chunk at a time


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file for reading few row groups. Raises ValueError that names it when its content is damaged.

    The buffer is for local files: each read of a store is a request.
    """
    try:
        with storage.open_read(path) as file:
            yield pq.ParquetFile(file, pre_buffer=False, buffer_size=0 if storage.is_remote(path) else _READ_BUFFER_BYTES)
    except (pa.ArrowException, OSError) as error:
        # Of Parquet's own errors some are OSErrors, without the number that those of a disk or a store have.
        if isinstance(error, OSError) and (error.errno or isinstance(error, FileNotFoundError)):
            raise
        raise damaged(path, error) from error


@contextlib.contextmanager
def open_lines(path: str) -> Iterator[Any]:
    """What a file of JSON lines holds, decompressed, as a stream. Raises ValueError that names it when its content is damaged."""
    try:
        with storage.open_stream(path) as raw, zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as stream:
            yield stream
    except zstandard.ZstdError as error:
        raise damaged(path, error) from error


def damaged(path: str, error: object) -> ValueError:
    """What is raised for a file whose content cannot be what a run wrote."""
    reason = " ".join(str(error).split()).rstrip(".")
    return ValueError(f"{path} is damaged ({reason}); bring it back from a copy, or run again with --fresh")


def column_index(file: pq.ParquetFile, name: str) -> int:
    """Where a column stands in a table of a run. Raises pyarrow.ArrowInvalid for a table without it."""
    names = file.schema_arrow.names
    if name not in names:
        raise pa.ArrowInvalid(f"it has no column {name}")
    return int(names.index(name))


class IdTable:
    """A table whose file follows from a hash of the id in column `key`, and which is sorted by it."""

    def __init__(self, paths: list[str], key: str) -> None:
        self.paths, self.key = paths, key

    def find(self, ids: list[str], most_rows: int | None = None) -> dict[str, tuple[int, list[dict[str, Any]]]]:
        """For each id that is there: how many rows it has, and the first `most_rows` of them."""
        found: dict[str, tuple[int, list[dict[str, Any]]]] = {}
        if not self.paths:
            return found
        by_partition: dict[int, list[str]] = {}
        unique = sorted(set(ids))
        for value, partition in zip(unique, id_partitions(unique, len(self.paths)).tolist(), strict=True):
            by_partition.setdefault(partition, []).append(value)
        for partition, wanted in by_partition.items():
            with open_parquet(self.paths[partition]) as file:
                for group in range(file.num_row_groups):
                    self._find_in_group(file, group, wanted, most_rows, found)
        return found

    def _find_in_group(
        self,
        file: pq.ParquetFile,
        group: int,
        wanted: list[str],
        most_rows: int | None,
        found: dict[str, tuple[int, list[dict[str, Any]]]],
    ) -> None:
        column = column_index(file, self.key)
        statistics = file.metadata.row_group(group).column(column).statistics
        # Ids of more than 4 KB get no statistics.
        if statistics is not None and statistics.has_min_max:
            wanted = [value for value in wanted if statistics.min <= value <= statistics.max]
        if not wanted:
            return
        keys = file.read_row_group(group, columns=[self.key])[self.key].combine_chunks()
        rest: pa.Table | None = None
        for value in wanted:
            start = bisect.bisect_left(range(len(keys)), value, key=lambda row: keys[row].as_py())
            stop = bisect.bisect_right(range(len(keys)), value, start, key=lambda row: keys[row].as_py())
            if start == stop:
                continue
            count, rows = found.get(value, (0, []))
            room = stop - start if most_rows is None else min(stop - start, most_rows - len(rows))
            if room > 0:
                rest = file.read_row_group(group) if rest is None else rest
                rows = rows + rest.slice(start, room).to_pylist()
            found[value] = count + stop - start, rows
