"""What a run leaves in work/ that questions can be answered from: every part's documents, ids and band keys.

A part's records are sorted by key and have an offset table of key prefixes, so that a key costs two small reads a part. After
`curate clean` there is nothing to open here.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from curation import storage
from curation.engine.array_file import ArrayFile
from curation.engine.ledger import ledger_root
from curation.engine.part_writer import IDS, PREFIX_BITS, id_hashes
from curation.engine.parts import Part
from curation.engine.run_folder import RunFolder
from curation.questions.lookup import FinishedRun, Place

_THREADS = (4, 32)  # of reading parts: locally, where there is little to wait for, and from an object store
_ROWS_OF_A_KEY = 1000  # of one part that are looked at: a band of boilerplate text may be shared by millions
# A folder that somebody sent is opened to ask a question, so its pickle may make these and nothing else.
_CLASSES = {
    ("curation.engine.parts", "Part"),
    ("curation.engine.plan", "Unit"),
    ("curation.engine.plan", "InputFile"),
    ("curation.formats.records", "Piece"),
    ("curation.storage", "FileInfo"),
}

T = TypeVar("T")


class _PartsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CLASSES:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a list of parts")
        return super().find_class(module, name)


@dataclass(frozen=True)
class Row:
    """A document by its place in the parts."""

    part: int
    row: int


@dataclass(frozen=True)
class BandHits:
    """Documents that share band keys with a text: parts int64[n], rows int64[n], how many keys each shares int64[n], the
    documents with the most shared keys first, then in rank order; `cut` says that a key had more documents than are looked at."""

    parts: np.ndarray
    rows: np.ndarray
    shared: np.ndarray
    cut: bool


class WorkTables:
    """The parts of a run, in rank order."""

    def __init__(self, run: FinishedRun, parts: list[Part], work: str) -> None:
        self.run, self.parts = run, parts
        self._threads = _THREADS[storage.is_remote(work)]

    @classmethod
    def open(cls, run: FinishedRun) -> WorkTables | None:
        """The run's work folder; None when it was dropped, or belongs to another run by now."""
        recorded, output = run.run.get("work"), run.folder.output
        for work in dict.fromkeys([recorded or run.folder.work, run.folder.work]):
            path = storage.join(work, "parts.pickle")
            owner = ledger_root(RunFolder(output, work).ledger)
            inside = work.startswith(output.rstrip("/") + "/")
            if not storage.exists(path) or (owner not in (None, output) and not inside):
                continue
            try:
                parts = _PartsUnpickler(io.BytesIO(storage.read_bytes(path))).load()
            except (pickle.UnpicklingError, EOFError, AttributeError, IndexError):
                continue
            if recorded and recorded != work:  # the run was moved as a whole
                parts = [replace(part, path=part.path.replace(recorded, work, 1)) for part in parts]
            counted = run.report.get("documents", {})
            n_documents = parts[-1].base + parts[-1].n_documents if parts else 0
            if n_documents == counted.get("in", 0) - counted.get("quarantined", 0):
                return cls(run, parts, work)
        return None

    def _each(self, function: Callable[[int], T], indices: Iterable[int]) -> Iterator[T]:
        with ThreadPoolExecutor(self._threads) as pool:
            yield from pool.map(function, indices)

    def locate(self, places: list[Place]) -> dict[Place, Row]:
        """Where the documents at these places are; without those where no document is. One part is read a place."""
        by_file: dict[int, list[int]] = {}
        wanted = {place.number for place in places}
        for index, part in enumerate(self.parts):
            for number in wanted & {file.number for file in part.unit.files}:
                by_file.setdefault(number, []).append(index)
        by_part: dict[int, list[Place]] = {}
        for place in places:
            last = self._part_with(place, by_file.get(place.number, []))
            if last is not None:
                by_part.setdefault(last, []).append(place)
        found: dict[Place, Row] = {}
        for index, mine in by_part.items():
            ranks = self._ranks(index)
            for place in mine:
                row = int(np.searchsorted(ranks, np.uint64(place.rank)))
                if row < len(ranks) and int(ranks[row]) == place.rank:
                    found[place] = Row(index, row)
        return found

    def _part_with(self, place: Place, candidates: list[int]) -> int | None:
        """The last of the parts (in rank order) that begins at or before the place."""
        candidates = [index for index in candidates if self.parts[index].n_documents]
        low, high = 0, len(candidates)
        while low < high:
            middle = (low + high) // 2
            part = self.parts[candidates[middle]]
            arrays = part.arrays()
            number = part.unit.files[int(arrays.read("file", 0, 1)[0])].number
            begins = Place(number, int(arrays.read("position", 0, 1)[0]))
            if begins.rank <= place.rank:
                low = middle + 1
            else:
                high = middle
        return candidates[low - 1] if low else None

    def _ranks(self, index: int) -> np.ndarray:
        part = self.parts[index]
        return part.ranks(part.arrays())

    def neighbours(self, place: Place) -> list[Place]:
        """The documents of the same file that begin just before and just after a place where none begins."""
        candidates = [i for i, part in enumerate(self.parts) if place.number in {file.number for file in part.unit.files}]
        index = self._part_with(place, candidates)
        near: list[Place] = []
        following = candidates[:1] if index is None else candidates[candidates.index(index) : candidates.index(index) + 2]
        for other in following:
            ranks = self._ranks(other)
            at = int(np.searchsorted(ranks, np.uint64(place.rank)))
            near += [Place.of(int(rank)) for rank in ranks[max(0, at - 1) : at + 1]]
        mine = sorted({one for one in near if one.number == place.number}, key=lambda one: one.rank)
        before = [one for one in mine if one.rank < place.rank][-1:]
        return before + [one for one in mine if one.rank > place.rank][:1]

    def place(self, at: Row) -> Place:
        """Where a document stands in the input."""
        part = self.parts[at.part]
        return Place.of(int(part.ranks(part.arrays(), np.array([at.row]))[0]))

    def ids(self, part: int, rows: np.ndarray) -> tuple[list[str], list[Place]]:
        """Ids and places of some rows (int64[k]) of a part."""
        arrays = self.parts[part].arrays()
        ranks = self.parts[part].ranks(arrays, rows)
        return self.parts[part].ids(arrays, rows), [Place.of(rank) for rank in ranks.tolist()]

    def find_own_ids(self, ids: list[str]) -> dict[str, Row]:
        """Where the documents with these ids of the input's own are."""
        sources = self.run.sources
        having = [index for index, part in enumerate(self.parts) if sources[part.unit.source].id and part.n_documents]
        hashes = id_hashes(pa.array(ids, pa.string()))
        keys, lows = hashes["key"].tolist(), hashes["low"].tolist()

        def look(index: int) -> list[tuple[str, Row]]:
            arrays = self.parts[index].arrays()
            found = []
            for value, key, low in zip(ids, keys, lows, strict=True):
                start, stop = _key_range(arrays, IDS, key)
                for at in np.flatnonzero(arrays.read(f"{IDS}.low", start, stop) == np.uint64(low)).tolist():
                    row = int(arrays.read(f"{IDS}.row", start + at, start + at + 1)[0])
                    found.append((value, Row(index, row)))
            return found

        return {value: row for some in self._each(look, having) for value, row in some}

    def band_keys(self, stage: str, rows: list[Row]) -> dict[Row, np.ndarray]:
        """The band keys (uint64) that the stage's first pass gave these documents, in no order; empty where it gave none."""
        by_part: dict[int, list[Row]] = {}
        for row in rows:
            by_part.setdefault(row.part, []).append(row)

        def look(index: int) -> list[tuple[Row, np.ndarray]]:
            arrays = self.parts[index].arrays()
            of_row = arrays.read(f"{stage}.row")
            keys = arrays.read(f"{stage}.key")
            return [(row, keys[of_row == row.row]) for row in by_part[index]]

        return {row: keys for some in self._each(look, by_part) for row, keys in some}

    def lookup(self, stage: str, keys: np.ndarray) -> BandHits:
        """The documents that share one of `keys` (uint64[bands]) at the stage."""
        distinct = np.unique(keys).tolist()

        def look(index: int) -> tuple[np.ndarray, bool]:
            arrays = self.parts[index].arrays()
            rows, cut = [np.zeros(0, np.uint32)], False
            for key in distinct:
                start, stop = _key_range(arrays, stage, key)
                if stop > start:
                    rows.append(arrays.read(f"{stage}.row", start, min(stop, start + _ROWS_OF_A_KEY)))
                    cut |= stop - start > _ROWS_OF_A_KEY
            return np.concatenate(rows), cut

        parts, rows, shared, cut = [], [], [], False
        indices = range(len(self.parts))
        for index, (hits, was_cut) in zip(indices, self._each(look, indices), strict=True):
            unique, counts = np.unique(hits, return_counts=True)
            parts.append(np.full(len(unique), index, np.int64))
            rows.append(unique.astype(np.int64))
            shared.append(counts)
            cut |= was_cut
        none = np.zeros(0, np.int64)
        joined = [np.concatenate([none, *arrays]) for arrays in (parts, rows, shared)]
        order = np.argsort(-joined[2], kind="stable")
        return BandHits(joined[0][order], joined[1][order], joined[2][order], cut)


def _key_range(arrays: ArrayFile, name: str, key: int) -> tuple[int, int]:
    """Where the records with a key stand in a part's sorted records."""
    if f"{name}.prefix" not in arrays:
        return 0, 0
    prefix = key >> (64 - PREFIX_BITS)
    first, last = arrays.read(f"{name}.prefix", prefix, prefix + 2).tolist()
    keys = arrays.read(f"{name}.key", first, last)
    start, stop = np.searchsorted(keys, np.uint64(key), "left"), np.searchsorted(keys, np.uint64(key), "right")
    return first + int(start), first + int(stop)
