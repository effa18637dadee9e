"""What a person is shown of a run, as the second pass comes by it.

Three kinds of documents: a keyed sample of all that were read, those nearest to a threshold of a map stage, and the pairs of
near-duplicates that decisions name. Each follows from ranks and measures alone, so the samples are the same for any number of
workers and any cut of the input. A task leaves its share in one file; curation/engine/sample_tables.py joins the files.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import storage
from curation.engine.keyed import keyed_hashes, share_limit
from curation.engine.parts import Part, Rows
from curation.engine.stage_pass import KEPT, document_batch, needs_columns, pass_stages
from curation.formats.records import Batch
from curation.stages import DocumentFailuresError, MapStage, Stage

if TYPE_CHECKING:
    from curation.engine.second_pass import DecidedPart

SAMPLE_DOCUMENTS = 20_000  # of all that were read, about
NEAREST = 5  # documents on a side of a threshold
NEAREST_CHARACTERS = 2_000
PAIR_CHARACTERS = 20_000
LONGEST_MEASURED_BYTES = 10**6  # of a text that is gathered whole, for the similarity of a pair
_LANGUAGE_CHARACTERS = 2_000
_LETTERS = re.compile(r"(?:[^\W\d_][\W\d_]*+){20}")  # in fewer, a language is a guess
_LONGEST_HOST = 253  # RFC 1035: 255 octets with length bytes
_LONGEST_LANGUAGE = 35  # RFC 5646, 4.4.1
_FLUSH_BYTES = 8 * 2**20

# A row for each document and purpose: "document" (of the keyed sample), "nearest" or "pair". `stage` is the one that removed it, or
# the one that measured it.
SCHEMA = pa.schema(
    [
        ("purpose", pa.string()),
        ("number", pa.uint64()),
        ("rank", pa.uint64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("language", pa.string()),
        ("domain", pa.string()),
        ("text_bytes", pa.uint64()),
        ("side", pa.string()),
        ("measure", pa.float64()),
        ("distance", pa.float64()),
        ("text", pa.large_string()),
        ("characters", pa.uint64()),
        ("is_whole", pa.bool_()),
        ("edited_by", pa.uint8()),  # the last stage that edited it, an index; null without one
    ]
)


@dataclass(frozen=True)
class SampleChoice:
    """What a second-pass task has to take: `share` of all documents, those nearest to thresholds, and the documents `shown`."""

    seed: int
    share: float
    shown: tuple[int, ...]  # numbers, ascending


def sample_share(n_documents: int) -> float:
    """The share of the documents that were read that the keyed sample has.

    >>> sample_share(0), sample_share(20_000), sample_share(10**6)
    (1.0, 1.0, 0.02)
    """
    return min(1.0, SAMPLE_DOCUMENTS / max(1, n_documents))


@dataclass(frozen=True, order=True)
class _Near:
    """A document near a threshold; what is less is nearer, or of a lower rank."""

    distance: float
    number: int
    measure: float
    stage: int
    side: str


@dataclass(frozen=True)
class _Chosen:
    """The documents of a task that are wanted, by number."""

    numbers: np.ndarray  # int64, of all, ascending
    sampled: np.ndarray  # int64, of the keyed sample, ascending
    nearest: dict[int, list[_Near]]
    shown: set[int]


class Sampler:
    """Takes the documents of a task: `choose` for each part, then `rows` of each, then `add` for what was read, then the end of
    the context, which publishes the file or, after an exception, nothing."""

    def __init__(self, choice: SampleChoice, stages: list[Stage], path: str) -> None:
        self.path = path
        self.measures: dict[str, dict[str, Any]] = {}  # by stage, {"unit", "threshold"}
        self._choice, self._stages = choice, stages
        self._limit = share_limit(choice.share)
        self._sampled: list[np.ndarray] = []
        self._nearest: dict[tuple[int, str], list[_Near]] = {}
        self._chosen: _Chosen | None = None
        self._pending: list[pa.RecordBatch] = []
        self._opened = ExitStack()

    def __enter__(self) -> Sampler:
        temporary = self._opened.enter_context(storage.commit(self.path))
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._file = self._opened.enter_context(pa.ipc.new_file(temporary, SCHEMA, options=options))
        return self

    def __exit__(self, *error: Any) -> bool | None:
        if error[0] is None:
            self._flush()
        return self._opened.__exit__(*error)

    def choose(self, part: DecidedPart) -> None:
        """Choose among the documents of the task's next part; nothing is read for it."""
        base = part.part.base
        hashes = keyed_hashes(self._choice.seed, part.part.ranks(part.arrays))
        self._sampled.append(np.flatnonzero(hashes <= self._limit) + base)
        for index, stage in enumerate(self._stages):
            measure = part.arrays.meta["measures"].get(stage.name)
            if measure is None:
                continue
            self.measures.setdefault(stage.name, measure)
            if measure["threshold"] is None:
                continue
            values = part.arrays.read(f"measure.{stage.name}")
            distances = np.abs(values - measure["threshold"])
            # What an earlier stage removed did not come here, though a stage may have measured it.
            for side, came in (("kept", part.removed_by > index), ("removed", part.removed_by == index)):
                rows = np.flatnonzero(came & np.isfinite(distances))
                rows = rows[np.argsort(distances[rows], kind="stable")[:NEAREST]]
                found = [_Near(float(distances[row]), base + row, float(values[row]), index, side) for row in rows.tolist()]
                self._nearest[index, side] = sorted(self._nearest.get((index, side), []) + found)[:NEAREST]

    def rows(self, part: Part) -> np.ndarray:
        """The rows of a part, all parts being chosen from, that have to be read: int64[k], ascending."""
        wanted = self._all().numbers
        start, stop = np.searchsorted(wanted, [part.base, part.base + part.n_documents])
        return wanted[start:stop] - part.base

    def _all(self) -> _Chosen:
        if self._chosen is None:
            sampled = np.concatenate([np.zeros(0, np.int64), *self._sampled])
            nearest: dict[int, list[_Near]] = {}
            for one in (one for some in self._nearest.values() for one in some):
                nearest.setdefault(one.number, []).append(one)
            numbers = np.unique(np.concatenate([sampled, np.array([*nearest, *self._choice.shown], np.int64)]))
            self._chosen = _Chosen(numbers, sampled, nearest, set(self._choice.shown))
        return self._chosen

    def add(self, part: DecidedPart, rows: Rows) -> None:
        """Take from `rows`, which were read with details, what is wanted of them."""
        chosen = self._all()
        numbers = rows.rows + part.part.base
        at = np.flatnonzero(_among(numbers, chosen.numbers))
        if not len(at):
            return
        take, numbers = pa.array(at), numbers[at]
        assert rows.details is not None
        taken = _Taken(part, Rows(rows.part, rows.rows[at], rows.texts.take(take), rows.details.take(take)))
        found = taken.documents(np.flatnonzero(_among(numbers, chosen.sampled)))
        for index, number in enumerate(numbers.tolist()):
            found += [taken.nearest(index, near, self._stages) for near in chosen.nearest.get(number, ())]
            if number in chosen.shown:
                found.append(taken.of_pair(index))
        self._pending.append(pa.RecordBatch.from_pylist(found, SCHEMA))
        if sum(batch.nbytes for batch in self._pending) > _FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._file.write_table(pa.Table.from_batches(self._pending, SCHEMA).combine_chunks())
        self._pending = []


