"""SlimPajama's cleaning for hashing: lower case, no ASCII punctuation, single spaces.

Source: Cerebras modelzoo, slimpajama/preprocessing/filter.py and dedup/to_hash.py: `str.lower()`, the 32 characters of
`string.punctuation` deleted, `strip()`, each run of `\\s+` replaced by one space. Tables of what the running Python does with each
code point drive the kernel, so that it follows Python's Unicode version.
"""

from __future__ import annotations

import functools
import string

import numpy as np

from curation.kernels import kernel, read_only

# One table entry a code point: what it becomes in the low 21 bits, what happens to it above.
_CODE_BITS = 21
_CODE = (1 << _CODE_BITS) - 1
_SPACE = 1 << 21
_DELETED = 1 << 22
_BY_PYTHON = 1 << 23  # depends on its neighbours (capital sigma), or becomes several code points
_PAGE_BITS = 8
_PAGE = 1 << _PAGE_BITS
_N_CODE_POINTS = 0x110000
_CAPITAL_SIGMA = 0x3A3
_PUNCTUATION = string.punctuation.encode()


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """(page of each 256 code points uint16[4352], entries uint32[pages, 256]); equal pages are stored once."""
    pages: dict[bytes, int] = {}
    entries: list[np.ndarray] = []
    numbers = np.zeros(_N_CODE_POINTS >> _PAGE_BITS, np.uint16)
    for page in range(len(numbers)):
        first = page * _PAGE
        row = np.arange(first, first + _PAGE, dtype=np.uint32)
        if not 0xD800 <= first < 0xE000:
            row = _page(first)
        # Pages without an exception differ only by their position: they share one entry, with the code points left to the kernel.
        is_plain = bool((row == np.arange(first, first + _PAGE, dtype=np.uint32)).all())
        key = b"" if is_plain else row.tobytes()
        if key not in pages:
            pages[key] = len(entries)
            entries.append(np.full(_PAGE, _CODE, np.uint32) if is_plain else row)
        numbers[page] = pages[key]
    return read_only(numbers, np.uint16), read_only(np.stack(entries), np.uint32)


def _page(first: int) -> np.ndarray:
    """The entries of the 256 code points from `first` on."""
    characters = "".join(map(chr, range(first, first + _PAGE)))
    lowered = characters.lower()
    by_python = np.zeros(_PAGE, bool)
    if len(lowered) == _PAGE:
        row = np.frombuffer(lowered.encode("utf-32-le"), np.uint32).copy()
    else:
        singles = [character.lower() for character in characters]
        by_python |= np.array([len(lower) != 1 for lower in singles])
        row = np.array([ord(lower[0]) for lower in singles], np.uint32)
    if first <= _CAPITAL_SIGMA < first + _PAGE:
        by_python[_CAPITAL_SIGMA - first] = True
    row[by_python] |= _BY_PYTHON
    for index, character in enumerate(characters):
        if character.isspace():
            row[index] = _SPACE | 0x20
        elif character in string.punctuation:
            row[index] = _DELETED | ord(character)
    return row


@kernel
def _clean_ascii(data, at, stop, table, out, to):  # type: ignore[no-untyped-def]
    """Clean ASCII data[at:stop] into out[to:]; the end of what was written. One step a byte, without a branch."""
    start = to
    after_space = np.uint32(1)  # so that no leading space stays
    for i in range(at, stop):
        entry = table[data[i]]
        is_space, is_deleted = (entry >> np.uint32(21)) & np.uint32(1), (entry >> np.uint32(22)) & np.uint32(1)
        out[to] = np.uint8(entry)
        to += np.int64((is_deleted | (is_space & after_space)) ^ np.uint32(1))
        after_space = (after_space & is_deleted) | is_space
    if to > start and out[to - 1] == 0x20:
        to -= 1
    return to


