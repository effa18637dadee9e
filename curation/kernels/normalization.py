"""Which lines of text a repair in the manner of ftfy can change, and the simple changes themselves.

The repair works on each line by itself: it unescapes entities, undoes mojibake where a regular expression (an automaton
here) finds it, replaces characters one by one, and composes (NFC). The tables say what each code point takes part in;
they come from the installed libraries, so nothing here knows one character from another but `&`, `<`, CR and LF.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from curation.kernels import kernel, read_only

# What may happen to a line, as bits of a verdict. Zero: provably nothing.
REPLACED = 1  # holds a character that is replaced or deleted by itself
RECOMPOSED = 2  # may not be in NFC
ORDERED = 4  # holds a character whose replacement depends on its neighbours
MOJIBAKE = 8  # the automaton matches
ENTITY = 16  # holds what looks like an entity, and entities are still unescaped
LONG = 32  # may be repaired in several segments

# A property of a code point, uint32: 8 bits of the automaton's class, 8 of the combining class, 3 of the verdict
# (REPLACED, RECOMPOSED, ORDERED), 13 of the number of its replacement.
COMBINING_SHIFT, VERDICT_SHIFT, REPLACEMENT_SHIFT = 8, 16, 19
MAXIMUM_REPLACEMENTS = 1 << (32 - REPLACEMENT_SHIFT)

SEGMENT_BYTES = 1_000_000  # a line of no more bytes is no more than ftfy's max_decode_length of 1,000,000 code points
LONGEST_ENTITY = 24  # letters and digits between `&` or `&#` and `;` (ftfy.chardata.HTML_ENTITY_RE)
_INERT, _SUSPECT, _WIDE = 0, 1, 2  # lines of ASCII that nothing acts on, of other ASCII, with other characters
EDIT_COLUMNS = 5  # start, end; start, end in the edited bytes (-1: undecided); 1 if entities are unescaped


class Tables(NamedTuple):
    """What the kernels know about characters; made by `make_tables`."""

    properties: np.ndarray  # uint32[0x110000]
    transitions: np.ndarray  # uint16[states, classes]; state 0 is the match
    start_state: int
    replacements: np.ndarray  # uint8, the UTF-8 of all replacements
    replacement_offsets: np.ndarray  # int64[replacements + 1]
    expansion: float  # the most bytes that a byte of source can become


def make_tables(
    class_of: np.ndarray,
    transitions: np.ndarray,
    start_state: int,
    combining_class: np.ndarray,
    verdicts: dict[int, list[int]],
    replacements: dict[int, str],
) -> Tables:
    """Tables from an automaton, combining classes (uint8[0x110000]), the code points that raise a bit of a verdict, and
    the text that replaces a code point; raises ValueError for too many replacements."""
    if len(replacements) >= MAXIMUM_REPLACEMENTS:
        raise ValueError(f"{len(replacements)} characters are replaced; the tables hold {MAXIMUM_REPLACEMENTS - 1}")
    properties = class_of.astype(np.uint32) | combining_class.astype(np.uint32) << np.uint32(COMBINING_SHIFT)
    for verdict, code_points in {**verdicts, REPLACED: list(replacements)}.items():
        properties[code_points] |= np.uint32(verdict << VERDICT_SHIFT)
    for number, code_point in enumerate(replacements, 1):
        properties[code_point] |= np.uint32(number << REPLACEMENT_SHIFT)
    encoded = [b"", *(text.encode() for text in replacements.values())]
    growth = [len(text.encode()) / len(chr(code_point).encode()) for code_point, text in replacements.items()]
    return Tables(
        read_only(properties, np.uint32),
        read_only(transitions, np.uint16),
        start_state,
        read_only(np.frombuffer(b"".join(encoded), np.uint8), np.uint8),
        read_only(np.cumsum([0, *map(len, encoded)]), np.int64),
        max(1.0, *growth, 1.0),
    )


def plain(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Which texts (UTF-8 uint8[total], int64[n + 1]) are ASCII without `&` and control characters but tab, line feed,
    form feed: bool[n]."""
    return _plain(read_only(data, np.uint8), read_only(offsets, np.int64))


def verdict(text: bytes, tables: Tables, unescape: bool = False) -> int:
    """What a repair may do to `text` (UTF-8, one segment): bits, 0 for nothing."""
    data = read_only(np.frombuffer(text, np.uint8), np.uint8)
    return _inspect(data, 0, len(data), unescape, tables)


