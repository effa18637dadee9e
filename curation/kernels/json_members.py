"""Lines of JSON objects, scanned once: where their members lie, and the decoded text.

The scan checks the whole grammar of a line (strings included: escapes and UTF-8), so that a line it accepts is one that
Python's `json` accepts; lines that it refuses are left to a slow reader that can say what is wrong. It moves eight
bytes at a time through strings, where nearly all bytes are. Values keep their bytes: nothing is parsed but the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from curation.kernels import kernel, read_only

MAXIMUM_DEPTH = 512  # of nested values; deeper lines are refused
_SPARE_BYTES = 8  # text is copied a word at a time, so up to this much may be written past its end

_ONES = np.uint64(0x0101010101010101)
_HIGH = np.uint64(0x8080808080808080)
_CONTROLS = np.uint64(0x2020202020202020)
_QUOTES = np.uint64(0x2222222222222222)
_BACKSLASHES = np.uint64(0x5C5C5C5C5C5C5C5C)
_NEWLINES = np.uint64(0x0A0A0A0A0A0A0A0A)


def _word_pointer(context: Any, builder: Any, signature: Any, array: Any, index: Any) -> Any:
    view = context.make_array(signature.args[0])(context, builder, array)
    address = builder.gep(view.data, [index])
    return builder.bitcast(address, ir.IntType(64).as_pointer())


@intrinsic
def _load_word(typing_context: Any, data: Any, index: Any) -> Any:
    """Bytes [index, index + 8) of a uint8 array as one little-endian word, at any alignment."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_word_pointer(context, builder, signature, *arguments), align=1)

    return types.uint64(data, types.intp), generate


@intrinsic
def _store_word(typing_context: Any, data: Any, index: Any, word: Any) -> Any:
    """Write a word over bytes [index, index + 8) of a uint8 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at, value = arguments
        builder.store(value, _word_pointer(context, builder, signature, array, at), align=1)
        return context.get_dummy_value()

    return types.void(data, types.intp, types.uint64), generate


@intrinsic
def _trailing_zeros(typing_context: Any, word: Any) -> Any:
    """Zero bits below the lowest one bit of a word that is not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@kernel
def _specials(word):  # type: ignore[no-untyped-def]
    """The lowest bit set is in the first byte that is a control, a quote, a backslash or beyond ASCII; 0: none is."""
    quotes = (word ^ _QUOTES) - _ONES
    backslashes = (word ^ _BACKSLASHES) - _ONES
    return ((word - _CONTROLS) | quotes | backslashes | word) & _HIGH


@kernel
def _utf8_length(data, i, end):  # type: ignore[no-untyped-def]
    """Bytes of the UTF-8 character at `i` (a byte of at least 0x80), or 0 when it is not valid."""
    first = data[i]
    if first < 0xC2 or first > 0xF4:
        return 0
    if first < 0xE0:
        return 2 if i + 1 < end and data[i + 1] & 0xC0 == 0x80 else 0
    if first < 0xF0:
        if i + 2 >= end or data[i + 2] & 0xC0 != 0x80:
            return 0
        low = 0xA0 if first == 0xE0 else 0x80
        high = 0x9F if first == 0xED else 0xBF
        return 3 if low <= data[i + 1] <= high else 0
    if i + 3 >= end or data[i + 2] & 0xC0 != 0x80 or data[i + 3] & 0xC0 != 0x80:
        return 0
    low = 0x90 if first == 0xF0 else 0x80
    high = 0x8F if first == 0xF4 else 0xBF
    return 4 if low <= data[i + 1] <= high else 0


@kernel
def _hexadecimal(data, i, end):  # type: ignore[no-untyped-def]
    """The value of four hexadecimal digits at `i`, or -1."""
    if i + 4 > end:
        return -1
    value = 0
    for k in range(i, i + 4):
        byte = data[k]
        if 48 <= byte <= 57:
            digit = byte - 48
        elif 65 <= byte <= 70:
            digit = byte - 55
        elif 97 <= byte <= 102:
            digit = byte - 87
        else:
            return -1
        value = value * 16 + digit
    return value


