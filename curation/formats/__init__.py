"""Input formats: what a file is, how it is cut into pieces, and the batches of a piece."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from curation import storage
from curation.formats import huggingface, jsonl, parquet
from curation.formats.huggingface import dataset_info, dataset_splits, is_dataset_directory, spool
from curation.formats.records import BATCH_BYTES, Batch, Columns, Piece

__all__ = [
    "KNOWN_SUFFIXES",
    "Reader",
    "dataset_info",
    "dataset_splits",
    "format_of",
    "is_dataset_directory",
    "pieces",
    "read",
    "spool",
]

KNOWN_SUFFIXES = ".jsonl, .ndjson, .json (plain, .gz or .zst) or .parquet"
_LINES = (".jsonl", ".ndjson", ".json")
_FORMATS: dict[str, Any] = {"jsonl": jsonl, "parquet": parquet, "huggingface": huggingface}
_READERS: dict[str, Any] = {
    "jsonl": jsonl.JsonlReader,
    "parquet": parquet.ParquetReader,
    "huggingface": huggingface.HuggingFaceReader,
}


class Reader(Protocol):
    """The batches of a piece, in order; `digest` is the XXH3-128 (hex) of the bytes read, once all batches were.

    It is "" where it was not taken: with `wanted`, and where an etag says as much. Iterating raises OSError when the
    file cannot be read; bad content never raises but comes as bad records.
    """

    digest: str

    def __iter__(self) -> Iterator[Batch]: ...


def format_of(path: str, given: str | None = None) -> str:
    """The format of a file: as `given`, or from its suffix. Raises ValueError when neither says."""
    if given is not None:
        if given not in _FORMATS:
            raise ValueError(f"unknown format {given!r}; the formats are {', '.join(_FORMATS)}")
        return given
    name = path.lower()
    if name.endswith(".parquet"):
        return "parquet"
    if jsonl.codec(name) is not None:
        name = os.path.splitext(name)[0]
    if name.endswith(_LINES):
        return "jsonl"
    raise ValueError(f"{path} is no {KNOWN_SUFFIXES} file; name its format in the source: `format: jsonl`")


def pieces(info: storage.FileInfo, form: str, unit_bytes: int) -> list[Piece]:
    """Cut a file into pieces of about `unit_bytes` of raw data where its format allows it. Raises OSError."""
    cut: list[Piece] = _FORMATS[form].pieces(info, unit_bytes)
    return cut


def read(
    piece: Piece,
    columns: Columns,
    *,
    maximum_document_bytes: int,
    batch_bytes: int = BATCH_BYTES,
    wanted: np.ndarray | None = None,
    with_details: bool = False,
) -> Reader:
    """Read a piece, or of it only the records at the positions `wanted` (uint64, ascending)."""
    reader: Reader = _READERS[piece.format](
        piece,
        columns,
        maximum_document_bytes=maximum_document_bytes,
        batch_bytes=batch_bytes,
        wanted=wanted,
        with_details=with_details,
    )
    return reader
