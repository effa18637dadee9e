"""What two runs treat differently, from ids and decisions alone.

Most documents are kept by both runs, and the table of what is kept is the largest that a run leaves; so it is not read where that
can be avoided. Of a file that both runs read to the same end, a document that is neither removed nor quarantined was kept. Only of
other files are the ids of documents/ read, and what no table of a run names there was not in its input.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curation import storage
from curation.engine.run_folder import RESULT_FOLDERS
from curation.questions.diff_inputs import ChangedValue, InputChanges, input_changes, setting_changes, shared_files, version_changes
from curation.questions.diff_tables import decisions_of, files, register_stores, text_of_sql, write_shared
from curation.questions.documents import Documents
from curation.questions.lookup import FinishedRun, naming_lost_files

if TYPE_CHECKING:
    import duckdb

EXAMPLES = 5  # of every kind of difference
_TEXT_CHARACTERS = 200
_TEXTS_BYTES = 256 * 2**20  # of row groups of each run that are decoded for the beginnings of texts, at most
_MEMORY_LIMIT = "1GB"  # of DuckDB, which spills to a temporary folder past it
_MOST_THREADS = 8
_MESSAGE_CHARACTERS = 300  # of an error, which may hold the whole query


@dataclass(frozen=True)
class Fate:
    """What became of documents in a run: "kept", "removed", "quarantined", or "absent", which were not in its input."""

    fate: str
    stage: str | None = None  # that removed them
    reason: str | None = None


@dataclass(frozen=True)
class Tally:
    """How many documents, and the bytes of their texts as far as a run recorded them (A's first); None where none did."""

    documents: int
    text_bytes: int | None


@dataclass
class Example:
    """A document that two runs treat differently; `text` is its beginning, where that is read cheaply."""

    id: str
    source: str
    text_bytes: int | None
    duplicate_of_a: str | None
    duplicate_of_b: str | None
    text: str | None = None


@dataclass
class Change:
    """The documents with one fate in A and another in B, or with the same one in both but as duplicates of different copies."""

    a: Fate
    b: Fate
    total: Tally
    by_source: dict[str, Tally]
    examples: list[Example]  # at most five, chosen by a hash of the id


@dataclass
class RunSummary:
    """One of the two runs; `documents` as in report.json: in, kept, removed, quarantined."""

    directory: str
    name: str
    documents: dict[str, int]


@dataclass(repr=False)
class Difference:
    """What two runs treat differently, the most documents first, and before it what explains it."""

    a: RunSummary
    b: RunSummary
    settings: list[ChangedValue]
    versions: list[ChangedValue]
    input: InputChanges
    documents: int  # in `changes` and `other_copies`
    changes: list[Change]
    other_copies: list[Change]  # removed in both by the same stage for the same reason
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)

    def __repr__(self) -> str:
        return str(self)  # a notebook shows it as paragraphs

    def __str__(self) -> str:
        from curation.questions.diff_text import difference_text

        return difference_text(self)


def compare(directory_a: str, directory_b: str, output: str | None = None) -> Difference:
    """What the runs A and B in two folders treat differently. Raises ValueError when a folder holds no finished run.

    Fates are compared, not texts: a document that both runs keep is not looked at, even where a stage edits it otherwise.
    `output` names a Parquet file, local or in an object store, for a row each of all documents that differ.
    """
    return compare_runs(FinishedRun.open(directory_a), FinishedRun.open(directory_b), output)


