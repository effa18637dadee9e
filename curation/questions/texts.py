"""The texts of single documents: of kept ones from documents/, of removed ones from the input, while that costs little.

What is read is bounded: a compressed file must be read from its start, and a row group up to the row. Where the bound is
reached, or the input is gone or was touched since, the answer is a reason instead of a text.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq

from curation import formats, storage
from curation.engine.plan import columns_of
from curation.engine.stage_pass import document_batch, needs_columns, pass_stages
from curation.formats import members
from curation.formats.records import Piece
from curation.questions.lookup import DocumentPart, FinishedRun, ListedFile, Place
from curation.questions.result_files import open_lines, open_parquet
from curation.stages import DocumentFailuresError, MapStage

_SEEK_BYTES = 2**18  # read at a time of a file that can be entered anywhere
_BLOCK_BYTES = 2**20
_USUAL_RATIO = 4  # of compressed JSON lines
_LINES_SOUGHT = 16  # of one file of JSON lines: each is searched for by itself


@dataclass
class Budget:
    """Decompressed bytes that may still be read."""

    bytes_left: int

    def spend(self, n_bytes: int) -> bool:
        """Whether there was room for `n_bytes`, which are then gone."""
        if n_bytes > self.bytes_left:
            return False
        self.bytes_left -= n_bytes
        return True


@dataclass(frozen=True)
class Found:
    """A text, or why there is none."""

    text: str | None
    why_not: str | None = None


class TextReader:
    """Reads texts of one run within a budget."""

    def __init__(self, run: FinishedRun, budget_bytes: int) -> None:
        self.run, self.budget = run, Budget(budget_bytes)
        self._files: dict[int, str | Found] = {}

    def kept(self, parts: dict[int, DocumentPart]) -> dict[int, Found]:
        """Texts of documents/ by rank, a row group at a time; `parts` says where each lies (Parquet)."""
        by_part: dict[DocumentPart, list[int]] = {}
        for rank, part in parts.items():
            by_part.setdefault(part, []).append(rank)
        found: dict[int, Found] = {}
        for part, ranks in by_part.items():
            if self.budget.spend(part.text_bytes):
                texts = self.run.document_texts(part, ranks)
                found |= {rank: Found(texts.get(rank), "not in documents/") for rank in ranks}
            else:
                found |= dict.fromkeys(ranks, Found(None, "reading so many texts would take long"))
        return found

    def lines(self, path: str, ids: dict[str, str | None]) -> dict[str, dict[str, Any]]:
        """The lines of a file of documents/ (JSON lines) by id; `ids` maps each to the member that holds ids, None: `id`.

        A line whose other members include an `id` carries none of ours, and is not found.
        """
        ids = dict(list(ids.items())[:_LINES_SOUGHT])
        if not self.budget.spend(self.run.whole_size(path) * _USUAL_RATIO):
            return {}
        needles = {value: orjson.dumps({member or "id": value})[1:-1] for value, member in ids.items()}
        found: dict[str, dict[str, Any]] = {}
        rest = b""
        with open_lines(path) as stream:
            while len(found) < len(ids) and (chunk := stream.read(_BLOCK_BYTES)):
                block, newline, tail = chunk.rpartition(b"\n")
                block, rest = (rest + block + newline, tail) if newline else (b"", rest + chunk)
                for value, needle in needles.items():
                    line = None if value in found else _line_with(block, needle, ids[value] or "id", value)
                    if line is not None:
                        found[value] = line
        return found

    def removed(self, places: list[Place]) -> dict[Place, Found]:
        """Texts from the input, as the recipe's map stages leave them; what is nearest to the start of its file first."""
        found: dict[Place, Found] = {}
        by_piece: dict[tuple[int, Piece], list[Place]] = {}
        for place in sorted(set(places), key=lambda place: (place.position, place.number)):
            file = self._unchanged_file(place.number)
            if isinstance(file, Found):
                found[place] = file
            else:
                by_piece.setdefault((place.number, self._piece(place, file)), []).append(place)
        for (number, piece), mine in by_piece.items():
            # The nearest first: more of them fit.
            while mine and not self.budget.spend(self._cost(number, piece, mine)):
                found[mine.pop()] = Found(None, "reading to its place in the input would take long")
            if mine:
                found |= self._from_piece(number, piece, mine)
        return found

    def _unchanged_file(self, number: int) -> str | Found:
        """The path of a file of the input, or why it cannot stand for what the run read."""
        if number not in self._files:
            self._files[number] = self._look_at(self.run.files[number])
        return self._files[number]

    def _look_at(self, file: ListedFile) -> str | Found:
        source = self.run.sources[file.source]
        if source.streaming:
            return Found(None, "its source is a stream")
        base = storage.fixed_part(source.path)
        path = storage.join(base, file.relative)
        if os.path.basename(base) == file.relative and not storage.exists(path):
            path = base  # the source names this very file
        if source.format == "huggingface" or formats.is_dataset_directory(base):
            return Found(None, "its source is a Hugging Face data set")
        try:
            now = storage.file_info(path)
        except OSError:
            return Found(None, "the input file is no longer there")
        if (now.size, now.etag, now.mtime_ns) != (file.size, file.etag, file.mtime_ns):
            return Found(None, "the input file was changed since")
        return path

    def _form(self, number: int, path: str) -> str:
        return formats.format_of(path, self.run.sources[self.run.files[number].source].format)

    def _piece(self, place: Place, path: str) -> Piece:
        """The piece of the file that the place lies in: some compressed files can be entered in their midst."""
        file = self.run.files[place.number]
        form = self._form(place.number, path)
        info = storage.FileInfo(path, file.size, file.etag, file.mtime_ns)
        cut = formats.pieces(info, form, self.run.run["unit_bytes"])
        return next(piece for piece in reversed(cut) if piece.start <= place.position)

    def _cost(self, number: int, piece: Piece, places: list[Place]) -> int:
        """Decompressed bytes that reading all these places takes, about."""
        if piece.format == "parquet":
            return _parquet_bytes(piece.path, [place.position for place in places], self._text_column(number))
        if _can_be_entered(piece.path):
            return 2 * _SEEK_BYTES * len(places)
        return places[-1].position - piece.start + _BLOCK_BYTES

    def _text_column(self, number: int) -> str:
        return self.run.sources[self.run.files[number].source].text

    def _from_piece(self, number: int, piece: Piece, places: list[Place]) -> dict[Place, Found]:
        file = self.run.files[number]
        try:
            stages = [stage for stage in self.run.stages if isinstance(stage, MapStage)]
        except ValueError as error:
            return dict.fromkeys(places, Found(None, str(error)))
        details = needs_columns(list(stages))
        found = dict.fromkeys(places, Found(None, "the input has no document there"))
        reader = formats.read(
            piece,
            columns_of(self.run.sources[file.source]),
            maximum_document_bytes=self.run.run["recipe"]["max_document_bytes"],
            batch_bytes=_SEEK_BYTES if _can_be_entered(piece.path) else _BLOCK_BYTES,
            wanted=np.array([place.position for place in places], np.uint64),
            with_details=details,
        )
        try:
            for batch in reader:
                documents = document_batch(batch, file.source, file.relative, details)
                texts = pass_stages(list(stages), documents).documents.texts.to_pylist()
                for position, text in zip(batch.positions.tolist(), texts, strict=True):
                    found[Place(number, position)] = Found(text)
        except (OSError, DocumentFailuresError, ValueError) as error:
            return dict.fromkeys(places, Found(None, f"reading it from the input failed: {error}"))
        return found


