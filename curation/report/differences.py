"""What differs between two texts, word by word, and the stretches of them that are worth showing side by side."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

# Scripts written without spaces between words are compared by the character: Thai to Myanmar, Khmer, kana, Han.
_UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3021-\u30ff\u31f0-\u9fff\uf900-\ufaff\uff66-\uff9f"
    "\U00020000-\U0003ffff"
)
_PUNCTUATION = "!-/:-@\\[-`{-~\u00a1-\u00bf\u2010-\u205e\u3001-\u3003\u3008-\u3020\uff01-\uff0f\uff1a-\uff20"
# A "word" of a megabyte is compared in pieces.
_WORDS = re.compile(rf"[^\s{_UNSPACED}{_PUNCTUATION}]{{1,40}}|\s{{1,40}}|.", re.DOTALL)

# Bounds of the work: words looked at for each word of the texts, and cells of the tables that compare what is left.
_LOOKS = 12
_FEW_CELLS, _TABLE_CELLS, _ALL_TABLE_CELLS = 60, 4_000, 40_000
_STRETCHES = (1, 3, 8)  # words; what occurs once in both texts is an anchor


@dataclass(frozen=True)
class Segment:
    """A stretch that both texts have, or only the left, or only the right one."""

    kind: Literal["same", "left", "right"]
    text: str


@dataclass(frozen=True)
class Run:
    """A part of a shown text; where `omitted` is not 0 it stands for that many characters and `text` is empty."""

    text: str
    changed: bool
    omitted: int = 0


@dataclass(frozen=True)
class Row:
    """What stands side by side; before it, `skipped` characters are the same in both texts."""

    skipped: int
    left: tuple[Run, ...]
    right: tuple[Run, ...]


@dataclass(frozen=True)
class SideBySide:
    """Rows in order, the characters after them that are the same, and how many further differences are not shown."""

    rows: tuple[Row, ...]
    skipped: int
    more: int


def compare(left: str, right: str) -> list[Segment]:
    """The two texts as stretches; joining `same` and `left` gives the left text, `same` and `right` the right one.

    Not the shortest difference possible: the work is bounded by a multiple of the texts' lengths, and where the bound is met
    what is left counts as different.

    >>> [(s.kind, s.text) for s in compare("the red fox ran", "the grey fox ran")]
    [('same', 'the '), ('left', 'red'), ('right', 'grey'), ('same', ' fox ran')]
    """
    left_words, right_words = _WORDS.findall(left), _WORDS.findall(right)
    segments: list[Segment] = []
    changed_left: list[str] = []
    changed_right: list[str] = []

    def close() -> None:
        if changed_left:
            segments.append(Segment("left", "".join(changed_left)))
        if changed_right:
            segments.append(Segment("right", "".join(changed_right)))
        changed_left.clear()
        changed_right.clear()

    at_left = at_right = 0
    blocks = _joined(sorted(_blocks(left_words, right_words)))
    for block_left, block_right, length in [*blocks, (len(left_words), len(right_words), 0)]:
        changed_left += left_words[at_left:block_left]
        changed_right += right_words[at_right:block_right]
        at_left, at_right = block_left + length, block_right + length
        same = "".join(left_words[block_left:at_left])
        between = (changed_left or changed_right) and at_left < len(left_words) and at_right < len(right_words)
        if between and len(same) <= 3 and not any(map(str.isalnum, same)):
            changed_left.append(same)  # a blank between two changes is noise
            changed_right.append(same)
        elif same:
            close()
            segments.append(Segment("same", same))
    close()
    return segments


def _joined(blocks: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Blocks that touch in both texts become one."""
    joined: list[tuple[int, int, int]] = []
    for left, right, length in blocks:
        if joined and joined[-1][0] + joined[-1][2] == left and joined[-1][1] + joined[-1][2] == right:
            left, right, length = joined[-1][0], joined[-1][1], joined.pop()[2] + length
        joined.append((left, right, length))
    return joined


def _blocks(left: list[str], right: list[str]) -> Iterator[tuple[int, int, int]]:
    """Equal stretches (start in left, start in right, words), none crossing another, in no order.

    Equal starts and ends first; then between anchors, words or stretches that occur once in both texts; what holds no
    anchor and is small, by the table of longest common subsequences.
    """
    looks, cells = _LOOKS * (len(left) + len(right)) + 1000, _ALL_TABLE_CELLS
    pending = [(0, len(left), 0, len(right))]
    while pending:
        left_from, left_to, right_from, right_to = pending.pop()
        start = left_from
        while left_from < left_to and right_from < right_to and left[left_from] == right[right_from]:
            left_from, right_from = left_from + 1, right_from + 1
        if left_from > start:
            yield start, right_from - (left_from - start), left_from - start
        end = left_to
        while left_from < left_to and right_from < right_to and left[left_to - 1] == right[right_to - 1]:
            left_to, right_to = left_to - 1, right_to - 1
        if left_to < end:
            yield left_to, right_to, end - left_to
        n_left, n_right = left_to - left_from, right_to - right_from
        if not n_left or not n_right or looks < 0:
            continue
        one, other = left[left_from:left_to], right[right_from:right_to]
        anchors: list[tuple[int, int]] = []
        for words in _STRETCHES if n_left * n_right > _FEW_CELLS else ():
            if not anchors:
                looks -= n_left + n_right
                anchors = _anchors(one, other, words)
        if anchors:
            starts = [(0, 0), *anchors, (n_left, n_right)]
            for (i, j), (next_i, next_j) in pairwise(starts):
                pending.append((left_from + i, left_from + next_i, right_from + j, right_from + next_j))
        elif n_left * n_right <= min(_TABLE_CELLS, cells):
            cells -= n_left * n_right
            yield from ((left_from + i, right_from + j, 1) for i, j in _common(one, other))


