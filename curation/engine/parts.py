"""Parts as later tasks see them: numbered documents, and a second reading of chosen ones.

Documents are numbered densely in rank order: a part's documents are base, base + 1, ... Decisions are arrays sorted by this
number, so each task reads its own range of them.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import formats, storage
from curation.documents import document_id, ranks
from curation.engine.array_file import ArrayFile
from curation.engine.ipc_file import read_ipc
from curation.engine.plan import InputFile, Unit
from curation.formats.records import Columns


@dataclass(frozen=True)
class Part:
    """A part of the input after the first pass."""

    path: str
    index: int  # place among all parts
    base: int  # number of its first document
    n_documents: int
    unit: Unit

    def arrays(self) -> ArrayFile:
        """The part's arrays."""
        return ArrayFile(f"{self.path}.arrays")

    def ranks(self, arrays: ArrayFile, rows: np.ndarray | None = None) -> np.ndarray:
        """Ranks of `rows` (all by default), uint64."""
        numbers = np.array([file.number for file in self.unit.files], np.uint64)
        chosen = slice(None) if rows is None else rows
        return ranks(numbers[arrays.whole("file")[chosen]], arrays.whole("position")[chosen])

    def ids(self, arrays: ArrayFile, rows: np.ndarray) -> list[str]:
        """Ids of `rows` (int64): the input's own where it has a column for them."""
        if "ids" in arrays.meta["beside"]:
            if "ids" not in arrays.beside:  # asked for once a batch
                arrays.beside["ids"] = read_ipc(f"{self.path}.ids").read_all()["id"].combine_chunks()
            return arrays.beside["ids"].take(pa.array(rows)).to_pylist()
        files, positions = arrays.whole("file")[rows].tolist(), arrays.whole("position")[rows].tolist()
        relative = [file.relative for file in self.unit.files]
        return [document_id(self.unit.source, relative[f], p) for f, p in zip(files, positions, strict=True)]


def write_parts(path: str, parts: list[Part]) -> None:
    """Leave the list of all parts where tasks find it (a pickle: work/ holds nothing that strangers wrote)."""
    storage.write_bytes(path, pickle.dumps(parts))


def load_parts(path: str) -> list[Part]:
    """What `write_parts` left."""
    return pickle.loads(storage.read_bytes(path))


def number_range(numbers: np.ndarray, part: Part) -> tuple[int, int]:
    """Where the documents of `part` lie in the sorted array `numbers`."""
    start, stop = np.searchsorted(numbers, np.array([part.base, part.base + part.n_documents], np.uint64)).tolist()
    return start, stop


@dataclass(frozen=True)
class Rows:
    """Some rows of a part with their final texts: `rows` int64[k] ascending."""

    part: int  # index in the list that was asked for
    rows: np.ndarray
    texts: pa.LargeStringArray
    details: pa.RecordBatch | None


def read_rows(
    parts: list[Part],
    wanted: list[np.ndarray],
    columns: dict[str, Columns],
    maximum_document_bytes: int,
    with_details: bool = False,
) -> Iterator[Rows]:
    """Read the input again for `wanted[i]` (rows of `parts[i]`, ascending), with the texts as the stages left them.

    Parts of one unit must stand together in `parts`: their file is read once. Raises OSError when the input has changed.
    """
    start = 0
    while start < len(parts):
        end = start + 1
        while end < len(parts) and parts[end].unit.key == parts[start].unit.key:
            end += 1
        yield from _read_unit_rows(parts, wanted, start, end, columns, maximum_document_bytes, with_details)
        start = end


def _read_unit_rows(
    parts: list[Part],
    wanted: list[np.ndarray],
    start: int,
    end: int,
    columns: dict[str, Columns],
    maximum_document_bytes: int,
    with_details: bool,
) -> Iterator[Rows]:
    unit = parts[start].unit
    files, positions = [], []
    for index in range(start, end):
        arrays = parts[index].arrays()
        files.append(arrays.read("file")[wanted[index]])
        positions.append(arrays.read("position")[wanted[index]])
    part_of = np.repeat(np.arange(start, end), [len(p) for p in positions])
    row_of = np.concatenate([wanted[index] for index in range(start, end)])
    file_of, position_of = np.concatenate(files), np.concatenate(positions)
    changed = _ChangedTexts()
    for number, piece in enumerate(unit.pieces):
        here = np.flatnonzero(file_of == number)
        if not len(here):
            continue
        targets = position_of[here]
        done = 0
        _check_unchanged(unit.files[number])
        reader = formats.read(
            piece, columns[unit.source], maximum_document_bytes=maximum_document_bytes, wanted=targets, with_details=with_details
        )
        for batch in reader:
            n = len(batch.texts)
            if not n:
                continue
            if not np.array_equal(batch.positions, targets[done : done + n]):
                raise OSError(f"{piece.path} changed while it was being processed; run the command again")
            for index, at, length in _runs(part_of[here[done : done + n]]):
                rows = row_of[here[done + at : done + at + length]]
                texts = changed.applied(parts[index], rows, batch.texts.slice(at, length))
                details = batch.details.slice(at, length) if batch.details is not None else None
                yield Rows(index, rows, texts, details)
            done += n
        if done < len(targets):
            raise OSError(f"{piece.path} changed while it was being processed; run the command again")
        _check_unchanged(unit.files[number])


def _check_unchanged(file: InputFile) -> None:
    """Decisions hold for the bytes that the first pass read. Raises OSError when the file was touched since."""
    if file.format == "huggingface":
        return  # no file, and its fingerprint names its content
    info = file.info
    try:
        now = storage.file_info(info.path)
    except FileNotFoundError:
        raise OSError(f"{info.path} vanished while it was being processed; bring it back and run the command again") from None
    if (now.size, now.mtime_ns, now.etag) != (info.size, info.mtime_ns, info.etag):
        raise OSError(f"{info.path} changed while it was being processed; run the command again")


def _runs(values: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of equal values: (value, start, length)."""
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    lengths = np.diff(np.append(starts, len(values)))
    return list(zip(values[starts].tolist(), starts.tolist(), lengths.tolist(), strict=True))


class _ChangedTexts:
    """The texts that stages changed, of the part being read."""

    def __init__(self) -> None:
        self._path = ""
        self._rows = np.zeros(0, np.int64)
        self._texts: pa.Array = pa.array([], pa.large_string())

    def applied(self, part: Part, rows: np.ndarray, texts: pa.LargeStringArray) -> pa.LargeStringArray:
        """`texts` (of `rows`) with the changed ones in place."""
        if part.path != self._path:
            self._load(part.path, "texts" in part.arrays().meta["beside"])
        at = np.searchsorted(self._rows, rows)
        hit = at < len(self._rows)
        hit[hit] = self._rows[at[hit]] == rows[hit]
        if not hit.any():
            return texts
        return pc.replace_with_mask(texts, pa.array(hit), self._texts.take(pa.array(at[hit])))

    def _load(self, path: str, changed: bool) -> None:
        self._path = path
        if not changed:
            self._rows, self._texts = np.zeros(0, np.int64), pa.array([], pa.large_string())
            return
        table = read_ipc(f"{path}.texts").read_all()
        self._rows = table["row"].to_numpy().astype(np.int64)
        self._texts = table["text"].combine_chunks()
