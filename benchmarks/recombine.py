"""Larger corpora out of smaller ones: new documents from the segments of old ones, and copies of them with known edits.

A segment is a sentence or a line with the white space after it. Documents of one source, language and kind of
typography share a pool of their distinct segments; a new document has the length of one of the old ones and segments
drawn from the pool. Two documents of k segments out of a pool of P share about k*k/P of them, which is why no document
is longer than an eighth of its pool. Since there are only P documents of a segment, short ones get halves of segments.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

MINIMUM_SEGMENT_CHARACTERS = 40  # shorter ones ("}\n", "Yes. ") stay with what follows
MAXIMUM_SEGMENT_CHARACTERS = 400
MINIMUM_POOL_BYTES = 100_000  # a smaller pool is joined with others of its script, then of its source
LARGEST_SHARE_OF_POOL = 1 / 8
_FEW_SEGMENTS = 3

_BOUNDARY = re.compile(r"[.!?][\"'”’)\]]*[ \t\r\n]+|[。！？।]+\s*|[\r\n]+")
_WORD = re.compile(r"\S+")
_SHORTEST_WITH_FOOTER = 500  # characters: a shorter text with a footer is another text
_FOOTERS = (
    "\n\nShare this page with your friends and colleagues, or print it for later.",
    "\n\nYou have reached the end of this article. Older articles are in the archive, newer ones on the front page.",
    "\n\nThis text may be copied for any purpose as long as this notice is kept with it. No warranty is given.",
    "\n\nComments on this entry are closed. Please write to the editors if you have found a mistake.",
)


@dataclass(frozen=True)
class Document:
    """A document of the input: its text, its source, and its language where the input names one."""

    text: str
    source: str
    language: str | None


Groups = dict[tuple[str, ...], list[Document]]


@dataclass
class Pool:
    """Distinct segments, their UTF-8 lengths (int64[n]), and the lengths that documents may get (int64[m])."""

    segments: list[str]
    segment_bytes: np.ndarray
    document_bytes: np.ndarray

    def draw(self, rng: np.random.Generator, n_documents: int) -> list[list[str]]:
        """`n_documents` new documents, each as its segments, at least one."""
        ends = np.cumsum(rng.choice(self.document_bytes, n_documents))
        mean = max(1.0, float(self.segment_bytes.mean()))
        numbers = np.zeros(0, np.int64)
        reached = 0
        while reached < ends[-1]:
            more = int((ends[-1] - reached) / mean * 1.1) + 16
            drawn = rng.integers(0, len(self.segments), more)
            numbers = np.concatenate([numbers, drawn])
            reached += int(self.segment_bytes[drawn].sum())
        cuts = np.searchsorted(np.cumsum(self.segment_bytes[numbers]), ends) + 1
        starts = np.concatenate([[0], cuts[:-1]])
        # A document that ends within the segment which ended the one before gets that segment too, rather than nothing.
        starts = np.minimum(starts, cuts - 1)
        drawn_segments = [self.segments[number] for number in numbers.tolist()]
        documents = [drawn_segments[start:stop] for start, stop in zip(starts.tolist(), cuts.tolist(), strict=True)]
        return [self._splice(one, rng) if len(one) <= _FEW_SEGMENTS else one for one in documents]

    def _splice(self, segments: list[str], rng: np.random.Generator) -> list[str]:
        """The segments, the end of each taken from another: more documents can be made of halves."""
        others = rng.integers(0, len(self.segments), len(segments)).tolist()
        places = rng.uniform(0.25, 0.75, (len(segments), 2)).tolist()
        spliced = []
        for segment, number, (end, start) in zip(segments, others, places, strict=True):
            other = self.segments[number]
            spliced.append(segment[: _word_end(segment, end)] + other[_word_end(other, start) :])
        return spliced


def _word_end(segment: str, share: float) -> int:
    """Where the word ends that lies at a share of the segment; there, when no white space follows.

    >>> _word_end("one two three", 0.4), _word_end("onetwothree", 0.5)
    (7, 5)
    """
    at = int(len(segment) * share)
    blank = segment.find(" ", at)
    return at if blank < 0 else blank


def split_segments(text: str) -> list[str]:
    """Cut a text into sentences and lines, each with the white space that follows; joined they are the text again.

    >>> split_segments("No. The harbour was empty when we arrived there. Nobody had told us, and so we waited.\\n")
    ['No. The harbour was empty when we arrived there. ', 'Nobody had told us, and so we waited.\\n']
    """
    segments = []
    start = 0
    for boundary in _BOUNDARY.finditer(text):
        if boundary.end() - start >= MINIMUM_SEGMENT_CHARACTERS:
            segments.append(text[start : boundary.end()])
            start = boundary.end()
    if start < len(text):
        segments.append(text[start:])
    return [piece for segment in segments for piece in _pieces(segment)]


def _pieces(segment: str) -> Iterable[str]:
    """A segment cut to at most `MAXIMUM_SEGMENT_CHARACTERS`, after white space where there is some."""
    while len(segment) > MAXIMUM_SEGMENT_CHARACTERS:
        cut = segment.rfind(" ", MINIMUM_SEGMENT_CHARACTERS, MAXIMUM_SEGMENT_CHARACTERS) + 1
        cut = cut or MAXIMUM_SEGMENT_CHARACTERS
        yield segment[:cut]
        segment = segment[cut:]
    yield segment


def typography(text: str) -> str:
    """Which path a text takes through normalisation: documents that differ in this are not mixed.

    >>> typography("plain"), typography("R&D"), typography("naïve")
    ('plain', 'suspect', 'non-ASCII')
    """
    if not text.isascii():
        return "non-ASCII"
    suspect = "&" in text or "\r" in text or any(chr(code) in text for code in (*range(9), 11, 12, *range(14, 32), 127))
    return "suspect" if suspect else "plain"


def script(text: str) -> str:
    """The script of a text, from the letters of its first 2,000 characters.

    >>> script("naïve"), script("наивный"), script("天真")
    ('LATIN', 'CYRILLIC', 'CJK')
    """
    letters = [letter for letter in text[:2000] if letter.isalpha()]
    foreign = [letter for letter in letters if not letter.isascii()]
    if len(foreign) * 5 < len(letters):
        return "LATIN"
    names = Counter(unicodedata.name(letter, "NONE").split()[0] for letter in foreign)
    return names.most_common(1)[0][0] if names else "NONE"


def make_pools(documents: Iterable[Document]) -> dict[str, list[tuple[Pool, int]]]:
    """The pools of each source with the number of documents that each was made from, in a fixed order."""
    groups: Groups = defaultdict(list)
    for document in documents:
        letters = script(document.text)
        key: tuple[str, ...] = (document.source, typography(document.text), letters, document.language or letters)
        groups[key].append(document)
    for length in (3, 2):
        joined: Groups = defaultdict(list)
        for key, members in groups.items():
            small = sum(len(member.text.encode()) for member in members) < MINIMUM_POOL_BYTES
            joined[key[:length] if small else key].extend(members)
        groups = joined
    pools: dict[str, list[tuple[Pool, int]]] = defaultdict(list)
    for key, members in sorted(groups.items()):
        pools[key[0]].append((_make_pool(members), len(members)))
    return pools


def _make_pool(documents: list[Document]) -> Pool:
    segments = list(dict.fromkeys(segment for document in documents for segment in split_segments(document.text)))
    segment_bytes = np.array([len(segment.encode()) for segment in segments], np.int64)
    longest = max(int(segment_bytes.sum() * LARGEST_SHARE_OF_POOL), 1)
    lengths = np.array([len(document.text.encode()) for document in documents], np.int64)
    return Pool(segments, segment_bytes, np.minimum(lengths, longest))


def edit(segments: list[str], pool: Pool, rng: np.random.Generator) -> tuple[str, str]:
    """(text, kind of edit) of a near copy of a document: words substituted, segments dropped, or a footer appended."""
    kind = ("words", "dropped", "appended")[int(rng.integers(3))]
    if kind == "appended" and sum(map(len, segments)) >= _SHORTEST_WITH_FOOTER:
        chosen = rng.permutation(len(_FOOTERS))[: int(rng.integers(1, 3))]
        return "".join(segments).rstrip() + "".join(_FOOTERS[number] for number in sorted(chosen.tolist())), kind
    if kind == "dropped" and len(segments) > 2:
        n_dropped = max(1, int(len(segments) * rng.uniform(0, 0.2)))
        start = int(rng.integers(0, len(segments) - n_dropped + 1))
        return "".join(segments[:start] + segments[start + n_dropped :]), kind
    return _substitute_words("".join(segments), pool, rng), "words"


def _substitute_words(text: str, pool: Pool, rng: np.random.Generator) -> str:
    """The text with up to 6 % of its words, at least one, replaced by words from the pool."""
    words = list(_WORD.finditer(text))
    if not words:
        return text + "."
    chosen = np.flatnonzero(rng.random(len(words)) < rng.uniform(0, 0.06))
    if not len(chosen):
        chosen = rng.integers(0, len(words), 1)
    pieces = []
    at = 0
    for number in chosen.tolist():
        donor = _WORD.findall(pool.segments[int(rng.integers(0, len(pool.segments)))]) or ["."]
        word = donor[int(rng.integers(0, len(donor)))]
        pieces += [text[at : words[number].start()], word if word != words[number].group() else f"{word}s"]
        at = words[number].end()
    return "".join([*pieces, text[at:]])


def jaccard(first: str, second: str, ngram: int = 13) -> float:
    """Share of distinct character n-grams that two texts have in common, after lower-casing and joining white space."""
    one, other = (_ngrams(" ".join(text.lower().split()), ngram) for text in (first, second))
    return len(one & other) / max(1, len(one | other))


def _ngrams(text: str, ngram: int) -> set[str]:
    return {text[at : at + ngram] for at in range(max(1, len(text) - ngram + 1))}