def _anchors(left: list[str], right: list[str], words: int) -> list[tuple[int, int]]:
    """Positions of stretches of `words` that occur exactly once in both, as many as are in the same order in both."""
    here, there = _once(left, words), _once(right, words)
    pairs = [(i, there[stretch]) for stretch, i in here.items() if stretch in there]
    # Longest increasing subsequence of the right positions: piles of their smallest possible last members.
    piles: list[int] = []
    tops: list[int] = []
    before: list[int] = []
    for index, (_, j) in enumerate(pairs):
        pile = bisect_left(piles, j)
        before.append(tops[pile - 1] if pile else -1)
        if pile == len(piles):
            piles.append(j)
            tops.append(index)
        else:
            piles[pile], tops[pile] = j, index
    chain: list[tuple[int, int]] = []
    index = tops[-1] if tops else -1
    while index >= 0:
        chain.append(pairs[index])
        index = before[index]
    return chain[::-1]


def _once(words: list[str], length: int) -> dict[Hashable, int]:
    """{stretch of `length` words: position} of those that occur once."""
    stretches: Sequence[Hashable] = words if length == 1 else list(zip(*(words[n:] for n in range(length)), strict=False))
    times = Counter(stretches)
    return {stretch: position for position, stretch in enumerate(stretches) if times[stretch] == 1}


def _common(left: list[str], right: list[str]) -> Iterator[tuple[int, int]]:
    """Positions of a longest common subsequence, by the textbook table; a word counts for more than a blank."""
    table = [[0] * (len(right) + 1) for _ in range(len(left) + 1)]
    for i in range(len(left) - 1, -1, -1):
        row, below, word = table[i], table[i + 1], left[i]
        weight = 1 if word.isspace() else 3
        for j in range(len(right) - 1, -1, -1):
            row[j] = below[j + 1] + weight if word == right[j] else max(below[j], row[j + 1])
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            yield i, j
            i, j = i + 1, j + 1
        elif table[i + 1][j] >= table[i][j + 1]:
            i += 1
        else:
            j += 1


def side_by_side(segments: list[Segment], context: int = 80, longest: int = 400, most_characters: int = 4_000) -> SideBySide:
    """The differences with `context` characters around them; changes and openings longer than `longest` are cut inside.

    Once `most_characters` are shown, further differences are only counted.

    >>> both = side_by_side(compare("a " * 60 + "red" + " z" * 60, "a " * 60 + "blue" + " z" * 60), context=6)
    >>> [(row.skipped, [run.text for run in row.left]) for row in both.rows], both.skipped
    ([(114, ['a a a ', 'red', ' z z z'])], 114)
    """
    changes, rest = _changes(segments)
    if not changes:
        opening = _head(rest, longest)
        same = (Run(opening, False),) if opening else ()
        return SideBySide((Row(0, same, same),) if same else (), len(rest) - len(opening), 0)
    rows: list[Row] = []
    left: list[Run] = []
    right: list[Run] = []
    skipped = shown = more = 0
    for index, (before, only_left, only_right) in enumerate(changes):
        if shown >= most_characters:
            rest, more = before, len(changes) - index
            break
        if index and len(before) <= 5 * context // 2:
            near = before
        else:
            head = _head(before, context) if index else ""
            near = _tail(before[len(head) :], context)
            if index:
                rows.append(Row(skipped, (*left, *_same(head)), (*right, *_same(head))))
            left, right, skipped = [], [], len(before) - len(head) - len(near)
        left += [*_same(near), *_cut(only_left, longest)]
        right += [*_same(near), *_cut(only_right, longest)]
        shown += 2 * len(near) + min(len(only_left), longest) + min(len(only_right), longest)
    head = _head(rest, context)
    rows.append(Row(skipped, (*left, *_same(head)), (*right, *_same(head))))
    return SideBySide(tuple(rows), 0 if more else len(rest) - len(head), more)


def _changes(segments: list[Segment]) -> tuple[list[tuple[str, str, str]], str]:
    """Each difference as (what is the same before it, only left, only right); and what is the same after the last."""
    changes: list[tuple[str, str, str]] = []
    same = left = right = ""
    for segment in segments:
        if segment.kind == "same":
            if left or right:
                changes.append((same, left, right))
            same, left, right = segment.text, "", ""
        elif segment.kind == "left":
            left = segment.text
        else:
            right = segment.text
    if left or right:
        changes.append((same, left, right))
        same = ""
    return changes, same


def _same(text: str) -> list[Run]:
    return [Run(text, False)] if text else []


def _cut(text: str, longest: int) -> list[Run]:
    """What changed, with its middle left out where it is long. White space alone is no change: no stage looks at it."""
    if len(text) <= longest:
        return [Run(text, not text.isspace())] if text else []
    head, tail = _head(text, longest * 2 // 3), _tail(text, longest // 3)
    omitted = Run("", True, len(text) - len(head) - len(tail))
    return [Run(head, True), omitted, *([Run(tail, True)] if tail else [])]


def _head(text: str, length: int) -> str:
    """At most `length` characters from the start, to the end of a word where one ends in the second half of these."""
    if len(text) <= length:
        return text
    for at in range(length, length // 2, -1):
        if text[at].isspace():
            return text[:at]
    return text[:length]


def _tail(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    for at in range(len(text) - length, len(text) - length // 2):
        if text[at - 1].isspace():
            return text[at:]
    return text[len(text) - length :]
