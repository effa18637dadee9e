"""SlimPajama's cleaning for hashing: lower case, no ASCII punctuation, single spaces.

Source: Cerebras modelzoo, slimpajama/preprocessing/filter.py and dedup/to_hash.py: `str.lower()`, the 32 characters
of `string.punctuation` deleted, `strip()`, each run of `\\s+` replaced by one space. Tables of what the running
Python does with each code point drive the kernel, so that it follows Python's Unicode version.
"""

from __future__ import annotations

import functools
import re
import string

import numpy as np

from curation.kernels import kernel, read_only
from curation.kernels.automaton import all_characters
from curation.kernels.units import is_ascii

# One table entry a code point: what it becomes in the low 21 bits, what happens to it above.
_CODE = (1 << 21) - 1
_SPACE, _DELETED = 1 << 21, 1 << 22
_BY_PYTHON = 1 << 23  # depends on its neighbours (capital sigma), or becomes several code points
_PAGE_BITS = 8
_PAGE = 1 << _PAGE_BITS
_N_CODE_POINTS = 0x110000
_CAPITAL_SIGMA = 0x3A3
_PUNCTUATION = string.punctuation.encode()

# One entry of the small table, for code points of one or two bytes: the bytes that it becomes (24 bits), how many (2
# bits), flags.
_N_SMALL = 0x800
_LENGTH_SHIFT, _SPACE_SHIFT, _DELETED_SHIFT, _BY_PYTHON_SHIFT = 24, 26, 27, 28


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(small table uint32[2048], page of each 256 code points uint16[4352], entries uint32[256 * pages]).

    Pages in which every code point stays what it is share one page of entries, all `_CODE`.
    """
    rows = _all_entries().reshape(-1, _PAGE)
    is_plain = (rows == np.arange(_N_CODE_POINTS, dtype=np.uint32).reshape(rows.shape)).all(axis=1)
    rows[is_plain] = _CODE
    pages: dict[bytes, int] = {}
    numbers = np.array([pages.setdefault(row.tobytes(), len(pages)) for row in rows], np.uint16)
    entries = np.frombuffer(b"".join(pages), np.uint32)
    small = [_small_entry(code, int(rows[code >> _PAGE_BITS, code % _PAGE])) for code in range(_N_SMALL)]
    return read_only(small, np.uint32), read_only(numbers, np.uint16), read_only(entries, np.uint32)


def _small_entry(code: int, entry: int) -> int:
    """The entry of the small table for a code point and its entry in the large one."""
    if entry & _DELETED:
        return 1 << _DELETED_SHIFT
    if entry & _BY_PYTHON:
        return 1 << _BY_PYTHON_SHIFT
    becomes = chr(code if entry == _CODE else entry & _CODE).encode()
    space = 1 << _SPACE_SHIFT if entry & _SPACE else 0
    return int.from_bytes(becomes, "little") | len(becomes) << _LENGTH_SHIFT | space


def _all_entries() -> np.ndarray:
    """The entry of every code point: uint32[0x110000]."""
    entries = np.arange(_N_CODE_POINTS, dtype=np.uint32)
    characters = all_characters()
    for first in range(0, _N_CODE_POINTS, _PAGE):
        page = characters[first : first + _PAGE]
        lowered = page.lower()
        if lowered != page:  # one page in two hundred
            entries[first : first + _PAGE] = _lowered(page, lowered)
    entries[_CAPITAL_SIGMA] |= _BY_PYTHON
    entries[[match.start() for match in re.finditer(r"\s", characters)]] = _SPACE | 0x20
    punctuation = list(_PUNCTUATION)
    entries[punctuation] = np.array(punctuation, np.uint32) | np.uint32(_DELETED)
    return entries


def _lowered(page: str, lowered: str) -> np.ndarray:
    """The entries of a page of characters and its lower case, but for space and punctuation."""
    if len(lowered) == _PAGE:
        return np.frombuffer(lowered.encode("utf-32-le"), np.uint32)
    singles = [character.lower() for character in page]
    return np.array([ord(single[0]) | (_BY_PYTHON if len(single) > 1 else 0) for single in singles], np.uint32)


@kernel
def _bit(entry, shift):  # type: ignore[no-untyped-def]
    return (entry >> np.uint32(shift)) & np.uint32(1)


@kernel
def _clean_ascii(text, small, out):  # type: ignore[no-untyped-def]
    """Clean ASCII `text` into `out`; how many bytes that gives. One step a byte, without a branch."""
    to = np.uint64(0)
    after_space = np.uint32(1)  # so that no leading space stays
    for i in range(len(text)):
        entry = small[np.uint64(text[i])]
        is_space, is_deleted = _bit(entry, _SPACE_SHIFT), _bit(entry, _DELETED_SHIFT)
        out[to] = np.uint8(entry)
        to += np.uint64((is_deleted | (is_space & after_space)) ^ np.uint32(1))
        after_space = (after_space & is_deleted) | is_space
    return np.int64(to) - (1 if to > np.uint64(0) and after_space else 0)


@kernel
def _decoded(text, at, length):  # type: ignore[no-untyped-def]
    """The code point of the three or four bytes from `at` (uint64) on, or -1."""
    if at + np.uint64(length) > np.uint64(len(text)):
        return -1
    second = np.int64(text[at + np.uint64(1)] & np.uint8(0x3F))
    third = np.int64(text[at + np.uint64(2)] & np.uint8(0x3F))
    if length == 3:
        return np.int64(text[at] & np.uint8(0x0F)) << 12 | second << 6 | third
    fourth = np.int64(text[at + np.uint64(3)] & np.uint8(0x3F))
    code = np.int64(text[at] & np.uint8(0x07)) << 18 | second << 12 | third << 6 | fourth
    return code if code < _N_CODE_POINTS else -1


@kernel
def _encode(code, out, to):  # type: ignore[no-untyped-def]
    """Write a code point as UTF-8 to out[to:to + 4], `to` uint64; its length."""
    length = 1 if code < 0x80 else 2 if code < 0x800 else 3 if code < 0x10000 else 4
    if length == 1:
        out[to] = code
        return length
    out[to] = (0xF00 >> length & 0xFF) | code >> 6 * (length - 1)
    for i in range(1, length):
        out[to + np.uint64(i)] = 0x80 | (code >> 6 * (length - 1 - i) & 0x3F)
    return length


@kernel
def _clean_small(text, at, to, count, after_space, small, out):  # type: ignore[no-untyped-def]
    """Clean code points of one and two bytes up to a longer one: (at, to, count, after_space); at -1: for Python.

    Without a branch between one and two bytes, which alternate in most alphabets: always two bytes are read and three
    written.
    """
    n = np.uint64(len(text))
    position, end = np.uint64(at), np.uint64(to)
    last, characters = n - np.uint64(1), np.uint64(count)
    wrong = np.uint32(0)
    while position < n:
        lead = np.uint32(text[position])
        if lead >= np.uint32(0xE0):
            break
        following = np.uint32(text[min(position + np.uint64(1), last)])
        is_two = np.uint32(lead >> np.uint32(7))
        wrong |= is_two & ~(lead >> np.uint32(6))  # a byte that cannot be the first of a character
        code = ((lead & np.uint32(0x1F)) << np.uint32(6) | (following & np.uint32(0x3F))) if is_two else lead
        entry = small[np.uint64(code)]
        wrong |= _bit(entry, _BY_PYTHON_SHIFT)
        is_space, is_deleted = _bit(entry, _SPACE_SHIFT), _bit(entry, _DELETED_SHIFT)
        out[end] = np.uint8(entry)
        out[end + np.uint64(1)] = np.uint8(entry >> np.uint32(8))
        out[end + np.uint64(2)] = np.uint8(entry >> np.uint32(16))
        stays = np.uint64((is_deleted | (is_space & after_space)) ^ np.uint32(1))
        end += stays * np.uint64((entry >> np.uint32(_LENGTH_SHIFT)) & np.uint32(3))
        characters += stays
        after_space = np.uint32((after_space & is_deleted) | is_space)
        position += np.uint64(1) + np.uint64(is_two)
    is_good = wrong == np.uint32(0) and position <= n
    return np.int64(position) if is_good else -1, np.int64(end), np.int64(characters), after_space


@kernel
def _clean_large(text, at, to, count, after_space, pages, entries, out):  # type: ignore[no-untyped-def]
    """Clean code points of three and four bytes from `at` to the next shorter one; returns what `_clean_small` does."""
    position, end, n = np.uint64(at), np.uint64(to), np.uint64(len(text))
    while position < n and text[position] >= np.uint8(0xE0):
        length = 3 if text[position] < np.uint8(0xF0) else 4
        code = _decoded(text, position, length)
        if code < 0:
            return -1, 0, 0, after_space
        page = np.uint64(pages[np.uint64(code >> _PAGE_BITS)])
        entry = entries[(page << np.uint64(_PAGE_BITS)) | np.uint64(code & (_PAGE - 1))]
        if entry == np.uint32(_CODE):
            out[end], out[end + np.uint64(1)] = text[position], text[position + np.uint64(1)]
            out[end + np.uint64(2)] = text[position + np.uint64(2)]
            if length == 4:
                out[end + np.uint64(3)] = text[position + np.uint64(3)]
            end += np.uint64(length)
            count, after_space = count + 1, np.uint32(0)
        elif entry & np.uint32(_BY_PYTHON):
            return -1, 0, 0, after_space
        elif entry & np.uint32(_SPACE):
            if not after_space:
                out[end] = 0x20
                end += np.uint64(1)
                count += 1
            after_space = np.uint32(1)
        else:
            end += np.uint64(_encode(np.int64(entry), out, end))
            count, after_space = count + 1, np.uint32(0)
        position += np.uint64(length)
    return np.int64(position), np.int64(end), count, after_space


@kernel
def _clean_utf8(text, small, pages, entries, out):  # type: ignore[no-untyped-def]
    """Clean UTF-8 `text` into `out`: (bytes written, code points), or (-1, -1) if Python must do it."""
    at, to, count, after_space = 0, 0, 0, np.uint32(1)
    while at < len(text):
        at, to, count, after_space = _clean_small(text, at, to, count, after_space, small, out)
        if at < 0:
            return -1, -1
        at, to, count, after_space = _clean_large(text, at, to, count, after_space, pages, entries, out)
        if at < 0:
            return -1, -1
    if after_space and to > 0:
        return to - 1, count - 1
    return to, count


@kernel
def _clean_all(data, offsets, small, pages, entries, out, ends, code_points):  # type: ignore[no-untyped-def]
    """Clean every text into `out`, one after the other; a text for Python leaves nothing and -1 code points."""
    to = 0
    for row in range(len(offsets) - 1):
        at, stop = offsets[row], offsets[row + 1]
        if is_ascii(data, at, stop):
            count = _clean_ascii(data[at:stop], small, out[to:])
            to, code_points[row] = to + count, count
        else:
            n_bytes, count = _clean_utf8(data[at:stop], small, pages, entries, out[to:])
            to, code_points[row] = to + max(n_bytes, 0), count
        ends[row + 1] = to


def clean(data: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clean texts: (bytes uint8[cleaned total], offsets int64[n + 1] from 0 on, code points of each text int64[n]).

    data uint8[total] and offsets int64[n + 1] are valid UTF-8 (else UnicodeDecodeError).
    """
    n = len(offsets) - 1
    # Lower case makes a character longer in a few cases (U+023A: two bytes become three); + 4 because of writes
    # before the count.
    first, last = int(offsets[0]), int(offsets[-1])
    out = np.empty((last - first) * 3 // 2 + 4, np.uint8)
    ends, code_points = np.zeros(n + 1, np.int64), np.empty(n, np.int64)
    _clean_all(read_only(data, np.uint8), read_only(offsets, np.int64), *_tables(), out, ends, code_points)
    rows = np.flatnonzero(code_points < 0)
    cleaned = out[: ends[-1]]
    return (
        (cleaned, ends, code_points) if not len(rows) else _with_rest(data, offsets, cleaned, ends, code_points, rows)
    )


def _with_rest(
    data: np.ndarray,
    offsets: np.ndarray,
    cleaned: np.ndarray,
    ends: np.ndarray,
    code_points: np.ndarray,
    rows: np.ndarray,
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


def compile_kernels() -> None:
    """Compile the kernels of this module."""
    clean(np.frombuffer(b"text", np.uint8), np.array([0, 4], np.int64))
