"""A corpus of short made-up documents of any number, in RedPajama-1T's layout: what questions.py and page.py run on.

Words are made of random syllables. Every word of every document is a hash of (seed, document, place), so that any
document can be made by itself, copies need no store of originals, and the same settings give the same bytes.

Every eighth document is an *original*: always fresh, and what copies copy. A copy's original is any earlier one, of any
source; one copy in ten draws it by a power law, which makes clusters of thousands.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard

# Source, share of the documents (ours: roughly RedPajama-1T's order of sizes), file name in its layout.
_SOURCES = (
    ("commoncrawl", 0.45, "common_crawl/2023-06/part_{:05d}.jsonl.zst"),
    ("c4", 0.20, "c4/c4-train.{:05d}.jsonl.zst"),
    ("github", 0.10, "github/filtered_{:05d}.jsonl.zst"),
    ("book", 0.02, "book/book_{:05d}.jsonl.zst"),
    ("arxiv", 0.05, "arxiv/arxiv_{:05d}.jsonl.zst"),
    ("wikipedia", 0.08, "wikipedia/wiki_{:05d}.jsonl.zst"),
    ("stackexchange", 0.10, "stackexchange/stackexchange_{:05d}.jsonl.zst"),
)
_DOCUMENTS_A_FILE = 10_000  # some 4 MB raw: the planner makes a part of each, a thousand of ten million documents
_WORDS = 1 << 16
_HOSTS = 1 << 12
_LANGUAGES = ("en",) * 11 + ("de", "fr", "es", "ru", "zh")  # labels only, drawn evenly
_ORIGINAL_EVERY = 8
_WORDS_OF_A_DOCUMENT = (26, 40)  # lowest and one above the highest: mostly 200 to 330 characters
_WORDS_OF_A_SHORT_DOCUMENT = (6, 20)
_SKEWED_SHARE = 0.1
_SENTENCE_WORDS = 13
_MOST_REPLACED_WORDS = 3
_APPENDED_WORDS = 2
# What a hash is drawn for; each is a stream of its own.
_WORD, _FATE, _LENGTH, _ORIGIN, _SKEW, _EDIT, _PLACE, _HOST, _LANGUAGE, _BAD = range(10)

FRESH, SHORT, EXACT, NEAR, BAD = range(5)
KINDS = ("fresh", "short", "exact copy", "near copy", "bad record")
SUMMARY = ".corpus.json"


@dataclass(frozen=True)
class Settings:
    """What decides the bytes of a corpus."""

    documents: int
    seed: int = 1
    exact_share: float = 0.05
    near_share: float = 0.10
    short_share: float = 0.03
    bad_share: float = 1e-4  # a tenth of what a run allows

    def __post_init__(self) -> None:
        if self.documents < 1:
            raise ValueError(f"{self.documents} documents: a corpus has at least one")
        if self.copied_share >= 1 - 1 / _ORIGINAL_EVERY or min(self.exact_share, self.near_share, self.short_share) < 0:
            raise ValueError(f"shares {self.exact_share} and {self.near_share}: below {1 - 1 / _ORIGINAL_EVERY} in sum")

    @property
    def copied_share(self) -> float:
        """Share of the documents that are copies."""
        return self.exact_share + self.near_share


@dataclass(frozen=True)
class CorpusFile:
    """A file to write: documents `start` up to `end` of the corpus."""

    source: str
    relative: str
    start: int
    end: int


def corpus_files_of(settings: Settings) -> list[CorpusFile]:
    """The files of a corpus in the order of its documents, which is the order in which the recipe ranks them."""
    files = []
    start, reached = 0, 0.0
    for source, share, name in _SOURCES:
        reached += share
        last = round(reached * settings.documents)
        for number, first in enumerate(range(start, last, _DOCUMENTS_A_FILE)):
            files.append(CorpusFile(source, name.format(number), first, min(last, first + _DOCUMENTS_A_FILE)))
        start = last
    return files


class Maker:
    """Makes the documents of a corpus, any of them by number."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def kinds(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the documents `numbers` (int64[n]) are: index into KINDS (int8[n]), and the original of each (int64[n])."""
        settings = self.settings
        fate = self._fraction(_FATE, numbers)
        # Originals are never copies, so the others have to be copies more often for the shares to hold over all.
        scale = _ORIGINAL_EVERY / (_ORIGINAL_EVERY - 1)
        can_be_copy = numbers % _ORIGINAL_EVERY > 0
        kinds = np.where(fate > 1 - settings.short_share, SHORT, FRESH).astype(np.int8)
        kinds[can_be_copy & (fate < scale * settings.copied_share)] = NEAR
        kinds[can_be_copy & (fate < scale * settings.exact_share)] = EXACT
        kinds[can_be_copy & (self._fraction(_BAD, numbers) < scale * settings.bad_share)] = BAD
        drawn = self._fraction(_ORIGIN, numbers)
        drawn = np.where(self._fraction(_SKEW, numbers) < _SKEWED_SHARE, drawn**4, drawn)
        originals = (drawn * ((numbers + _ORIGINAL_EVERY - 1) // _ORIGINAL_EVERY)).astype(np.int64) * _ORIGINAL_EVERY
        return kinds, np.where((kinds == EXACT) | (kinds == NEAR), originals, numbers)

    def lines(self, numbers: np.ndarray) -> bytes:
        """The documents `numbers` (int64[n]) as JSON lines, one a document."""
        kinds, originals = self.kinds(numbers)
        documents, places, words = self._words(numbers, kinds, originals)
        n_words = np.bincount(documents, minlength=len(numbers))
        # Of each document an opening, its words, and two closing pieces; the words of others stand before it.
        starts = np.cumsum(n_words + 3) - (n_words + 3)
        pieces = np.empty(int(n_words.sum()) + 3 * len(numbers), np.int32)
        pieces[starts[documents] + 1 + places] = words
        is_bad = kinds == BAD
        pieces[starts] = self._pieces.opening
        pieces[starts + n_words + 1] = np.where(is_bad, self._pieces.nothing, self._pieces.first_host + self._hosts(numbers))
        languages = (self._hash(_LANGUAGE, numbers) % np.uint64(len(_LANGUAGES))).astype(np.int64)
        pieces[starts + n_words + 2] = np.where(is_bad, self._pieces.line_end, self._pieces.first_language + languages)
        # The bytes of a string array without nulls lie one after the other: they are the lines.
        taken = self._pieces.strings.take(pa.array(pieces))
        offsets = np.frombuffer(taken.buffers()[1], np.int64)
        return taken.buffers()[2].slice(0, int(offsets[len(taken)])).to_pybytes()

    def text(self, number: int) -> str:
        """The text of one document, whether or not it is in the corpus."""
        line = self.lines(np.array([number], np.int64))
        return json.loads(line)["text"]

    def _words(
        self, numbers: np.ndarray, kinds: np.ndarray, originals: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of every word: row of its document, place in it (int64 each), and piece (int64)."""
        is_short = np.where(originals == numbers, kinds, self.kinds(originals)[0]) == SHORT
        lowest = np.where(is_short, _WORDS_OF_A_SHORT_DOCUMENT[0], _WORDS_OF_A_DOCUMENT[0])
        above = np.where(is_short, _WORDS_OF_A_SHORT_DOCUMENT[1], _WORDS_OF_A_DOCUMENT[1])
        n_own = lowest + (self._fraction(_LENGTH, originals) * (above - lowest)).astype(np.int64)
        edit = self._hash(_EDIT, numbers)
        is_appended = (kinds == NEAR) & (edit % np.uint64(2) == 0)
        is_replaced = (kinds == NEAR) & ~is_appended
        n_words = n_own + np.where(is_appended, _APPENDED_WORDS, 0)
        n_replaced = np.where(is_replaced, 1 + (edit >> np.uint64(1)) % np.uint64(_MOST_REPLACED_WORDS), 0).astype(np.int64)
        first_replaced = (self._fraction(_PLACE, numbers) * (n_own - n_replaced)).astype(np.int64)

        documents = np.repeat(np.arange(len(numbers)), n_words)
        places = np.arange(len(documents)) - np.repeat(np.cumsum(n_words) - n_words, n_words)
        since = places - first_replaced[documents]
        is_new = ((since >= 0) & (since < n_replaced[documents])) | (places >= n_own[documents])
        drawn = self._hash(_WORD, np.where(is_new, numbers[documents], originals[documents]) * 256 + places)
        # The product of two even draws: few words are frequent, as in a language, yet pairs of words hardly repeat.
        words = (((drawn & np.uint64(0xFFFF)) * ((drawn >> np.uint64(16)) & np.uint64(0xFFFF))) >> np.uint64(16)).astype(np.int64)
        form = np.zeros(len(words), np.int64)
        form[places % _SENTENCE_WORDS == 0] = 1
        form[places % _SENTENCE_WORDS == _SENTENCE_WORDS - 1] = 2
        form[places == n_words[documents] - 1] = 3
        return documents, places, form * _WORDS + words

    def _hosts(self, numbers: np.ndarray) -> np.ndarray:
        return (self._fraction(_HOST, numbers) ** 3 * _HOSTS).astype(np.int64)

    def _hash(self, stream: int, numbers: np.ndarray) -> np.ndarray:
        """uint64[n] for int64[n]: splitmix64's finaliser (Steele, Lea and Flood, OOPSLA 2014) of a keyed counter."""
        key = (self.settings.seed * 0x9E3779B97F4A7C15 + (stream + 1) * 0xD1342543DE82EF95) % 2**64
        mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))

    def _fraction(self, stream: int, numbers: np.ndarray) -> np.ndarray:
        """float64[n] in [0, 1)."""
        return (self._hash(stream, numbers) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    @cached_property
    def _pieces(self) -> Pieces:
        return make_pieces(self.settings.seed)


@dataclass(frozen=True)
class Pieces:
    """All strings that lines are put together from; the words come first, in four forms."""

    strings: pa.LargeStringArray
    opening: int
    nothing: int
    line_end: int
    first_host: int
    first_language: int


def make_pieces(seed: int) -> Pieces:
    """Words as "word ", "Word ", "word. " and "word.", then what JSON has around the text."""
    rng = np.random.default_rng(seed)
    words = made_up_words(rng, _WORDS + _HOSTS)
    words, hosts = words[:_WORDS], words[_WORDS:]
    strings = [f"{word} " for word in words]
    strings += [f"{word.capitalize()} " for word in words]
    strings += [f"{word}. " for word in words]
    strings += [f"{word}." for word in words]
    opening = len(strings)
    strings += ['{"text":"', "", "\n"]
    first_host = len(strings)
    strings += [f'","meta":{{"url":"https://{host}.example/","language":"' for host in hosts]
    first_language = len(strings)
    strings += [f'{language}"}}}}\n' for language in _LANGUAGES]
    return Pieces(pa.array(strings, pa.large_string()), opening, opening + 1, opening + 2, first_host, first_language)


def made_up_words(rng: np.random.Generator, n_words: int) -> list[str]:
    """Different words of one to four syllables; one in five hundred has a letter beyond ASCII."""
    onsets = np.array([*"bcdfghjklmnprstvwz", "br", "ch", "dr", "gl", "kr", "pl", "sh", "st", "th", "tr"])
    vowels = np.array([*"aeiou", "ai", "ea", "ou"])
    codas = np.array(["", "", "", "n", "r", "s", "l"])
    beyond_ascii = str.maketrans("aeiou", "äéíøū")
    words: dict[str, None] = {}
    while len(words) < n_words:
        syllables = [
            "".join(syllable)
            for syllable in zip(*(rng.choice(letters, 4 * n_words) for letters in (onsets, vowels, codas)), strict=True)
        ]
        n_syllables = rng.choice(4, n_words, p=(0.1, 0.5, 0.3, 0.1)) + 1
        has_accents = rng.random(n_words) < 0.002
        for at, (n, accents) in enumerate(zip(n_syllables.tolist(), has_accents.tolist(), strict=True)):
            word = "".join(syllables[4 * at : 4 * at + n])
            words[word.translate(beyond_ascii) if accents else word] = None
    return list(words)[:n_words]


def write_corpus(settings: Settings, directory: Path) -> dict[str, Any]:
    """Write a corpus, unless it is there already; what was planted, as SUMMARY in the folder has it.

    Raises ValueError when the folder holds another corpus, or something else.
    """
    summary_path = directory / SUMMARY
    if directory.exists():
        found = json.loads(summary_path.read_text()) if summary_path.exists() else {}
        if found.get("settings") != asdict(settings):
            raise ValueError(f"{directory} holds {found.get('settings', 'something else')}: name another folder, or remove it")
        return found
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    maker = Maker(settings)
    planted = np.zeros(len(KINDS), np.int64)
    raw_bytes = file_bytes = 0
    files = corpus_files_of(settings)
    compressor = zstandard.ZstdCompressor(level=1)
    for file in files:
        numbers = np.arange(file.start, file.end, dtype=np.int64)
        lines = maker.lines(numbers)
        compressed = compressor.compress(lines)
        path = partial / file.relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(compressed)
        raw_bytes += len(lines)
        file_bytes += len(compressed)
        planted += np.bincount(maker.kinds(numbers)[0], minlength=len(KINDS))
    summary = {
        "settings": asdict(settings),
        "files": len(files),
        "raw_bytes": raw_bytes,
        "file_bytes": file_bytes,
        "planted_documents": dict(zip(KINDS, planted.tolist(), strict=True)),
    }
    (partial / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n")
    partial.rename(directory)
    return summary