@kernel
def _skip_string(data, i, end):  # type: ignore[no-untyped-def]
    """The index after the closing quote of the string whose first byte is at `i`, or -1."""
    while True:
        while i + 8 <= end:
            marks = _specials(_load_word(data, i))  # type: ignore[call-arg]
            if marks:
                i += np.intp(_trailing_zeros(marks) >> np.uint64(3))
                break
            i += 8
        if i >= end:
            return -1
        byte = data[i]
        if byte == 0x22:
            return i + 1
        if byte == 0x5C:
            if i + 1 >= end:
                return -1
            kind = data[i + 1]
            if kind == 0x75:
                if _hexadecimal(data, i + 2, end) < 0:
                    return -1
                i += 6
            elif _escaped(kind) < 0:
                return -1
            else:
                i += 2
        elif byte >= 0x80:
            while i < end and data[i] >= 0x80:
                length = _utf8_length(data, i, end)
                if length == 0:
                    return -1
                i += length
        elif byte < 0x20:
            return -1
        else:
            i += 1


@kernel
def _escaped(kind):  # type: ignore[no-untyped-def]
    """The byte that a backslash and `kind` stand for, or -1."""
    if kind == 0x6E:
        return 10
    if kind == 0x22 or kind == 0x5C or kind == 0x2F:
        return np.int64(kind)
    if kind == 0x74:
        return 9
    if kind == 0x72:
        return 13
    if kind == 0x62:
        return 8
    if kind == 0x66:
        return 12
    return -1


@kernel
def _put_character(out, o, code):  # type: ignore[no-untyped-def]
    """Write a code point as UTF-8 at `o`; the index after it."""
    if code < 0x80:
        out[o] = code
        return o + 1
    if code < 0x800:
        out[o] = 0xC0 | code >> 6
        out[o + 1] = 0x80 | code & 0x3F
        return o + 2
    if code < 0x10000:
        out[o] = 0xE0 | code >> 12
        out[o + 1] = 0x80 | code >> 6 & 0x3F
        out[o + 2] = 0x80 | code & 0x3F
        return o + 3
    out[o] = 0xF0 | code >> 18
    out[o + 1] = 0x80 | code >> 12 & 0x3F
    out[o + 2] = 0x80 | code >> 6 & 0x3F
    out[o + 3] = 0x80 | code & 0x3F
    return o + 4


@kernel
def _copy_unicode_escape(data, i, end, out, o):  # type: ignore[no-untyped-def]
    """Decode the escape (or the pair of them) whose backslash is at `i` to `out[o:]`; (-1, o) for a lone surrogate."""
    code = _hexadecimal(data, i + 2, end)
    if code < 0 or 0xDC00 <= code <= 0xDFFF:
        return -1, o
    i += 6
    if 0xD800 <= code <= 0xDBFF:
        if i + 6 > end or data[i] != 0x5C or data[i + 1] != 0x75:
            return -1, o
        low = _hexadecimal(data, i + 2, end)
        if low < 0xDC00 or low > 0xDFFF:
            return -1, o
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        i += 6
    return i, _put_character(out, o, code)


@kernel
def _copy_string(data, i, end, out, o):  # type: ignore[no-untyped-def]
    """As `_skip_string`, decoding to `out[o:]`: (index after the quote, end in `out`); refuses a lone surrogate too."""
    while True:
        while i + 8 <= end:
            word: Any = _load_word(data, i)  # type: ignore[call-arg]
            _store_word(out, o, word)
            marks = _specials(word)
            if marks:
                plain = np.intp(_trailing_zeros(marks) >> np.uint64(3))
                i += plain
                o += plain
                break
            i += 8
            o += 8
        if i >= end:
            return -1, o
        byte = data[i]
        if byte == 0x22:
            return i + 1, o
        if byte == 0x5C:
            if i + 1 >= end:
                return -1, o
            kind = data[i + 1]
            if kind == 0x75:
                i, o = _copy_unicode_escape(data, i, end, out, o)
                if i < 0:
                    return -1, o
            else:
                code = _escaped(kind)
                if code < 0:
                    return -1, o
                out[o] = code
                i += 2
                o += 1
        elif byte >= 0x80:
            while i < end and data[i] >= 0x80:
                length = _utf8_length(data, i, end)
                if length == 0:
                    return -1, o
                for k in range(length):
                    out[o + k] = data[i + k]
                i += length
                o += length
        elif byte < 0x20:
            return -1, o
        else:
            out[o] = byte
            i += 1
            o += 1