@naming_lost_files
def compare_runs(run_a: FinishedRun, run_b: FinishedRun, output: str | None = None) -> Difference:
    """The same, of opened runs."""
    if output is not None:
        _check_output(output, [run_a, run_b])
    notes: list[str] = []
    with _database() as (database, scratch):
        register_stores(database, [run_a.folder.output, run_b.folder.output])
        shared = shared_files(run_a, run_b, _quarantines_differ(database, run_a, run_b))
        write_shared(database, shared)
        decided_a = decisions_of(run_a, shared, f"{scratch}/kept-a.parquet", notes)
        decided_b = decisions_of(run_b, shared, f"{scratch}/kept-b.parquet", notes)
        database.execute(f"CREATE VIEW differing AS {_differing(decided_a, decided_b, shared.everything)}")
        if output is None:
            groups = _rows(database, _GROUPS)
        else:
            with storage.commit(storage.absolute(output)) as temporary:
                _rows(database, f"COPY (SELECT * FROM differing ORDER BY id) TO {text_of_sql(temporary)} ({_PARQUET})")
                database.execute(f"CREATE OR REPLACE VIEW differing AS FROM read_parquet({files([temporary])})")
                groups = _rows(database, _GROUPS)
    found = _changes(groups)
    _add_texts([(change.a, change) for change in found], run_a)
    _add_texts([(change.b, change) for change in found], run_b)
    return Difference(
        a=_summary(run_a),
        b=_summary(run_b),
        settings=setting_changes(run_a.run, run_b.run),
        versions=version_changes(run_a.run, run_b.run),
        input=input_changes(run_a, run_b),
        documents=sum(change.total.documents for change in found),
        changes=[change for change in found if change.a != change.b],
        other_copies=[change for change in found if change.a == change.b],
        notes=notes,
    )


def _summary(run: FinishedRun) -> RunSummary:
    return RunSummary(run.folder.output, run.run["recipe"]["name"], run.report.get("documents", {}))


def _check_output(output: str, runs: list[FinishedRun]) -> None:
    """Raise ValueError for a place that is no name of a Parquet file, or that lies among what a run left."""
    if not output.endswith(".parquet") or (not storage.is_remote(output) and os.path.isdir(output)):
        raise ValueError(f"the output {output!r} must be the name of a Parquet file; end it with .parquet")
    place = storage.absolute(output)
    for run in runs:
        base = run.folder.output if storage.is_remote(place) else os.path.realpath(run.folder.output)
        place = place if storage.is_remote(place) else os.path.realpath(place)
        if any(place.startswith(storage.join(base, name, "")) for name in (*RESULT_FOLDERS, "work")):
            raise ValueError(f"the output {output} would lie among the results of the run in {base}; name another place")


@contextmanager
def _database() -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """A database in memory with a limit, and the folder that it spills to."""
    import duckdb

    from curation.engine.executor import available_cpus

    with tempfile.TemporaryDirectory(prefix=storage.SCRATCH_PREFIX) as scratch:
        settings: dict[str, Any] = {
            "memory_limit": _MEMORY_LIMIT,
            "threads": min(available_cpus(), _MOST_THREADS),
            "temp_directory": scratch,
            "preserve_insertion_order": False,
        }
        try:
            with duckdb.connect(config=settings) as database:
                yield database, scratch
        except duckdb.Error as error:
            raise RuntimeError(f"the comparison failed: {' '.join(str(error).split())[:_MESSAGE_CHARACTERS]}") from error


