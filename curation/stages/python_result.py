"""What a user's function returned, checked and brought into the form that built-in stages return."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.stages import MapResult

_LABEL_CHARACTERS = 200  # of a reason or a unit


class WrongResultError(ValueError):
    """The result is no MapResult, or one of its members is not what it should be."""


def checked(result: Any, n: int, taken: Collection[str]) -> MapResult:
    """The result for a batch of n documents; lists, NumPy arrays and the series of pandas and Polars become Arrow's. `taken` are
    names of existing columns.

    Raises WrongResultError that says which member is wrong, and how.
    """
    if not isinstance(result, MapResult):
        raise WrongResultError(f"returned {_kind(result)}; return a curation.stages.MapResult")
    return MapResult(
        removed=_removed(result.removed, n),
        reason=_reason(result.reason, n),
        texts=_texts(result.texts, n),
        columns=_columns(result.columns, n, taken),
        measure=_measure(result.measure, n),
        threshold=_threshold(result.threshold),
        unit=_unit(result.unit),
    )


def _array(name: str, values: Any, n: int, kind: pa.DataType | None = None) -> pa.Array:
    """`values` as an Arrow array of n values."""
    is_series = hasattr(values, "__array__") and hasattr(values, "__len__")  # of pandas, Polars and others
    if isinstance(values, str | bytes) or not (isinstance(values, pa.Array | pa.ChunkedArray | Sequence) or is_series):
        raise WrongResultError(f"returned {name} as {_kind(values)}; give an array or a list with a value for each document")
    try:
        if hasattr(values, "to_arrow"):
            values = values.to_arrow()
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, kind)
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        array = array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array
        array.validate(full=True)  # Arrow takes bytes for a string unseen where they are called one
    except (pa.ArrowException, UnicodeError, OverflowError, TypeError, ValueError) as error:
        raise WrongResultError(f"returned {name} that is no array: {' '.join(str(error).split())}") from None
    if len(array) != n:
        raise WrongResultError(f"returned {name} with {len(array):,} values for {n:,} documents")
    return array


def _removed(values: Any, n: int) -> np.ndarray | None:
    if values is None:
        return None
    array = _array("removed", values, n)
    if not pa.types.is_boolean(array.type) or array.null_count:
        what = f"with {array.null_count:,} nulls" if pa.types.is_boolean(array.type) else f"of type {array.type}"
        raise WrongResultError(f"returned removed {what}; give True for each document that goes, False for the others")
    return array.to_numpy(zero_copy_only=False)


def _reason(values: Any, n: int) -> str | list[str | None] | None:
    if values is None or isinstance(values, str):
        return values if values is None else _label("reason", values)
    array = _array("reason", values, n)
    if not (_is_text(array.type) or pa.types.is_null(array.type)):
        raise WrongResultError(f"returned reason of type {array.type}; give strings")
    labels = {value: _label("reason", value) for value in array.unique().to_pylist() if value is not None}
    return [labels.get(value) for value in array.to_pylist()]


def _label(name: str, value: str) -> str:
    """A short text for tables: one line, UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise WrongResultError(f"returned {name} {value[:80]!a}, which is not valid Unicode") from None
    if len(value) > _LABEL_CHARACTERS:
        raise WrongResultError(f"returned {name} {value[:80]!r}… of {len(value):,} characters; {_LABEL_CHARACTERS} are enough")
    return " ".join(value.split())


def _texts(values: Any, n: int) -> pa.LargeStringArray | None:
    if values is None:
        return None
    array = _array("texts", values, n)
    if not _is_text(array.type) or array.null_count:
        what = f"with {array.null_count:,} nulls" if _is_text(array.type) else f"of type {array.type}"
        raise WrongResultError(f"returned texts {what}; give a string for each document, also for those that go")
    return array.cast(pa.large_string())


def _columns(values: Any, n: int, taken: Collection[str]) -> dict[str, pa.Array]:
    if not isinstance(values, Mapping):
        raise WrongResultError(f"returned columns as {_kind(values)}; give a dictionary of name and values")
    columns = {}
    for name, column in values.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise WrongResultError(f"returned a column named {name!r}; use letters, digits and _")
        if name.lower() in {known.lower() for known in taken}:  # SQL does not tell them apart by case
            raise WrongResultError(f"returned a column named {name!r}, which documents have already; choose another name")
        columns[name] = _column(name, _array(f"column {name!r}", column, n))
    return columns


def _column(name: str, array: pa.Array) -> pa.Array:
    """Plain types only, so that every reader of documents/ understands them."""
    kind = array.type
    if _is_text(kind):
        return array.cast(pa.string())
    if pa.types.is_float16(kind):
        return array.cast(pa.float32())
    plain = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_float32, pa.types.is_float64, pa.types.is_null)
    if not any(is_plain(kind) for is_plain in plain):
        raise WrongResultError(f"returned column {name!r} of type {kind}; a column holds booleans, integers, floats or strings")
    return array


def _measure(values: Any, n: int) -> np.ndarray | None:
    if values is None:
        return None
    array = _array("measure", values, n)
    number = pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_null(array.type)
    if not number:
        raise WrongResultError(f"returned measure of type {array.type}; give numbers")
    return pc.fill_null(array.cast(pa.float64(), safe=False), math.nan).to_numpy(zero_copy_only=False)


def _threshold(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
        raise WrongResultError(f"returned threshold {value!r}; give one number, or nothing")
    return float(value)


def _unit(value: Any) -> str:
    if not isinstance(value, str):
        raise WrongResultError(f"returned unit {value!r}; give a string")
    return _label("unit", value)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == pa.string_view()


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