@kernel
def _skip_space(data, i, end):  # type: ignore[no-untyped-def]
    """The first index from `i` on that is no space, tab or carriage return. (A newline ends the line, so it stays.)"""
    while i < end and (data[i] == 0x20 or data[i] == 0x09 or data[i] == 0x0D):
        i += 1
    return i


@kernel
def _skip_digits(data, i, end):  # type: ignore[no-untyped-def]
    while i < end and 48 <= data[i] <= 57:
        i += 1
    return i


@kernel
def _skip_word(data, i, end, word):  # type: ignore[no-untyped-def]
    if i + len(word) > end:
        return -1
    for k in range(len(word)):
        if data[i + k] != word[k]:
            return -1
    return i + len(word)


@kernel
def _skip_scalar(data, i, end):  # type: ignore[no-untyped-def]
    """The index after the number or word at `i`, or -1. NaN and the infinities are accepted, as `json` does."""
    byte = data[i]
    if byte == 0x74:
        return _skip_word(data, i, end, b"true")
    if byte == 0x66:
        return _skip_word(data, i, end, b"false")
    if byte == 0x6E:
        return _skip_word(data, i, end, b"null")
    if byte == 0x4E:
        return _skip_word(data, i, end, b"NaN")
    if byte == 0x2D:
        i += 1
        if i >= end:
            return -1
    if data[i] == 0x49:
        return _skip_word(data, i, end, b"Infinity")
    after = _skip_digits(data, i, end)
    if after == i or (data[i] == 48 and after > i + 1):
        return -1
    i = after
    if i < end and data[i] == 0x2E:
        after = _skip_digits(data, i + 1, end)
        if after == i + 1:
            return -1
        i = after
    if i < end and data[i] | 0x20 == 0x65:
        i += 1
        if i < end and (data[i] == 0x2B or data[i] == 0x2D):
            i += 1
        after = _skip_digits(data, i, end)
        if after == i:
            return -1
        i = after
    return i


@kernel
def _skip_key(data, i, end):  # type: ignore[no-untyped-def]
    """The index of the value whose member's key should start at or after `i`, or -1."""
    i = _skip_space(data, i, end)
    if i >= end or data[i] != 0x22:
        return -1
    i = _skip_string(data, i + 1, end)
    if i < 0:
        return -1
    i = _skip_space(data, i, end)
    if i >= end or data[i] != 0x3A:
        return -1
    return _skip_space(data, i + 1, end)


@kernel
def _skip_value(data, i, end, is_object):  # type: ignore[no-untyped-def]
    """The index after the value at `i`, or -1; `is_object` (bool[MAXIMUM_DEPTH]) is scratch: what is open."""
    depth = 0
    while True:
        if i < 0 or i >= end:
            return -1
        byte = data[i]
        if byte == 0x7B or byte == 0x5B:
            if depth == MAXIMUM_DEPTH:
                return -1
            is_object[depth] = byte == 0x7B
            i = _skip_space(data, i + 1, end)
            if i >= end:
                return -1
            if data[i] != byte + 2:  # the closing bracket is two above the opening one
                depth += 1
                if byte == 0x7B:
                    i = _skip_key(data, i, end)
                continue
            i += 1
        elif byte == 0x22:
            i = _skip_string(data, i + 1, end)
        else:
            i = _skip_scalar(data, i, end)
        if i < 0:
            return -1
        while depth:
            i = _skip_space(data, i, end)
            if i >= end:
                return -1
            inside = is_object[depth - 1]
            if data[i] == 0x2C:
                i = _skip_key(data, i + 1, end) if inside else _skip_space(data, i + 1, end)
                break
            if data[i] != (0x7D if inside else 0x5D):
                return -1
            i += 1
            depth -= 1
        else:
            return i


@kernel
def _which_name(data, start, end, names, name_ends):  # type: ignore[no-untyped-def]
    """The index of the name that equals data[start:end), or -1; -2 when the bytes hold an escape."""
    for k in range(start, end):
        if data[k] == 0x5C:
            return -2
    first = 0
    for index in range(len(name_ends)):
        last = name_ends[index]
        if last - first == end - start:
            same = True
            for k in range(end - start):
                if data[start + k] != names[first + k]:
                    same = False
                    break
            if same:
                return index
        first = last
    return -1