def find_edits(
    data: np.ndarray, offsets: np.ndarray, rows: np.ndarray, tables: Tables
) -> tuple[np.ndarray, np.ndarray]:
    """The lines of the texts `rows` (int64[k], ascending) that a repair changes, or may change.

    Returns edits int64[m, 5] (EDIT_COLUMNS) in order, and the edited bytes that they point into. An edit whose columns
    2 and 3 are -1 is a line that only the repair itself can decide. Its last column says if entities are unescaped:
    they are left alone from the first line of a text on that holds `<`.
    """
    return _find_edits(read_only(data, np.uint8), read_only(offsets, np.int64), read_only(rows, np.int64), tables)


def apply_edits(
    data: np.ndarray, offsets: np.ndarray, edits: np.ndarray, edited: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The texts with every edit (int64[m, 5], ascending, none empty, across texts or undecided) made: bytes, offsets.

    >>> text = np.frombuffer(b"catdog", np.uint8)
    >>> edits = np.array([[1, 2, 0, 3, 0], [3, 6, 3, 4, 0]])
    >>> apply_edits(text, np.array([0, 3, 6]), edits, np.frombuffer(b"hea2", np.uint8))[0].tobytes()
    b'cheat2'
    """
    texts = read_only(data, np.uint8), read_only(offsets, np.int64)
    return _apply_edits(*texts, read_only(edits, np.int64), read_only(edited, np.uint8))


def compile_kernels() -> None:
    """Compile every kernel of this module, or load it."""
    nothing = np.zeros(0x110000, np.uint8)
    tables = make_tables(nothing, np.ones((2, 1), np.uint16), 1, nothing, {}, {})
    data, offsets = np.zeros(1, np.uint8), np.array([0, 1])
    verdict(b"a", tables)
    edits, edited = find_edits(data, offsets, np.flatnonzero(~plain(data, offsets)), tables)
    apply_edits(data, offsets, edits, edited)


@kernel
def _plain(data: Any, offsets: Any) -> np.ndarray:
    n = len(offsets) - 1
    result = np.empty(n, np.bool_)
    for row in range(n):
        suspect = False
        for start in range(offsets[row], offsets[row + 1], 1024):
            block = data[start : min(start + 1024, offsets[row + 1])]
            found = np.uint8(0)
            for at in range(len(block)):
                byte = block[at]
                control = (byte < 32) & (byte != 9) & (byte != 10) & (byte != 12)
                # The maximum becomes vector instructions, which `|` did not: 0.06 against 1.1 ns a byte.
                found = max(found, np.uint8((byte > 126) | (byte == 38) | control))
            if found:
                suspect = True
                break
        result[row] = not suspect
    return result


@kernel
def _decode(data: Any, at: Any) -> tuple[Any, Any]:
    """The code point of the well-formed UTF-8 at `at`, and where the next one begins."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, at + 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (data[at + 1] & 0x3F), at + 2
    if first < 0xF0:
        return (first & 0x0F) << 12 | np.int64(data[at + 1] & 0x3F) << 6 | (data[at + 2] & 0x3F), at + 3
    high = (first & 0x07) << 18 | np.int64(data[at + 1] & 0x3F) << 12
    return high | np.int64(data[at + 2] & 0x3F) << 6 | (data[at + 3] & 0x3F), at + 4


@kernel
def _is_entity(data: Any, at: Any, end: Any) -> Any:
    """Whether the `&` at `at` begins what ftfy takes for an entity: &#?[0-9A-Za-z]{1,24};"""
    at += 1
    if at < end and data[at] == 35:
        at += 1
    first = at
    while at < end and at - first <= LONGEST_ENTITY:
        byte = data[at]
        if byte == 59:
            return at > first
        folded = byte | 32
        if not (48 <= byte <= 57 or 97 <= folded <= 122):
            return False
        at += 1
    return False


@kernel
def _inspect(data: Any, start: Any, end: Any, unescape: Any, tables: Tables) -> Any:
    """The verdict on the segment data[start:end] (well-formed UTF-8)."""
    properties, transitions = tables.properties, tables.transitions
    state = np.int64(tables.start_state)
    found = np.uint32(0)
    previous_combining = np.uint32(0)
    bits = 0
    at = start
    while at < end:
        if data[at] == 38 and unescape and _is_entity(data, at, end):
            bits |= ENTITY
        code_point, at = _decode(data, at)
        described = properties[code_point]
        state = np.int64(transitions[state, described & np.uint32(0xFF)])
        combining = (described >> np.uint32(COMBINING_SHIFT)) & np.uint32(0xFF)
        # Canonical order: marks after one base must not fall in combining class.
        if combining != 0 and combining < previous_combining:
            bits |= RECOMPOSED
        previous_combining = combining
        found |= described
    if state == 0:
        bits |= MOJIBAKE
    return bits | np.int64((found >> np.uint32(VERDICT_SHIFT)) & np.uint32(7))


@kernel
def _replace(data: Any, start: Any, end: Any, output: Any, to: Any, tables: Tables) -> Any:
    """Write data[start:end] to output[to:] with characters replaced and CRLF made LF; where the written bytes end."""
    at = start
    while at < end:
        code_point, after = _decode(data, at)
        number = np.int64(tables.properties[code_point] >> np.uint32(REPLACEMENT_SHIFT))
        if number:
            if not (code_point == 13 and after < end and data[after] == 10):
                for source in range(tables.replacement_offsets[number], tables.replacement_offsets[number + 1]):
                    output[to] = tables.replacements[source]
                    to += 1
            at = after
        else:
            while at < after:
                output[to] = data[at]
                to += 1
                at += 1
    return to


@kernel
def _find_edits(data: Any, offsets: Any, rows: Any, tables: Tables) -> tuple[np.ndarray, np.ndarray]:
    n_lines, n_bytes = 0, 0
    for row in rows:
        n_lines += 1
        n_bytes += offsets[row + 1] - offsets[row]
        for at in range(offsets[row], offsets[row + 1]):
            n_lines += data[at] == 10
    edits = np.empty((n_lines, EDIT_COLUMNS), np.int64)
    output = np.empty(np.int64(n_bytes * tables.expansion) + 1, np.uint8)
    n_edits = 0
    to: Any = np.int64(0)  # a literal would compile `_replace` and `_inspect` once more
    for row in rows:
        unescape: Any = np.bool_(True)
        start, text_end = offsets[row], offsets[row + 1]
        while start < text_end:
            end, kind, tag = _scan_line(data, start, text_end, tables)
            unescape_before = unescape
            unescape = unescape and not tag
            bits = kind
            if kind != _INERT and end - start > SEGMENT_BYTES:
                # Cut into segments, each of which begins anew: clean only if it is ASCII that nothing acts on anywhere.
                bits = LONG if kind == _WIDE or _inspect(data, start, end, unescape_before, tables) else 0
            elif kind != _INERT:
                bits = _inspect(data, start, end, unescape, tables)
            if bits:
                edit = edits[n_edits]
                edit[0], edit[1], edit[2], edit[3] = start, end, -1, -1
                edit[4] = unescape_before if bits == LONG else unescape
                n_edits += 1
            if bits == REPLACED:
                # Written is what a round gives; if it is clean in its turn, the next round changes nothing.
                written = _replace(data, start, end, output, to, tables)
                if _inspect(output, to, written, unescape, tables) == 0:
                    edit[2], edit[3] = to, written
                    to = written
            start = end
    return edits[:n_edits], output[:to]


@kernel
def _scan_line(data: Any, start: Any, text_end: Any, tables: Tables) -> tuple[Any, Any, Any]:
    """Where the line at `start` ends, which of the three kinds it is, and whether it holds `<`."""
    above, suspect = np.uint8(0), np.uint32(0)
    tag = False
    at = start
    while at < text_end:
        byte = data[at]
        at += 1
        above |= byte
        if byte < 0x80:
            suspect |= tables.properties[byte] >> np.uint32(VERDICT_SHIFT)
            suspect |= np.uint32(byte == 38)
        tag |= byte == 60
        if byte == 10:
            break
    if above >= 0x80:
        return at, _WIDE, tag
    return at, _SUSPECT if suspect else _INERT, tag


@kernel
def _apply_edits(data: Any, offsets: Any, edits: Any, edited: Any) -> tuple[np.ndarray, np.ndarray]:
    size = len(data)
    for edit in edits:
        size += (edit[3] - edit[2]) - (edit[1] - edit[0])
    output = np.empty(size, np.uint8)
    ends = np.zeros(len(offsets), np.int64)
    to, at, number = 0, np.int64(0), 0
    for row in range(len(offsets) - 1):
        while number < len(edits) and edits[number, 1] <= offsets[row + 1]:
            start, end, first, last = edits[number, 0], edits[number, 1], edits[number, 2], edits[number, 3]
            output[to : to + start - at] = data[at:start]
            to += start - at
            output[to : to + last - first] = edited[first:last]
            to += last - first
            at = end
            number += 1
        output[to : to + offsets[row + 1] - at] = data[at : offsets[row + 1]]
        to += offsets[row + 1] - at
        at = offsets[row + 1]
        ends[row + 1] = to
    return output, ends