def _rows(database: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    """What a query gives, asked in another thread: of Ctrl-C the database hears nothing for long, or makes another error of it."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: database.execute(query).fetchall())
        try:
            return asked.result()
        except BaseException:
            database.interrupt()
            raise


def _quarantines_differ(database: duckdb.DuckDBPyConnection, run_a: FinishedRun, run_b: FinishedRun) -> set[tuple[str, str]]:
    """(source, path) of the input files of which one run quarantined something that the other did not."""
    a, b = (f'SELECT source, path, "offset", reason FROM read_parquet({files(run.paths("quarantine"))})' for run in (run_a, run_b))
    rows = _rows(database, f"SELECT DISTINCT source, path FROM (({a} EXCEPT ALL {b}) UNION ALL ({b} EXCEPT ALL {a}))")
    return {(source, path) for source, path in rows}


_PARQUET = "FORMAT parquet, COMPRESSION zstd"
_FATES = "fate_a, stage_a, reason_a, fate_b, stage_b, reason_b"
_GROUPS = f"""
    SELECT {_FATES}, source, count(*), coalesce(sum(text_bytes), 0)::HUGEINT, count(text_bytes),
        arg_min({{'key': md5(id), 'id': id, 'source': source, 'text_bytes': text_bytes,
                  'duplicate_of_a': duplicate_of_a, 'duplicate_of_b': duplicate_of_b}}, md5(id), {EXAMPLES})
    FROM differing GROUP BY {_FATES}, source ORDER BY {_FATES}, source
"""


def _differing(decided_a: str, decided_b: str, everything_is_shared: bool) -> str:
    """A row for each document with two fates, or with one but duplicates of different copies.

    A document that only one run names was kept by the other where both read its file, and was not in its input elsewhere.
    """
    # The number of an id that a run made from a file's name ends it.
    shared = "true" if everything_is_shared else "rtrim(id, '0123456789') IN (SELECT prefix FROM shared)"
    unnamed = f"CASE WHEN {shared} THEN 'kept' ELSE 'absent' END"
    return f"""
        SELECT id, source, coalesce(fate_a, {unnamed}) AS fate_a, stage_a, reason_a,
            coalesce(fate_b, {unnamed}) AS fate_b, stage_b, reason_b, duplicate_of_a, duplicate_of_b, text_bytes
        FROM (
            SELECT id, CASE WHEN a.fate = 'quarantined' THEN coalesce(b.source, a.source) ELSE coalesce(a.source, b.source) END
                    AS source,
                a.fate AS fate_a, a.stage AS stage_a, a.reason AS reason_a, a.duplicate_of AS duplicate_of_a,
                b.fate AS fate_b, b.stage AS stage_b, b.reason AS reason_b, b.duplicate_of AS duplicate_of_b,
                coalesce(a.text_bytes, b.text_bytes) AS text_bytes
            FROM ({decided_a}) a FULL JOIN ({decided_b}) b USING (id)
            WHERE a.fate IS DISTINCT FROM b.fate OR a.stage IS DISTINCT FROM b.stage OR a.reason IS DISTINCT FROM b.reason
                OR a.duplicate_of IS DISTINCT FROM b.duplicate_of
        )
    """


def _changes(groups: list[tuple[Any, ...]]) -> list[Change]:
    """Rows of `_GROUPS`, joined over sources; the most documents first."""
    by_fates: dict[tuple[Fate, Fate], list[tuple[Any, ...]]] = {}
    for group in groups:
        by_fates.setdefault((Fate(*group[:3]), Fate(*group[3:6])), []).append(group[6:])
    found = []
    for (a, b), of_sources in by_fates.items():
        by_source = {source: _tally(documents, n_bytes, measured) for source, documents, n_bytes, measured, _ in of_sources}
        total = _tally(*(sum(column) for column in list(zip(*of_sources, strict=True))[1:4]))
        examples = sorted((one for group in of_sources for one in group[4]), key=lambda one: one["key"])[:EXAMPLES]
        chosen = [Example(**{name: value for name, value in one.items() if name != "key"}) for one in examples]
        found.append(Change(a, b, total, by_source, chosen))
    return sorted(found, key=lambda change: (-change.total.documents, str(change.a), str(change.b)))


def _tally(documents: int, n_bytes: int, measured: int) -> Tally:
    return Tally(documents, int(n_bytes) if measured else None)


def _add_texts(changes: list[tuple[Fate, Change]], run: FinishedRun) -> None:
    """Give the examples that this run keeps, in Parquet, the beginnings of their texts."""
    wanted = {one.id: one for fate, change in changes if fate.fate == "kept" for one in change.examples if one.text is None}
    if not wanted or not run.is_parquet:
        return
    documents = Documents(run, _TEXTS_BYTES)
    documents.read_texts(list(wanted))
    for value, example in wanted.items():
        text = documents.text(value).text
        example.text = text and text[:_TEXT_CHARACTERS]