@kernel
def _clean_utf8(data, at, stop, pages, entries, out, to):  # type: ignore[no-untyped-def]
    """Clean UTF-8 data[at:stop] into out[to:]; (the end of what was written, code points), or (-1, 0) if Python must do it."""
    start, count = to, 0
    after_space = True
    while at < stop:
        lead = data[at]
        if lead < 0x80:
            code, length = np.int64(lead), 1
        elif lead < 0xE0:
            length = 2
            if at + length > stop or lead < 0xC0:
                return -1, 0
            code = np.int64(lead & 0x1F) << 6 | np.int64(data[at + 1] & 0x3F)
        elif lead < 0xF0:
            length = 3
            if at + length > stop:
                return -1, 0
            code = np.int64(lead & 0x0F) << 12 | np.int64(data[at + 1] & 0x3F) << 6 | np.int64(data[at + 2] & 0x3F)
        else:
            length = 4
            if at + length > stop or lead > 0xF4:
                return -1, 0
            code = np.int64(lead & 0x07) << 18 | np.int64(data[at + 1] & 0x3F) << 12
            code |= np.int64(data[at + 2] & 0x3F) << 6 | np.int64(data[at + 3] & 0x3F)
            if code >= _N_CODE_POINTS:
                return -1, 0
        at += length
        entry = np.int64(entries[pages[code >> _PAGE_BITS], code & (_PAGE - 1)])
        if entry >= _SPACE:
            if entry & _BY_PYTHON:
                return -1, 0
            if entry & _DELETED or after_space:
                continue
            after_space = True
            out[to] = 0x20
            to += 1
            count += 1
            continue
        if entry != _CODE:
            code = entry
        after_space = False
        count += 1
        if code < 0x80:
            out[to] = code
            to += 1
        elif code < 0x800:
            out[to], out[to + 1] = 0xC0 | code >> 6, 0x80 | (code & 0x3F)
            to += 2
        elif code < 0x10000:
            out[to], out[to + 1], out[to + 2] = 0xE0 | code >> 12, 0x80 | (code >> 6 & 0x3F), 0x80 | (code & 0x3F)
            to += 3
        else:
            out[to], out[to + 1] = 0xF0 | code >> 18, 0x80 | (code >> 12 & 0x3F)
            out[to + 2], out[to + 3] = 0x80 | (code >> 6 & 0x3F), 0x80 | (code & 0x3F)
            to += 4
    if after_space and to > start:
        to -= 1
        count -= 1
    return to, count


@kernel
def _clean_all(data, offsets, pages, entries, out, ends, code_points):  # type: ignore[no-untyped-def]
    """Clean every text into `out`, one after the other; a text for Python leaves nothing and -1 code points."""
    to = 0
    for row in range(len(offsets) - 1):
        at, stop = offsets[row], offsets[row + 1]
        joined = np.uint8(0)
        for i in range(at, stop):
            joined |= data[i]
        if joined < 0x80:
            end = _clean_ascii(data, at, stop, entries[pages[0]], out, to)
            code_points[row] = end - to
            to = end
        else:
            end, count = _clean_utf8(data, at, stop, pages, entries, out, to)
            code_points[row] = count if end >= 0 else -1
            to = end if end >= 0 else to
        ends[row + 1] = to


def clean(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean texts: (bytes uint8[cleaned total], offsets int64[n + 1] from 0 on, code points of each cleaned text int64[n]).

    data uint8[total] and offsets int64[n + 1] are valid UTF-8 (else UnicodeDecodeError).
    """
    n = len(offsets) - 1
    # Lower case makes a character longer in a few cases (U+023A: two bytes become three); + 4 because of writes before the count.
    first, last = int(offsets[0]), int(offsets[-1])
    out = np.empty((last - first) * 3 // 2 + 4, np.uint8)
    ends, code_points = np.zeros(n + 1, np.int64), np.empty(n, np.int64)
    pages, entries = _table()
    _clean_all(read_only(data, np.uint8), read_only(offsets, np.int64), pages, entries, out, ends, code_points)
    rows = np.flatnonzero(code_points < 0)
    cleaned = out[: ends[-1]]
    return (cleaned, ends, code_points) if not len(rows) else _with_rest(data, offsets, cleaned, ends, code_points, rows)


def _with_rest(
    data: np.ndarray, offsets: np.ndarray, cleaned: np.ndarray, ends: np.ndarray, code_points: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with the texts `rows` cleaned by Python."""
    pieces: list[np.ndarray] = []
    lengths = np.diff(ends)
    at = 0
    for row in rows.tolist():
        text = clean_text(data[offsets[row] : offsets[row + 1]].tobytes().decode())
        encoded = np.frombuffer(text.encode(), np.uint8)
        pieces += [cleaned[at : ends[row]], encoded]
        at = ends[row]
        lengths[row], code_points[row] = len(encoded), len(text)
    pieces.append(cleaned[at:])
    return np.concatenate(pieces), np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), code_points


def clean_text(text: str) -> str:
    """The cleaned form of one text, by Python alone.

    `str.split()` splits at the same characters as `\\s` of `re` matches in a str, and drops the ends.

    >>> clean_text("  The quick,\\u3000brown FOX - jumps. ")
    'the quick brown fox jumps'
    """
    return " ".join(text.lower().encode().translate(None, _PUNCTUATION).decode().split())
