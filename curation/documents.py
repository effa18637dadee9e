"""What a document is: the Arrow schema of the output, the batch that stages see, ids and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

# Plain types only: IPC files refuse batches whose dictionaries differ, and older `datasets` cannot read dictionary columns.
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("rank", pa.uint64()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("subset", pa.string()),
        ("url", pa.string()),
        ("language", pa.string()),
        ("meta", pa.string()),
    ]
)

# Names that a lifted column may not have: every document's own, and those that stages and writers add.
RESERVED_COLUMNS = {*SCHEMA.names, "n_duplicates", "component", "is_kept", "text_member", "id_member"}

# A rank is 24 bits of file number and 40 bits of offset (or row), so one file may hold 1 TiB of decompressed text.
POSITION_BITS = 40
MAXIMUM_FILES = 1 << 24
MAXIMUM_POSITION = 1 << POSITION_BITS


def ranks(file_number: int | np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The total order over the input: `file_number` (scalar or int[n]) above `positions` (uint64[n]); uint64[n].

    >>> ranks(2, np.array([0, 7], dtype=np.uint64)) == np.array([2 << 40, (2 << 40) + 7])
    array([ True,  True])
    """
    return (np.asarray(file_number, dtype=np.uint64) << np.uint64(POSITION_BITS)) | positions.astype(np.uint64)


def document_id(source: str, relative_path: str, position: int) -> str:
    """The id of a document whose input has no id column: SOURCE/PATH@OFFSET (the row number in Parquet).

    >>> document_id("c4", "c4-train.00000.jsonl", 1024)
    'c4/c4-train.00000.jsonl@1024'
    """
    return f"{source}/{relative_path}@{position}"


@dataclass(frozen=True)
class DocumentBatch:
    """Consecutive documents on their way through the stages: `positions` uint64[n] in their file, and their texts.

    `columns` has id, source, subset, url, language, meta, lifted columns and those of user stages, where a stage asks for them.
    """

    positions: np.ndarray
    texts: pa.LargeStringArray
    columns: pa.RecordBatch | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def after(self, texts: pa.LargeStringArray | None, columns: Mapping[str, pa.Array] | None = None) -> DocumentBatch:
        """The same documents with edited texts (None: as they are) and more columns."""
        changed = self if texts is None else replace(self, texts=texts)
        if not columns:
            return changed
        assert self.columns is not None
        names, arrays = [*self.columns.schema.names, *columns], [*self.columns.columns, *columns.values()]
        return replace(changed, columns=pa.RecordBatch.from_arrays(arrays, names))

    def take(self, rows: np.ndarray) -> DocumentBatch:
        """The documents of `rows` (int64[k])."""
        if len(rows) == len(self):
            return self
        at = pa.array(rows)
        return DocumentBatch(self.positions[rows], self.texts.take(at), self.columns and self.columns.take(at))

    def record_batch(self) -> pa.RecordBatch:
        """What a user's function sees: id, text, then the other columns. Needs `columns`."""
        assert self.columns is not None
        names = self.columns.schema.names
        arrays = [self.columns.column(0), self.texts, *self.columns.columns[1:]]
        return pa.RecordBatch.from_arrays(arrays, [names[0], "text", *names[1:]])

    def with_texts(self, rows: np.ndarray, texts: list[str]) -> pa.LargeStringArray:
        """The texts with those of `rows` (int64[k], ascending) replaced."""
        if not len(rows):
            return self.texts
        pieces: list[pa.Array] = []
        edited = pa.array(texts, pa.large_string())
        at = 0
        for index, row in enumerate(rows.tolist()):
            if row > at:
                pieces.append(self.texts.slice(at, row - at))
            pieces.append(edited.slice(index, 1))
            at = row + 1
        pieces.append(self.texts.slice(at))
        return pa.concat_arrays(pieces)

    @cached_property
    def utf8(self) -> tuple[np.ndarray, np.ndarray]:
        """The texts as (bytes uint8[total], offsets int64[n + 1]), without a copy where Arrow allows it."""
        return utf8_buffers(self.texts)

    @cached_property
    def text_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each text, int64[n]."""
        return np.diff(self.utf8[1])

    @cached_property
    def cleaned(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """SlimPajama's cleaned texts, computed once for all stages: (bytes, offsets int64[n + 1], code points int64[n])."""
        from curation.kernels.text import clean

        return clean(*self.utf8)


def utf8_buffers(texts: pa.LargeStringArray) -> tuple[np.ndarray, np.ndarray]:
    """The UTF-8 bytes of an array without nulls and its offsets, starting at 0: (uint8[total], int64[n + 1])."""
    if not len(texts):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    if last == first:
        return np.zeros(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    data = np.frombuffer(texts.buffers()[2], np.uint8)[first:last]
    return data, offsets - first if first else offsets
