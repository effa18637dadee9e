"""Where the n-grams of a cleaned text begin and end, in blocks, so that scratch does not grow with the text.

A text is a row of units: its characters (one to four bytes each), or its words, which one space separates. Both kinds
of n-gram are slices of the text: from the start of unit k to the start of unit k + n, less the space before it for
words.
"""

from __future__ import annotations

import numpy as np

from curation.kernels import kernel

UNITS = ("character", "word")
SPACE = np.uint8(0x20)
GRAMS_PER_BLOCK = 1024


def is_word_unit(unit: str, ngram: int) -> bool:
    """Check a unit and an n-gram length; whether the unit is the word."""
    if unit not in UNITS:
        raise ValueError(f"unit {unit!r} is none of {', '.join(UNITS)}")
    if ngram < 1:
        raise ValueError(f"an n-gram has at least 1 unit, not {ngram}")
    return unit == "word"


@kernel
def unit_starts(data, at, stop, is_word, starts, filled, capacity):  # type: ignore[no-untyped-def]
    """Append the starts of the units from byte `at` on to starts[filled:capacity]; the text's end is one more start.

    Returns (the byte to continue at, how many are filled). It is the end when the byte returned is beyond `stop`. The
    start of a word is told by the space before it, so the first one's is taken as given.

    >>> text = np.frombuffer(b"to be or", np.uint8)
    >>> starts = np.zeros(8, np.int64)
    >>> unit_starts(text, 0, 8, True, starts, 0, 8), starts[:4].tolist()
    ((9, 4), [0, 3, 6, 9])
    """
    if is_word and filled == 0:
        starts[0] = at
        filled = 1
    while at < stop and filled < capacity:
        n = min(
            stop - at, capacity - filled
        )  # a byte starts at most one unit, so there is no need to look at the room each time
        text = data[at : at + n]
        to = np.uint64(filled)
        if is_word:
            for i in range(n):
                starts[to] = at + i + 1
                to += np.uint64(text[i] == SPACE)
        else:
            for i in range(n):
                starts[to] = at + i
                to += np.uint64((text[i] & np.uint8(0xC0)) != np.uint8(0x80))
        filled = np.int64(to)
        at += n
    if at == stop and filled < capacity:
        starts[filled] = stop + 1 if is_word else stop
        return stop + 1, filled + 1
    return at, filled


@kernel
def spans(starts, filled, is_word, ngram, lengths):  # type: ignore[no-untyped-def]
    """The bytes of each n-gram in lengths, and how many n-grams the starts hold."""
    count = max(filled - ngram, 0)
    gap = 1 if is_word else 0
    for k in range(count):
        lengths[k] = starts[k + ngram] - starts[k] - gap
    return count


@kernel
def keep_rest(starts, filled, count):  # type: ignore[no-untyped-def]
    """Move the starts that later n-grams need to the front; how many there are."""
    for k in range(count, filled):
        starts[k - count] = starts[k]
    return filled - count


@kernel
def is_ascii(data, start, stop):  # type: ignore[no-untyped-def]
    """Whether data[start:stop] has no byte above 127."""
    text = data[start:stop]
    joined = np.uint8(0)
    for i in range(len(text)):
        joined = np.uint8(joined | text[i])
    return joined < 128