def _among(numbers: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Which of `numbers` stand in the sorted array `chosen`, bool[n]."""
    if not len(chosen):
        return np.zeros(len(numbers), bool)
    return chosen[np.minimum(np.searchsorted(chosen, numbers), len(chosen) - 1)] == numbers


class _Taken:
    """Documents of a part that were read, as rows of the file."""

    def __init__(self, part: DecidedPart, rows: Rows) -> None:
        self.part, self.rows = part, rows
        numbers = (rows.rows + part.part.base).tolist()
        ranks = part.part.ranks(part.arrays, rows.rows).tolist()
        columns = zip(numbers, ranks, part.ids(rows.rows), part.source_names(rows.rows).tolist(), strict=True)
        self._about = [dict(zip(("number", "rank", "id", "source"), values, strict=True)) for values in columns]

    def documents(self, indices: np.ndarray) -> list[dict[str, Any]]:
        """Members of the keyed sample."""
        part, rows, details = self.part, self.rows.rows[indices], self.rows.details
        assert details is not None
        take = pa.array(indices)
        texts = pc.utf8_slice_codeunits(self.rows.texts.take(take), 0, _LANGUAGE_CHARACTERS).to_pylist()
        recorded, urls = (details.column(name).take(take).to_pylist() for name in ("language", "url"))
        stages: list[str | None] = [None] * len(rows)
        reasons: list[str | None] = [None] * len(rows)
        gone = np.flatnonzero(~part.kept[rows])
        for index, reason in zip(gone.tolist(), part.reasons(rows[gone]), strict=True):
            stages[index], reasons[index] = part.task.stages[part.removed_by[rows[index]]].name, reason
        return [
            {
                "purpose": "document",
                **self._about[index],
                "stage": stages[n],
                "reason": reasons[n],
                "language": _own_language(recorded[n]) or detected_language(texts[n]),
                "domain": domain(urls[n]),
                "text_bytes": int(part.text_bytes[rows[n]]),
            }
            for n, index in enumerate(indices.tolist())
        ]

    def nearest(self, index: int, near: _Near, stages: list[Stage]) -> dict[str, Any]:
        """A document near a threshold."""
        found = {"side": near.side, "measure": near.measure, "distance": near.distance}
        about = {"purpose": "nearest", **self._about[index], "stage": stages[near.stage].name, **found}
        return {**about, **_beginning(self._seen(index), NEAREST_CHARACTERS)}

    def of_pair(self, index: int) -> dict[str, Any]:
        """A document of a pair: whole, unless it is too long."""
        texts = self.rows.texts.slice(index, 1)
        is_whole = pc.binary_length(texts)[0].as_py() <= LONGEST_MEASURED_BYTES
        text = _beginning(texts, LONGEST_MEASURED_BYTES if is_whole else PAIR_CHARACTERS)
        return {"purpose": "pair", **self._about[index], **text, "is_whole": is_whole, "edited_by": self._edited_by(index)}

    def _edited_by(self, index: int) -> int | None:
        """The last stage that edited a document, of those whose edits are logged."""
        row, arrays = self.rows.rows[index], self.part.arrays
        for number, stage in reversed(list(enumerate(self.part.task.stages))):
            name = f"edited.{stage.name}.row"
            if name in arrays and row in arrays.whole(name):
                return number
        return None

    def _seen(self, index: int) -> pa.LargeStringArray:
        """A text as the map stages before the one that removed it left it: what was edited is stored of those that stay only."""
        row, texts, part = self.rows.rows[[index]], self.rows.texts.slice(index, 1), self.part
        removed_by = int(part.arrays.read("removed_by", int(row[0]), int(row[0]) + 1)[0])
        stages = [] if removed_by == KEPT else [s for s in part.task.stages[:removed_by] if isinstance(s, MapStage)]
        if not stages:
            return texts
        details = self.rows.details
        assert details is not None
        file = part.part.unit.files[int(part.arrays.whole("file")[row][0])]
        ids, by = pa.array(part.ids(row), pa.string()), pa.array(part.source_names(row), pa.string())
        batch = Batch(part.arrays.whole("position")[row], texts, ids, by, details.slice(index, 1))
        try:
            documents = document_batch(batch, file.source, file.relative, needs_columns(list(stages)))
            return pass_stages(list(stages), documents).documents.texts
        except DocumentFailuresError:  # which a stage of the user's may raise now, though it did not before
            return texts


def _beginning(texts: pa.LargeStringArray, n_characters: int) -> dict[str, Any]:
    """The first characters of an array's only text, and how many it has."""
    return {
        "text": pc.utf8_slice_codeunits(texts, 0, n_characters)[0].as_py(),
        "characters": pc.utf8_length(texts)[0].as_py(),
    }


def _own_language(value: str | None) -> str | None:
    """What a record says of its language, where it is a name and no list of programming languages or the like."""
    named = value is not None and 0 < len(value) <= _LONGEST_LANGUAGE and value.isprintable() and value[0] not in "[{"
    return value if named else None


def detected_language(text: str) -> str | None:
    """The language of a text by the profiles of resiliparse, a code such as "en"; None when it cannot be told.

    >>> detected_language("The fox jumps over the lazy dog and looks for something else to do."), detected_language("1 + 1")
    ('en', None)
    """
    from resiliparse.parse.lang import detect_fast

    if not _LETTERS.search(text):
        return None
    language = detect_fast(text)[0]
    return None if language == "unknown" else language


def domain(url: str | None) -> str | None:
    """The host of a URL without "www."; None without one.

    >>> domain("https://www.example.org:80/page"), domain("example"), domain(None)
    ('example.org', None, None)
    """
    try:
        host = urlsplit(url).hostname if url else None
    except ValueError:
        return None
    host = (host or "").removeprefix("www.")
    return host if 0 < len(host) <= _LONGEST_HOST and host.isprintable() else None
