"""Open a finished run and find things in its tables, with a few reads each, whatever the run's size.

documents/ is sorted by rank: an id leads to a rank, the ranks in run.json to one file, and row-group statistics to one row group.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curation import storage
from curation.documents import MAXIMUM_POSITION, POSITION_BITS, document_id
from curation.engine.part_writer import SPLITS
from curation.engine.recipe import Source
from curation.engine.run_folder import FORMAT_VERSION, RESULT_FOLDERS, RunFolder, another_format
from curation.questions.result_files import IdTable, column_index, damaged, open_parquet
from curation.report.fingerprints import check_report
from curation.stages import Stage, stage_class
from curation.stages.python import Python, PythonSettings

_THREADS = 16  # of reading quarantine/, which may be many small files
_RECORDED = ("recipe", "sources", "limit", "unit_bytes", "input", "versions", "outputs")  # in run.json, and asked for here
_TEXT_ROWS = 512  # decoded at a time on the way to a row: a row group's texts need not be held whole

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Place:
    """Where a document stands in the input: `number` of its file in the run's order, and its offset or row there."""

    number: int
    position: int

    @property
    def rank(self) -> int:
        """The document's place in the total order."""
        return (self.number << POSITION_BITS) | self.position

    @classmethod
    def of(cls, rank: int) -> Place:
        """The place that a rank stands for.

        >>> Place.of(Place(3, 17).rank)
        Place(number=3, position=17)
        """
        return cls(rank >> POSITION_BITS, rank & (MAXIMUM_POSITION - 1))


@dataclass(frozen=True)
class ListedFile:
    """A file of the input as run.json lists it."""

    source: str
    relative: str
    size: int
    etag: str
    mtime_ns: int


@dataclass(frozen=True)
class DocumentPart:
    """A row group of documents/ that holds wanted ranks, and what reading its texts costs in bytes."""

    path: str
    split: str
    group: int
    text_bytes: int


