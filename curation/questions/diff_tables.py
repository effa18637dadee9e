"""A run's tables as SQL for DuckDB: what it decided about which document."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from curation import storage
from curation.engine.recipe import Source
from curation.questions.diff_inputs import SharedFiles
from curation.questions.lookup import FinishedRun
from curation.questions.result_files import open_lines

if TYPE_CHECKING:
    import duckdb

_BATCH_BYTES = 16 * 2**20  # of lines
_READ_BYTES = 4 * 2**20


def text_of_sql(text: str) -> str:
    """A string as SQL has it.

    >>> text_of_sql("it's")
    "'it''s'"
    """
    return "'" + text.replace("'", "''") + "'"


def files(paths: list[str]) -> str:
    """Files as a list in SQL; characters that would make a name a pattern are escaped.

    >>> files(["a[1]/b.parquet"])
    "['a[[]1]/b.parquet']"
    """
    return "[" + ", ".join(text_of_sql(re.sub(r"[*?\\[]", r"[\g<0>]", path)) for path in paths) + "]"


def register_stores(database: duckdb.DuckDBPyConnection, directories: list[str]) -> None:
    """Let `database` read files of the object stores that hold `directories`."""
    remote = {directory.partition("://")[0]: directory for directory in directories if storage.is_remote(directory)}
    for directory in remote.values():
        database.register_filesystem(storage.fsspec_filesystem(directory))


def write_shared(database: duckdb.DuckDBPyConnection, shared: SharedFiles) -> None:
    """A table of the prefixes that ids of shared files have."""
    prefixes = pa.table({"prefix": pa.array(shared.prefixes, pa.string())})
    database.register("shared_prefixes", prefixes)
    database.execute("CREATE TABLE shared AS SELECT prefix FROM shared_prefixes")


def decisions_of(run: FinishedRun, shared: SharedFiles, scratch: str, notes: list[str]) -> str:
    """A query for all documents of a run but the kept ones of shared files; `scratch` is a local file that it may be given.

    Its columns are id, source, fate, stage, reason, duplicate_of, text_bytes. Records of the quarantine have the id that a document
    at their place would have had; their reasons are told apart by kind, without what stands behind a colon, and numbers.
    """
    removed = f"""
        SELECT id, source, 'removed' AS fate, stage, reason, duplicate_of, text_bytes
        FROM read_parquet({files(run.paths("removed"))})
    """
    quarantined = f"""
        SELECT coalesce(any_value(id), source || '/' || path || '@' || "offset") AS id, source, 'quarantined', NULL,
            min(regexp_replace(split_part(reason, ':', 1), '[0-9]+', 'N', 'g')), NULL, NULL
        FROM read_parquet({files(run.paths("quarantine"))}) GROUP BY source, path, "offset"
    """
    queries = [removed, quarantined]
    if not shared.everything:
        paths = run.paths("documents") if run.is_parquet else [_ids_of_lines(run, scratch, notes)]
        if paths:
            queries.append(f"""
                SELECT id, source, 'kept', NULL, NULL, NULL, NULL FROM read_parquet({files(paths)})
                WHERE rtrim(id, '0123456789') NOT IN (SELECT prefix FROM shared)
            """)
    return " UNION ALL ".join(queries)


def _ids_of_lines(run: FinishedRun, place: str, notes: list[str]) -> str:
    """Write ids and sources of the JSON lines in documents/ to the local Parquet file `place`; its path."""
    schema = pa.schema([("id", pa.string()), ("source", pa.string())])
    nameless = 0
    for path in run.paths("documents"):
        run.whole_size(path)
    with pq.ParquetWriter(place, schema, compression="lz4") as writer:
        for lines in _batches(line for path in run.paths("documents") for line in _lines(path)):
            named = [_id_and_source(run, line) for line in lines]
            ids, sources = ([pair[at] for pair in named if pair is not None] for at in (0, 1))
            nameless += len(named) - len(ids)
            writer.write_table(pa.table([ids, sources], schema=schema))
    if nameless:
        notes.append(f"{nameless:,} kept documents of {run.folder.output} carry no id in their JSON lines and are not compared")
    return place


def _lines(path: str) -> Iterator[bytes]:
    with open_lines(path) as stream:
        yield from io.BufferedReader(stream, _READ_BYTES)


def _batches(lines: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    n_bytes = 0
    for line in lines:
        batch.append(line)
        n_bytes += len(line)
        if n_bytes >= _BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
    yield batch


def _id_and_source(run: FinishedRun, line: bytes) -> tuple[str, str] | None:
    """What a line of documents/ says of itself: an id that the run made from a file's name, else one of the input's own."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:  # the input's members as they were, NaN and other things that orjson refuses among them
        record = json.loads(line)
    made = record.get("id")
    if isinstance(made, str) and run.place(made) is not None:
        name = made.partition("/")[0]
        return made, _split_source(record, run.sources[name]) or name
    for name, source in run.sources.items():
        if source.id and record.get(source.id) is not None:
            return str(record[source.id]), _split_source(record, source) or name
    return None


def _split_source(record: dict[str, Any], source: Source) -> str | None:
    """The value by which a source is split."""
    value: Any = record if source.by else None
    for step in (source.by or "").split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
