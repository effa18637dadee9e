"""Parquet: a position is a row, pieces are row groups, and only the columns that are needed are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from curation import storage
from curation.formats.records import Batch, Columns, Piece
from curation.formats.tables import ColumnError, batch_of, lost_table, missing_column_reason, needed_columns

_READ_BUFFER_BYTES = 2**20  # of a column chunk at a time, so that a large row group is not held whole
_HASH_BYTES = 4 * 2**20


def pieces(info: storage.FileInfo, unit_bytes: int) -> list[Piece]:
    """Cut a file at row groups into pieces of about `unit_bytes` of uncompressed data."""
    try:
        with storage.open_read(info.path) as file:
            metadata = pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        return [Piece(info.path, "parquet", 0, -1)]  # the reader will say what is wrong
    starts, row, waiting = [0], 0, 0
    for index in range(metadata.num_row_groups):
        if waiting >= unit_bytes:
            starts.append(row)
            waiting = 0
        group = metadata.row_group(index)
        row += group.num_rows
        waiting += group.total_byte_size
    return [Piece(info.path, "parquet", start, end) for start, end in zip(starts, [*starts[1:], -1], strict=True)]


def is_damage(error: Exception) -> bool:
    """Whether an error of Arrow's means bad content. It raises OSError for that too; the system's have a number."""
    return isinstance(error, pa.ArrowException | UnicodeDecodeError) or (
        isinstance(error, OSError) and error.errno is None
    )


class ParquetReader:
    """The batches of a piece; `digest` is known once they were read, and "" in an object store, which has etags."""

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
        path, start = self._piece.path, self._piece.start
        with storage.open_read(path) as file:
            try:
                # pre_buffer would hold the row groups' bytes for the whole iteration.
                parquet = pq.ParquetFile(
                    file, pre_buffer=False, buffer_size=0 if storage.is_remote(path) else _READ_BUFFER_BYTES
                )
            except (pa.ArrowException, OSError) as error:
                if not is_damage(error):
                    raise
                yield lost_table(start, f"not a Parquet file, or damaged: {_first_line(error)}", file.size())
                return
            groups = _Groups(parquet.metadata, self._piece, file.size())
            if self._columns.text not in parquet.schema_arrow.names:
                reason = missing_column_reason(self._columns.text, parquet.schema_arrow.names)
                yield lost_table(start, reason, groups.bytes_from(0), groups.rows_from(start))
                return
            yield from self._groups(parquet, groups)
        if self._wanted is None and not storage.is_remote(path):
            self.digest = _digest(path, *groups.byte_range)

    def _groups(self, parquet: pq.ParquetFile, groups: _Groups) -> Iterator[Batch]:
        for place, (index, row, n_rows) in enumerate(groups.items):
            wanted = None if self._wanted is None else _between(self._wanted, row, row + n_rows)
            if wanted is not None and not len(wanted):
                continue
            done = row
            try:
                for table in self._tables(parquet, index):
                    positions = np.arange(done, done + table.num_rows, dtype=np.uint64)
                    done += table.num_rows
                    if wanted is not None:
                        here = _between(wanted, int(positions[0]), done)
                        if not len(here):
                            continue
                        table, positions = table.take(pa.array((here - positions[0]).astype(np.int64))), here
                    yield batch_of(table, positions, self._columns, self._maximum, self._with_details)
            except ColumnError as error:
                yield lost_table(row, str(error), groups.bytes_from(place), groups.rows_from(row))
                return
            except (pa.ArrowException, OSError) as error:
                if not is_damage(error):
                    raise
                if self._wanted is not None:
                    raise OSError(
                        f"{self._piece.path}: a column of row group {index} is damaged: {_first_line(error)}"
                    ) from error
                reason = f"damaged Parquet data: {_first_line(error)}"
                yield lost_table(done, reason, groups.bytes_from(place), groups.rows_from(done))
                return

    def _tables(self, parquet: pq.ParquetFile, index: int) -> Iterator[pa.RecordBatch]:
        group = parquet.metadata.row_group(index)
        row_bytes = max(1, group.total_byte_size // max(1, group.num_rows))
        n_rows = max(1, min(65_536, self._batch_bytes // row_bytes))
        names = needed_columns(parquet.schema_arrow.names, self._columns, self._with_details)
        yield from parquet.iter_batches(n_rows, row_groups=[index], columns=names, use_threads=False)


def _between(values: np.ndarray, start: int, end: int) -> np.ndarray:
    first, last = np.searchsorted(values, np.array([start, end], np.uint64))
    return values[first:last]


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0][:300].rstrip(".")


class _Groups:
    """The row groups of a piece: `items` are (index, first row, rows)."""

    def __init__(self, metadata: pq.FileMetaData, piece: Piece, size: int) -> None:
        self.items: list[tuple[int, int, int]] = []
        self._sizes: list[int] = []
        first, row, end = 0, 0, size
        for index in range(metadata.num_row_groups):
            group = metadata.row_group(index)
            if row == piece.start and row:
                first = _offset(group)
            if row == piece.end:
                end = _offset(group)
            if row >= piece.start and (piece.end < 0 or row < piece.end):
                self.items.append((index, row, group.num_rows))
                self._sizes.append(sum(group.column(k).total_compressed_size for k in range(group.num_columns)))
            row += group.num_rows
        self.byte_range = first, end

    def bytes_from(self, place: int) -> int:
        """Bytes of the file that are lost when nothing is read from the place-th row group on."""
        first, end = self.byte_range
        return end - first if place == 0 else sum(self._sizes[place:])

    def rows_from(self, row: int) -> int:
        """Rows of the piece from `row` on."""
        _, last, n_rows = self.items[-1] if self.items else (0, row, 0)
        return last + n_rows - row


def _offset(group: pq.RowGroupMetaData) -> int:
    """Where a row group's first byte lies in the file."""
    offsets = []
    for index in range(group.num_columns):
        column = group.column(index)
        offsets += [column.data_page_offset, column.dictionary_page_offset]
    return min(offset for offset in offsets if offset)


def _digest(path: str, start: int, end: int) -> str:
    digest = xxhash.xxh3_128()
    with storage.open_stream(path, start) as file:
        left = end - start
        while left > 0 and (chunk := file.read(min(left, _HASH_BYTES))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()
