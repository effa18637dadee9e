"""Values inside records: dotted paths, and the columns of the output that come from them.

A path names a top-level member and then members inside it. Where a step meets a string, as the hub's loader makes of
RedPajama's `meta`, the string is read as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import orjson
import pyarrow as pa

from curation.formats.records import Columns

_REMEMBERED_BYTES = 256  # values up to this long are parsed once: `meta` is often the same for a whole file
_REMEMBERED_VALUES = 4096

Values = Callable[[str], list[Any]]  # the parsed values of a top-level member, a row each; None where it is missing


def root(path: str) -> str:
    """The top-level member of a dotted path."""
    return path.partition(".")[0]


def roots(columns: Columns, with_details: bool) -> list[str]:
    """The top-level members, other than the text and the id, that a reading needs."""
    paths = [columns.by]
    if with_details:
        paths += [columns.subset, "url", "language", "lang", "meta", *(path for _, path in columns.lifted)]
    return list(dict.fromkeys(root(path) for path in paths if path))


def parsed(raw: bytes) -> Any:
    """The value of JSON text; None for what even `json` refuses. Integers past 64 bits become floats."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        pass  # lone surrogates, NaN and numbers out of range
    try:
        return json.loads(raw, parse_int=float)
    except (ValueError, RecursionError):
        return None


def parsed_all(raws: Iterable[bytes | None]) -> list[Any]:
    """The values of JSON texts (None stays None); equal short texts are parsed once, so values must not be changed."""
    raws = list(raws)
    if not any(raws):
        return [None] * len(raws)
    known: dict[bytes, Any] = {}
    values: list[Any] = []
    for raw in raws:
        if raw is None:
            values.append(None)
        elif len(raw) > _REMEMBERED_BYTES:
            values.append(parsed(raw))
        else:
            if raw not in known and len(known) < _REMEMBERED_VALUES:
                known[raw] = parsed(raw)
            values.append(known[raw] if raw in known else parsed(raw))
    return values


def strings(values: Values, path: str, *, scalars: bool = False) -> pa.Array:
    """The strings that `path` leads to, else null; with `scalars`, numbers and booleans as JSON text too."""
    return pa.array([_string(value, scalars) for value in _at(values, path)], pa.string())


def numbers(values: Values, path: str) -> pa.Array:
    """The numbers and booleans that `path` leads to as float64, else null: batches never differ in type."""
    found = [float(value) if isinstance(value, bool | int | float) else None for value in _at(values, path)]
    return pa.array(found, pa.float64())


def details(columns: Columns, values: Values, meta: pa.Array) -> pa.RecordBatch:
    """Subset, url, language and meta, and the lifted columns, of the rows that `values` gives."""
    n = len(meta)
    arrays = {
        "subset": strings(values, columns.subset, scalars=True) if columns.subset else pa.nulls(n, pa.string()),
        "url": _first(values, "url", "meta.url"),
        "language": _first(values, "language", "lang", "meta.language"),
        "meta": meta,
    }
    arrays.update({name: numbers(values, path) for name, path in columns.lifted})
    return pa.RecordBatch.from_pydict(arrays)


def _first(values: Values, *paths: str) -> pa.Array:
    return pa.compute.coalesce(*(strings(values, path) for path in paths))


def _at(values: Values, path: str) -> list[Any]:
    name, *steps = path.split(".")
    found = values(name)
    return [_inside(value, steps) for value in found] if steps else found


def _inside(value: Any, steps: list[str]) -> Any:
    for step in steps:
        if isinstance(value, str) and value.lstrip()[:1] == "{":
            value = parsed(value.encode("utf-8", "surrogatepass"))
        if not isinstance(value, dict):
            return None
        value = value.get(step)
    return value


def _string(value: Any, scalars: bool) -> str | None:
    if isinstance(value, str):
        return value if is_unicode(value) else None
    if scalars and isinstance(value, bool | int | float):
        return json.dumps(value)
    return None


def is_unicode(text: str) -> bool:
    """Whether `text` can be written as UTF-8: it holds no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