class FinishedRun:
    """A finished run's folder. Opening it reads run.json alone."""

    def __init__(self, folder: RunFolder, run: dict[str, Any], run_code: bool = False) -> None:
        self.folder, self.run, self.run_code = folder, run, run_code
        self.removed = IdTable(self.paths("removed"), "id")
        self.duplicates = IdTable(self.paths("duplicates"), "duplicate_of")
        self.edited = IdTable(self.paths("edited"), "id")

    @classmethod
    def open(cls, directory: str, run_code: bool = False) -> FinishedRun:
        """The run in `directory`. Raises ValueError where there is none, or none that is finished and can be read.

        `run_code` allows the code of user stages, which the run recorded, to be run again where texts are asked for: a folder
        that somebody sent may hold anything.
        """
        folder = RunFolder.at(directory, None)
        run = folder.read("run.json")
        if run is None:
            raise ValueError(f"{directory} holds no run (no run.json); name the folder that --output gave")
        if run["format_version"] != FORMAT_VERSION:
            raise another_format(directory, run)
        if run.get("status") != "complete":
            raise ValueError(f"the run in {directory} is not finished; give the command that started it again, then ask")
        lacking = [name for name in _RECORDED if name not in run]
        if lacking:
            raise damaged(storage.join(folder.output, "run.json"), f"it has no {lacking[0]}")
        return cls(folder, run, run_code)

    def paths(self, name: str) -> list[str]:
        """The files of a result folder, in order."""
        return [storage.join(self.folder.output, entry["path"]) for entry in self.outputs(name)]

    def outputs(self, name: str) -> list[dict[str, Any]]:
        """What run.json says of the files of a result folder."""
        return [entry for entry in self.run["outputs"] if entry["path"].startswith(f"{name}/")]

    def whole_size(self, path: str) -> int:
        """Bytes of a file of the run. Raises ValueError when they are not as many as the run left.

        JSON lines that are cut short end like whole ones.
        """
        n_bytes = storage.file_size(path)
        if n_bytes != self._sizes[path]:
            raise damaged(path, f"it has {n_bytes:,} bytes of {self._sizes[path]:,}")
        return n_bytes

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        return {storage.join(self.folder.output, entry["path"]): entry["bytes"] for entry in self.run["outputs"]}

    @functools.cached_property
    def report(self) -> dict[str, Any]:
        """report.json. Raises ValueError where it is gone, or not this run's."""
        report = self.folder.read("report.json")
        if report is None:
            raise ValueError(f"{self.folder.output}/report.json is gone; bring it back, or give the command of the run again")
        check_report(report, self.run, self.folder.output)
        return report

    @functools.cached_property
    def files(self) -> list[ListedFile]:
        """The files of the input; a file's place here is its number in ranks."""
        return [ListedFile(*entry) for entry in self.run["input"]["files"]]

    @functools.cached_property
    def _numbers(self) -> dict[tuple[str, str], int]:
        return {(file.source, file.relative): number for number, file in enumerate(self.files)}

    @functools.cached_property
    def sources(self) -> dict[str, Source]:
        """The sources that files were read as. Where no pattern matched, the run made one of the whole input."""
        given = [Source.model_validate(source) for source in self.run["recipe"]["sources"]]
        found = {source.name: source for source in given}
        for name in self.run["sources"]:
            if name not in found:
                plain = {"format": None, "priority": 0, "by": None, "split": None, "streaming": False}
                found[name] = Source.model_validate(
                    {**given[0].model_dump(), **plain, "name": name, "path": self.run["input"]["path"]}
                )
        return found

    @functools.cached_property
    def has_own_ids(self) -> bool:
        """Whether the input of some source has ids of its own."""
        return any(source.id for source in self.sources.values())

    def settings(self, stage: str) -> dict[str, Any]:
        """A stage's entry in the recipe: its name, kind and settings. Raises ValueError for another name."""
        for entry in self.run["recipe"]["stages"]:
            if entry["name"] == stage:
                return {**entry, "stage": entry["stage"].lower()}
        names = ", ".join(entry["name"] for entry in self.run["recipe"]["stages"])
        raise ValueError(f"the run has no stage {stage!r}; its stages are {names}")

    @functools.cached_property
    def stages(self) -> list[Stage]:
        """The recipe's stages, built again. Raises ValueError where they include code that may not be run."""
        built = []
        for entry in self.run["recipe"]["stages"]:
            cls = stage_class(entry["stage"].lower())
            known = cls.settings_class.model_fields
            settings = cls.settings_class.model_validate({key: value for key, value in entry.items() if key in known})
            if not issubclass(cls, Python):
                built.append(cls(entry["name"], settings))
            elif self.run_code:
                assert isinstance(settings, PythonSettings)
                built.append(cls(entry["name"], settings, entry["code"]))
            else:
                raise ValueError(
                    f"the stage {entry['name']} is code that came with the run ({entry['file']}); if you trust it, allow it to be "
                    "run with --run-code"
                )
        return built

    def parse(self, value: str) -> tuple[str, str, int | None] | None:
        """(source, path, position) when `value` has the form SOURCE/PATH@POSITION; both may hold `@`, and the path `/`.

        The position is None when what follows the last `@` is no number; None altogether without a `/`.
        """
        head, _, tail = value.rpartition("@")
        # int() would take the digits of other scripts, and thousands of them.
        position = int(tail) if tail.isascii() and tail.isdigit() and len(tail) < 14 else None
        source, slash, relative = (head if position is not None else value).partition("/")
        return (source, relative, position) if slash else None

    def place(self, value: str) -> Place | None:
        """Where the document with this made-up id stands, if the run read such a file."""
        parsed = self.parse(value)
        if parsed is None or parsed[2] is None or parsed[2] >= MAXIMUM_POSITION:
            return None
        number = self._numbers.get(parsed[:2])
        place = None if number is None else Place(number, parsed[2])
        return place if place is not None and self.made_id(place) == value else None  # and not "007"

    def made_id(self, place: Place) -> str:
        """The id of a document whose input has no ids."""
        file = self.files[place.number]
        return document_id(file.source, file.relative, place.position)

    @property
    def is_parquet(self) -> bool:
        """Whether documents/ are Parquet; JSON lines otherwise."""
        return self.run["recipe"]["output"]["format"] == "parquet"

    def documents_files(self, split: str) -> list[dict[str, Any]]:
        """The files of a split, in rank order."""
        return self.outputs(f"documents/{split}")

    def documents(self, ranks: list[int]) -> dict[int, tuple[dict[str, Any], DocumentPart]]:
        """The rows with these ranks, all but text and meta, and the row groups that they stand in. Parquet only."""
        found: dict[int, tuple[dict[str, Any], DocumentPart]] = {}
        for path, split, here in self.files_with(ranks):
            with open_parquet(path) as file:
                for group in range(file.num_row_groups):
                    low, high = _rank_range(file, group)
                    wanted = [rank for rank in here if low <= rank <= high]
                    if wanted:
                        self._find_rows(file, DocumentPart(path, split, group, _text_bytes(file, group)), wanted, found)
        return found

    def _find_rows(
        self,
        file: pq.ParquetFile,
        part: DocumentPart,
        wanted: list[int],
        found: dict[int, tuple[dict[str, Any], DocumentPart]],
    ) -> None:
        at = pc.index_in(pa.array(wanted, pa.uint64()), file.read_row_group(part.group, columns=["rank"])["rank"].combine_chunks())
        rows = [row for row in at.to_pylist() if row is not None]
        if rows:
            columns = [name for name in file.schema_arrow.names if name not in ("text", "meta")]
            for row in file.read_row_group(part.group, columns=columns).take(pa.array(rows)).to_pylist():
                found[row["rank"]] = row, part

    def files_with(self, ranks: list[int]) -> list[tuple[str, str, list[int]]]:
        """(path, split, ranks) of those files of documents/ that may hold some of `ranks`, at most one a split and rank."""
        found: list[tuple[str, str, list[int]]] = []
        for split in SPLITS:
            files = self.documents_files(split)
            by_file: dict[int, list[int]] = {}
            for rank in ranks:
                at = bisect.bisect_left(range(len(files)), rank, key=lambda index: self._ranks_of(files[index])[1])
                if at < len(files) and self._ranks_of(files[at])[0] <= rank:
                    by_file.setdefault(at, []).append(rank)
            for at, here in sorted(by_file.items()):
                found.append((storage.join(self.folder.output, files[at]["path"]), split, sorted(here)))
        return found

    def _ranks_of(self, entry: dict[str, Any]) -> tuple[int, int]:
        """First and last rank of a file, from run.json, else from its footer."""
        if entry.get("last_rank") is not None:
            return int(entry["first_rank"]), int(entry["last_rank"])
        if not self.is_parquet:
            raise ValueError("this run's run.json does not say which documents its JSON lines hold; run it again")
        return self._footer_ranks(entry["path"])

    @functools.cache  # noqa: B019 - a run is opened for one question
    def _footer_ranks(self, path: str) -> tuple[int, int]:
        with open_parquet(storage.join(self.folder.output, path)) as file:
            return _rank_range(file, 0)[0], _rank_range(file, file.num_row_groups - 1)[1]

    def document_texts(self, part: DocumentPart, ranks: list[int]) -> dict[int, str]:
        """The texts of some documents of a row group, decoded no further than the last of them."""
        texts: dict[int, str] = {}
        wanted = pa.array(ranks, pa.uint64())
        with open_parquet(part.path) as file:
            for batch in file.iter_batches(_TEXT_ROWS, row_groups=[part.group], columns=["rank", "text"], use_threads=False):
                for row in batch.filter(pc.is_in(batch["rank"], wanted)).to_pylist():
                    texts[row["rank"]] = row["text"]
                if len(texts) == len(set(ranks)):
                    break
        return texts

    def quarantined(self, place: Place | None, document_id: str | None = None) -> list[dict[str, Any]]:
        """What quarantine/ has of the place's file or of a document with that id, in order, without the bytes."""
        file = None if place is None else self.files[place.number]

        def look(path: str) -> list[dict[str, Any]]:
            with open_parquet(path) as table:
                some = table.read(columns=["source", "path", "offset", "reason", "id"], use_threads=False)
            mine = pc.fill_null(pc.equal(some["id"], pa.scalar(document_id, pa.string())), False)
            if file is not None:
                there = pc.and_(pc.equal(some["source"], file.source), pc.equal(some["path"], file.relative))
                mine = pc.or_(mine, there)
            rows = pc.indices_nonzero(mine)
            return [
                {**row, "file": path, "row": index}
                for row, index in zip(some.take(rows).to_pylist(), rows.to_pylist(), strict=True)
            ]

        with ThreadPoolExecutor(_THREADS) as pool:
            rows = [row for some in pool.map(look, self.paths("quarantine")) for row in some]
        return sorted(rows, key=lambda row: row["offset"])

    def quarantined_bytes(self, row: dict[str, Any]) -> bytes:
        """The raw bytes of one such record (its first 64 KB)."""
        with open_parquet(row["file"]) as table:
            left = row["row"]
            for batch in table.iter_batches(_TEXT_ROWS, columns=["bytes"], use_threads=False):
                if left < len(batch):
                    return bytes(batch["bytes"][left].as_py() or b"")
                left -= len(batch)
        return b""