@kernel
def _copy_bytes(data, start, end, out, o):  # type: ignore[no-untyped-def]
    for k in range(end - start):
        out[o + k] = data[start + k]
    return o + end - start


@kernel
def _scan_line(data, i, end, names, name_ends, spans, text, t, rest, r, is_object):  # type: ignore[no-untyped-def]
    """Scan the object whose brace is at `i`: (index after it or -1, end of its text, end of its rest).

    `spans` (int64[k, 2]) gets the values of the named members. Name 0 is the text, which must be a string. `rest` gets
    an object of the members other than the text and, when it is named, the id (name 1), unless it has no room at all.
    """
    text_end = np.int64(-1)
    with_rest = len(rest) > 0
    o = r
    if with_rest:
        rest[o] = 0x7B
        o += 1
    i = _skip_space(data, i + 1, end)
    if i < end and data[i] == 0x7D:
        return -1, t, r  # no text
    while True:
        i = _skip_space(data, i, end)
        if i >= end or data[i] != 0x22:
            return -1, t, r
        key = i + 1
        i = _skip_key(data, i, end)
        if i < 0 or i >= end:
            return -1, t, r
        key_end = i - 1
        while data[key_end] != 0x22:
            key_end -= 1
        name = _which_name(data, key, key_end, names, name_ends)
        if name == -2:
            return -1, t, r
        value = i
        if name == 0:
            if data[i] != 0x22:
                return -1, t, r
            i, text_end = _copy_string(data, i + 1, end, text, t)
        else:
            i = _skip_value(data, i, end, is_object)
        if i < 0:
            return -1, t, r
        if name >= 0:
            spans[name, 0] = value
            spans[name, 1] = i
        if with_rest and name != 0 and (name != 1 or name_ends[1] == name_ends[0]):
            o = _copy_bytes(data, key - 1, key_end + 1, rest, o)
            rest[o] = 0x3A
            o = _copy_bytes(data, value, i, rest, o + 1)
            rest[o] = 0x2C
            o += 1
        i = _skip_space(data, i, end)
        if i >= end:
            return -1, t, r
        if data[i] == 0x7D:
            break
        if data[i] != 0x2C:
            return -1, t, r
        i += 1
    if text_end < 0:
        return -1, t, r
    if with_rest:
        if rest[o - 1] == 0x2C:
            o -= 1
        rest[o] = 0x7D
        o += 1
    return i + 1, text_end, o


@kernel
def _line_end(data, i, end):  # type: ignore[no-untyped-def]
    """The index of the first newline at or after `i`, or `end`."""
    while i + 8 <= end:
        word: Any = _load_word(data, i) ^ _NEWLINES  # type: ignore[call-arg]
        marks = (word - _ONES) & ~word & _HIGH
        if marks:
            return i + np.intp(_trailing_zeros(marks) >> np.uint64(3))
        i += 8
    while i < end and data[i] != 0x0A:
        i += 1
    return i


@kernel
def _scan(data, starts, names, name_ends, limits, text, rest, kinds, bounds, spans, text_ends, rest_ends):  # type: ignore[no-untyped-def]
    """Fill the last five arrays for the lines at `starts` (when empty: all that are not blank); the number of lines."""
    is_object = np.zeros(MAXIMUM_DEPTH, np.bool_)
    end = len(data)
    n, t, r, i = 0, np.int64(0), np.int64(0), np.intp(0)
    while True:
        if len(starts):
            if n == len(starts):
                return n
            i = starts[n]
        elif i >= end:
            return n
        start = i
        i = _skip_space(data, i, end)
        if (i >= end or data[i] == 0x0A) and not len(starts):
            i += 1
            continue
        spans[n] = -1
        text_end, rest_end = t, r
        brace = i
        i = np.intp(-1)
        if brace < end and data[brace] == 0x7B:
            i, text_end, rest_end = _scan_line(
                data, brace, end, names, name_ends, spans[n], text, t, rest, r, is_object
            )
        if i >= 0:
            i = _skip_space(data, i, end)
        good = i >= 0 and (i >= end or data[i] == 0x0A)
        if not good:
            i = _line_end(data, start, end)
        if i - start > limits[0] or text_end - t > limits[1]:
            good = False
        kinds[n] = good
        bounds[n, 0] = start
        bounds[n, 1] = i
        if good:
            t, r = text_end, rest_end
        text_ends[n] = t
        rest_ends[n] = r
        n += 1
        i += 1


