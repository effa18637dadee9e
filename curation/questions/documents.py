"""Documents of a run by id: where the kept ones are, where any of them stands in the input, and their texts."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation import storage
from curation.engine.part_writer import SPLITS
from curation.questions.lookup import DocumentPart, FinishedRun, Place
from curation.questions.result_files import column_index, open_parquet
from curation.questions.texts import Found, TextReader
from curation.questions.work_tables import Row, WorkTables


@dataclass(frozen=True)
class Kept:
    """A document in documents/: `row` has its columns but text and meta, and is empty for JSON lines."""

    id: str
    rank: int | None
    source: str | None
    split: str | None
    path: str | None  # below the run's folder
    row: dict[str, Any] = field(default_factory=dict)
    part: DocumentPart | None = None


class Documents:
    """Finds documents and reads their texts, within a budget."""

    def __init__(self, run: FinishedRun, budget_bytes: int) -> None:
        self.run, self.reader = run, TextReader(run, budget_bytes)
        self._places: dict[str, Place | None] = {}
        self._kept: dict[str, Kept | None] = {}
        self._texts: dict[str, Found] = {}

    @functools.cached_property
    def work(self) -> WorkTables | None:
        """What work/ holds; None after `curate clean`."""
        return WorkTables.open(self.run)

    def places(self, ids: list[str]) -> dict[str, Place | None]:
        """Where documents stand in the input; None for those that cannot be told."""
        new = [value for value in ids if value not in self._places]
        own: list[str] = []
        for value in new:
            place = self.run.place(value)
            made = place is not None and self.run.sources[self.run.files[place.number].source].id is None
            self._places[value] = place if made else None
            if not made:
                own.append(value)
        if own and self.run.has_own_ids and self.work is not None:
            for value, row in self.work.find_own_ids(own).items():
                self._places[value] = self.work.place(row)
        return {value: self._places[value] for value in ids}

    def remember(self, places: dict[str, Place]) -> None:
        """Take where documents stand from somebody who knows."""
        self._places |= places

    def rows(self, ids: list[str]) -> dict[str, Row]:
        """Where documents are in the parts; without those that cannot be told."""
        if self.work is None:
            return {}
        places = {value: place for value, place in self.places(ids).items() if place is not None}
        rows = self.work.locate(list(places.values()))
        return {value: rows[place] for value, place in places.items() if place in rows}

    def kept(self, ids: list[str], thorough: bool = False, notes: list[str] | None = None) -> dict[str, Kept]:
        """Those of `ids` that are in documents/. `thorough` reads a whole column of ids where nothing else leads there."""
        new = list(dict.fromkeys(value for value in ids if value not in self._kept))
        places = {value: place for value, place in self.places(new).items() if place is not None}
        found = self._kept_rows(places) if self.run.is_parquet else self._kept_lines(places)
        self._kept |= {value: found.get(value) for value in new}
        left = [value for value in ids if self._kept[value] is None and places.get(value) is None]
        if thorough and left and self.run.has_own_ids and self.work is None:
            if notes is not None:
                notes.append("work/ was dropped, so the ids of all of documents/ were read to find this one")
            for value in left:
                self._kept[value] = self._scanned(value)
        return {value: kept for value in ids if (kept := self._kept[value]) is not None}

    def _kept_rows(self, places: dict[str, Place]) -> dict[str, Kept]:
        rows = self.run.documents([place.rank for place in places.values()])
        return {row["id"]: self._of_row(row, part) for row, part in rows.values()}

    def _of_row(self, row: dict[str, Any], part: DocumentPart) -> Kept:
        path = storage.relative(part.path, self.run.folder.output)
        return Kept(row["id"], row["rank"], row["source"], part.split, path, row, part)

    def _kept_lines(self, places: dict[str, Place]) -> dict[str, Kept]:
        """Kept documents of JSON lines. One whose line carries no id is kept when work/ knows it and removed/ does not."""
        found: dict[str, Kept] = {}
        by_rank = {place.rank: value for value, place in places.items()}
        for path, split, ranks in self.run.files_with(list(by_rank)):
            missing = [by_rank[rank] for rank in ranks if by_rank[rank] not in found]
            for value, line in self._lines(path, {value: places[value] for value in missing}).items():
                source = self.run.sources[self.run.files[places[value].number].source]
                relative = storage.relative(path, self.run.folder.output)
                found[value] = Kept(value, places[value].rank, source.name, split, relative)
                text = line.get(source.text)
                self._texts[value] = Found(text if isinstance(text, str) else None, "its line has no text")
        rows = self.rows(list(places))
        removed = self.run.removed.find([value for value in rows if value not in found])
        unknown = [value for value in places if value not in found] if self.work is None else []
        for value, text in self._input_texts(unknown).items():  # its line carries no id of ours
            self._texts[value] = text
            found[value] = Kept(value, places[value].rank, self.run.files[places[value].number].source, None, None)
        for value, row in rows.items():
            if value not in removed:
                source_name, split = self._of_part(row)
                path_in_run = found[value].path if value in found else None
                found[value] = Kept(value, places[value].rank, source_name, split, path_in_run)
        return found

    def _input_texts(self, ids: list[str]) -> dict[str, Found]:
        """The texts of those of `ids` that the input has and removed/ and quarantine/ have not."""
        removed = self.run.removed.find(ids)
        places = {value: place for value in ids if value not in removed and (place := self._places[value]) is not None}
        bad = {(place.number, row["offset"]) for place in places.values() for row in self.run.quarantined(place)}
        read = self.reader.removed([place for place in places.values() if (place.number, place.position) not in bad])
        return {value: read[place] for value, place in places.items() if place in read and read[place].text is not None}

    def _lines(self, path: str, places: dict[str, Place]) -> dict[str, dict[str, Any]]:
        members = {value: self.run.sources[self.run.files[place.number].source].id for value, place in places.items()}
        return self.reader.lines(path, members)

    def _of_part(self, row: Row) -> tuple[str, str]:
        """Source and split of a document, from work/."""
        assert self.work is not None
        arrays = self.work.parts[row.part].arrays()
        source, split = (int(arrays.read(name, row.row, row.row + 1)[0]) for name in ("source", "split"))
        return arrays.meta["sources"][source], SPLITS[split]

    def _scanned(self, value: str) -> Kept | None:
        """Find an id of the input's own in documents/ without knowing its rank: row-group statistics, then the column."""
        for split in SPLITS:
            for entry in self.run.documents_files(split):
                path = storage.join(self.run.folder.output, entry["path"])
                if not self.run.is_parquet:
                    kept = self._scanned_lines(value, path, split)
                else:
                    rank = _rank_of_id(path, value)
                    kept = None if rank is None else self._of_row(*self.run.documents([rank])[rank])
                if kept is not None:
                    return kept
        return None

    def _scanned_lines(self, value: str, path: str, split: str) -> Kept | None:
        for source in self.run.sources.values():
            if source.id is not None:
                line = self.reader.lines(path, {value: source.id}).get(value)
                if line is not None:
                    self._texts[value] = Found(line.get(source.text), "its line has no text")
                    return Kept(value, None, source.name, split, storage.relative(path, self.run.folder.output))
        return None

    def id_of_rank(self, rank: int) -> str | None:
        """The id of the document with this rank, if it can be told."""
        place = Place.of(rank)
        if self.run.sources[self.run.files[place.number].source].id is None:
            return self.run.made_id(place)
        if self.run.is_parquet and rank in (found := self.run.documents([rank])):
            return str(found[rank][0]["id"])
        if self.work is not None and place in (rows := self.work.locate([place])):
            return self.work.ids(rows[place].part, np.array([rows[place].row]))[0][0]
        return None

    def own_id_at(self, value: str) -> str | None:
        """The input's own id of the document at SOURCE/PATH@POSITION, where the input has ids."""
        place = self.run.place(value)
        if place is None or self.run.sources[self.run.files[place.number].source].id is None:
            return None
        return self.id_of_rank(place.rank)

    def read_texts(self, ids: list[str]) -> None:
        """Read the texts of documents, kept or removed, for `text`."""
        new = list(dict.fromkeys(value for value in ids if value not in self._texts))
        kept = self.kept(new)
        new = [value for value in new if value not in self._texts]  # lines were read with their texts
        parts = {one.rank: one.part for one in kept.values() if one.part is not None and one.rank is not None}
        for rank, text in self.reader.kept(parts).items():
            self._texts[next(value for value, one in kept.items() if one.rank == rank)] = text
        places = self.places(new)
        rest = {value: place for value, place in places.items() if value not in self._texts and place is not None}
        read = self.reader.removed(list(rest.values()))
        self._texts |= {value: read[place] for value, place in rest.items()}
        for value in new:
            why = "without work/ nothing says where in the input it stands" if self.work is None else "it is not in the input"
            self._texts.setdefault(value, Found(None, why))

    def text(self, value: str) -> Found:
        """A document's text, if `read_texts` could read it."""
        return self._texts.get(value, Found(None, "not read"))


def _rank_of_id(path: str, value: str) -> int | None:
    with open_parquet(path) as file:
        column = column_index(file, "id")
        for group in range(file.num_row_groups):
            statistics = file.metadata.row_group(group).column(column).statistics
            if statistics is not None and statistics.has_min_max and not statistics.min <= value <= statistics.max:
                continue
            at = pc.index(file.read_row_group(group, columns=["id"])["id"], pa.scalar(value)).as_py()
            if at >= 0:
                return int(file.read_row_group(group, columns=["rank"])["rank"][at].as_py())
    return None