def _rank_range(file: pq.ParquetFile, group: int) -> tuple[int, int]:
    column = column_index(file, "rank")
    statistics = file.metadata.row_group(group).column(column).statistics
    return int(statistics.min), int(statistics.max)


def _text_bytes(file: pq.ParquetFile, group: int) -> int:
    column = column_index(file, "text")
    return int(file.metadata.row_group(group).column(column).total_uncompressed_size)


def naming_lost_files(function: Callable[_Arguments, _Answer]) -> Callable[_Arguments, _Answer]:
    """A question that fails because files of a run are gone or cut short says which; libraries say it each in their way."""

    @functools.wraps(function)
    def asked(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Answer:
        try:
            return function(*arguments, **options)
        except Exception as error:
            if type(error) is not ValueError:  # which say already what to do
                for run in (argument for argument in arguments if isinstance(argument, FinishedRun)):
                    _check_files(run)
            raise

    return asked


def _check_files(run: FinishedRun) -> None:
    """Raise ValueError when files that run.json lists are gone, or are not of their size any more."""
    entries = [entry for name in RESULT_FOLDERS for entry in run.outputs(name)]
    lost = [path for entry in entries if not storage.is_file(path := storage.join(run.folder.output, entry["path"]))]
    if lost:
        more = f" and {len(lost) - 1:,} more files of the run are gone" if len(lost) > 1 else " is gone"
        raise ValueError(f"{lost[0]}{more}; bring the folder back whole, or give the command of the run again") from None
    for entry in entries:
        run.whole_size(storage.join(run.folder.output, entry["path"]))
