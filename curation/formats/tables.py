"""Batches from Arrow tables, for formats that have columns: Parquet and Hugging Face data sets.

The other columns of a row become one JSON object, in their order: timestamps, dates and times as ISO 8601 (nanoseconds
are cut to microseconds), decimals and durations as strings, bytes as base64, maps as lists of pairs, NaN and
infinities as null.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from curation.formats import members
from curation.formats.lines import kind_reason, long_text_reason
from curation.formats.records import RAW_BYTES, BadRecord, Batch, Columns, bad_record, empty_batch


class ColumnError(Exception):
    """A column that is missing, or of a type that cannot serve: nothing of the table can be used."""


def needed_columns(names: list[str], columns: Columns, with_details: bool) -> list[str]:
    """Those of the table's columns that a reading needs, in their order."""
    if with_details:
        return names
    needed = {columns.text, columns.id, *members.roots(columns, with_details)}
    return [name for name in names if name in needed]


def batch_of(
    table: pa.RecordBatch, positions: np.ndarray, columns: Columns, maximum_document_bytes: int, with_details: bool
) -> Batch:
    """The batch of the rows of `table`, which stand at `positions`. Raises ColumnError."""
    texts, reasons = _texts(_column(table, columns.text), columns.text, maximum_document_bytes)
    ids = _ids(table, columns.id, reasons) if columns.id else None
    bytes_read = table.nbytes
    if reasons:
        keep = np.ones(table.num_rows, bool)
        keep[list(reasons)] = False
        rows = pa.array(np.flatnonzero(keep))
        bad = [bad_record(int(positions[row]), *reasons[row]) for row in sorted(reasons)]
        table, texts, positions = table.take(rows), texts.take(rows), positions[keep]
        ids = ids.take(rows) if ids is not None else None
    else:
        bad = []
    values = _Values(table)
    by = members.strings(values, columns.by) if columns.by else None
    details = members.details(columns, values, _meta(table, columns, values)) if with_details else None
    return Batch(positions.astype(np.uint64), texts, ids, by, details, bad, bytes_read)


def _column(table: pa.RecordBatch, name: str) -> pa.Array:
    if name not in table.schema.names:
        raise ColumnError(missing_column_reason(name, table.schema.names))
    return table.column(table.schema.names.index(name))


def missing_column_reason(name: str, names: Iterable[str]) -> str:
    """The reason of a table without a column."""
    return f"no column {name!r}; the columns are {', '.join(names)}; name the right one in the recipe's source"


def _texts(array: pa.Array, name: str, maximum_bytes: int) -> tuple[pa.LargeStringArray, dict[int, tuple[str, bytes]]]:
    """The texts, and for each row that cannot be used (reason, bytes)."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_null(array.type):
        array = array.cast(pa.large_string())
    if not (_is_string(array.type) or _is_binary(array.type)):
        raise ColumnError(f"column {name!r} holds {array.type}, not strings")
    raw = array.cast(pa.large_binary())
    reasons = {row: (kind_reason(name, "null"), b"") for row in np.flatnonzero(np.asarray(raw.is_null())).tolist()}
    sizes = np.asarray(pc.fill_null(pc.binary_length(raw), 0))
    for row in np.flatnonzero(sizes > maximum_bytes).tolist():
        reasons[row] = (long_text_reason(int(sizes[row]), maximum_bytes), raw[row].as_buffer()[:RAW_BYTES].to_pybytes())
    if not _is_valid(raw):
        for row, value in enumerate(raw):
            at = _invalid_byte(value) if row not in reasons else None
            if at is not None:
                reasons[row] = (f"invalid UTF-8 at byte {at} of the text", value.as_py())
    return raw.view(pa.large_string()), reasons


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_valid(raw: pa.Array) -> bool:
    """Whether all values are valid UTF-8. Parquet's readers do not look."""
    try:
        raw.view(pa.large_string()).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _invalid_byte(value: pa.Scalar) -> int | None:
    try:
        value.as_py().decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def _ids(table: pa.RecordBatch, name: str, reasons: dict[int, tuple[str, bytes]]) -> pa.Array:
    array = _column(table, name)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not (_is_string(array.type) or pa.types.is_integer(array.type)):
        raise ColumnError(f"column {name!r}, which is to hold the id, holds {array.type}, neither strings nor integers")
    for row in np.flatnonzero(np.asarray(array.is_null())).tolist():
        reasons.setdefault(row, (f"the id {name!r} is null", b""))
    return array.cast(pa.string())


class _Values:
    """Columns as Python values, converted once; called with a column's name."""

    def __init__(self, table: pa.RecordBatch) -> None:
        self._table = table
        self._known: dict[str, list[Any]] = {}

    def __call__(self, name: str) -> list[Any]:
        if name not in self._known:
            names = self._table.schema.names
            column = self._table.column(names.index(name)) if name in names else None
            self._known[name] = [None] * self._table.num_rows if column is None else _python_values(column)
        return self._known[name]


def _python_values(array: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(array.type) and array.type.unit == "ns":
        array = array.cast(pa.timestamp("us", array.type.tz), safe=False)
    try:
        return array.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        # Only texts are checked in the first pass, so a document must not be lost here for what another column holds.
        return [_replaced(array, row) for row in range(len(array))]


def _replaced(array: pa.Array, row: int) -> Any:
    try:
        return array[row].as_py()
    except UnicodeDecodeError:
        return array[row].as_buffer().to_pybytes().decode(errors="replace") if _is_string(array.type) else None


def _meta(table: pa.RecordBatch, columns: Columns, values: _Values) -> pa.Array:
    """The other columns of each row as one JSON object."""
    names = [name for name in table.schema.names if name not in (columns.text, columns.id)]
    if not names:
        return pa.array(["{}"] * table.num_rows, pa.string())
    rows = zip(*(values(name) for name in names), strict=True)
    objects = [
        orjson.dumps(dict(zip(names, row, strict=True)), default=_plain, option=orjson.OPT_NON_STR_KEYS) for row in rows
    ]
    return pa.array(objects, pa.binary()).cast(pa.string())


def _plain(value: Any) -> Any:
    """What JSON has for a value that it lacks."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime):  # pandas' own, which nested nanoseconds become
        return value.isoformat()
    if isinstance(value, np.generic):
        return value.item()
    return str(value)


def lost_table(position: int, reason: str, lost_bytes: int, n_rows: int | None = None) -> Batch:
    """A batch that says that the rest of a table cannot be used, and how many rows that is if the table says so."""
    return empty_batch([BadRecord(position, reason, b"", max(1, lost_bytes), True, n_rows)])