def _can_be_entered(path: str) -> bool:
    """Whether JSON lines can be read from any byte on: they are not compressed."""
    return not path.lower().endswith((".gz", ".zst", ".zstd", ".parquet"))


def _parquet_bytes(path: str, rows: list[int], column: str) -> int:
    """What the texts of the row groups with these rows take, decompressed."""
    with open_parquet(path) as file:
        if column not in file.schema_arrow.names:
            return 0
        groups = [group for group, first, last in _groups(file) if any(first <= row < last for row in rows)]
        return sum(_column_bytes(file, group, column) for group in groups)


def _groups(file: pq.ParquetFile) -> list[tuple[int, int, int]]:
    groups, row = [], 0
    for group in range(file.num_row_groups):
        n_rows = file.metadata.row_group(group).num_rows
        groups.append((group, row, row + n_rows))
        row += n_rows
    return groups


def _column_bytes(file: pq.ParquetFile, group: int, name: str) -> int:
    metadata = file.metadata.row_group(group)
    columns = [metadata.column(index) for index in range(metadata.num_columns)]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema.split(".")[0] == name)


def _line_with(block: bytes, needle: bytes, member: str, value: str) -> dict[str, Any] | None:
    """The line of the block whose member `member` is `value`; the needle may also stand inside another member."""
    at = block.find(needle)
    while at >= 0:
        start, end = block.rfind(b"\n", 0, at) + 1, block.find(b"\n", at)
        line = members.parsed(block[start:end])  # whose other members are as they were read
        if isinstance(line, dict) and line.get(member) == value:
            return line
        at = block.find(needle, end)
    return None