@kernel
def _count_newlines(data):  # type: ignore[no-untyped-def]
    count = 0
    for byte in data:
        count += byte == 0x0A
    return count


@dataclass(frozen=True)
class ScannedLines:
    """What `scan_lines` found in n lines."""

    is_good: np.ndarray  # bool[n]: whether the line was accepted
    bounds: np.ndarray  # int64[n, 2]: where the line starts and ends (without its newline)
    spans: np.ndarray  # int64[n, k, 2]: where the values of the named members lie, -1 for a member that is missing
    text: np.ndarray  # uint8: the decoded texts, one after the other
    text_offsets: np.ndarray  # int64[n + 1]; a refused line's text is empty
    rest: np.ndarray  # uint8: objects of the other members
    rest_offsets: np.ndarray  # int64[n + 1]


def scan_lines(
    block: bytes,
    names: list[bytes],
    *,
    maximum_line_bytes: int,
    maximum_text_bytes: int,
    starts: np.ndarray | None = None,
    with_rest: bool = False,
) -> ScannedLines:
    r"""Scan whole lines, at `starts` (int64, ascending) or all that are not blank.

    `names` are the members wanted: the text's, the id's (b"" when there is none), and any others. The rest is one JSON
    object of all members but these first two, in order, with the bytes of their keys and values as they are. A member
    given twice counts where it stands last. Refused are lines that are not JSON, without a text that is a string, with
    a text that UTF-8 cannot hold (a lone surrogate), longer than the limits, nested deeper than 512, or with an escape
    in a top-level key.

    >>> block = rb'{"text": "a\u00e9", "n": 1.0e5}' + b"\n[]\n"
    >>> lines = scan_lines(block, [b"text", b"", b"n"], maximum_line_bytes=99, maximum_text_bytes=99, with_rest=True)
    >>> lines.is_good.tolist(), lines.bounds.tolist(), lines.spans[0].tolist()
    ([True, False], [[0, 31], [32, 34]], [[9, 18], [-1, -1], [25, 30]])
    >>> lines.text[:lines.text_offsets[1]].tobytes(), lines.rest[:lines.rest_offsets[1]].tobytes()
    (b'a\xc3\xa9', b'{"n":1.0e5}')
    """
    data = read_only(np.frombuffer(block, np.uint8), np.uint8)
    chosen = np.zeros(0, np.int64) if starts is None else starts
    capacity = _count_newlines(data) + 1 if starts is None else len(chosen)
    joined = np.frombuffer(b"".join(names), np.uint8)
    name_ends = np.cumsum([len(name) for name in names])
    text = np.empty(len(data) + _SPARE_BYTES, np.uint8)
    rest = np.empty(len(data) + _SPARE_BYTES if with_rest else 0, np.uint8)
    is_good = np.zeros(capacity, np.bool_)
    bounds = np.zeros((capacity, 2), np.int64)
    spans = np.empty((capacity, len(names), 2), np.int64)
    text_offsets, rest_offsets = np.zeros(capacity + 1, np.int64), np.zeros(capacity + 1, np.int64)
    if starts is not None and not capacity:
        return ScannedLines(is_good, bounds, spans, text, text_offsets, rest, rest_offsets)
    n = _scan(
        data,
        read_only(chosen, np.int64),
        read_only(joined, np.uint8),
        read_only(name_ends, np.int64),
        read_only([maximum_line_bytes, maximum_text_bytes], np.int64),
        text,
        rest,
        is_good,
        bounds,
        spans,
        text_offsets[1:],
        rest_offsets[1:],
    )
    return ScannedLines(is_good[:n], bounds[:n], spans[:n], text, text_offsets[: n + 1], rest, rest_offsets[: n + 1])


def compile_kernels() -> None:
    """Compile the kernels of this module."""
    scan_lines(b'{"text":"a"}\n', [b"text", b""], maximum_line_bytes=99, maximum_text_bytes=99, with_rest=True)
