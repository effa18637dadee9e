"""The tables of samples/, joined from what the tasks of the second pass took (curation/engine/samples.py).

What is returned for report.json is bounded: the languages and domains with the most documents, a few documents for each threshold,
a few pairs for each near-duplicate stage.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from curation import storage
from curation.engine.ipc_file import read_ipc
from curation.engine.ngram_sets import jaccard, ngrams
from curation.engine.samples import NEAREST, PAIR_CHARACTERS

LEAST_SIMILAR = 20
DRAWN = 20
_LARGEST_GROUPS = 20  # languages and domains that have a row of their own
_BINS = 20
_FIRST_CHARACTERS = 300  # of a document of a large cluster, for the summary in the terminal

DOCUMENTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("stage", pa.string()),
        ("reason", pa.string()),
        ("language", pa.string()),
        ("domain", pa.string()),
        ("text_bytes", pa.uint64()),
    ]
)
NEAREST_SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("side", pa.string()),
        ("measure", pa.float64()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("text", pa.large_string()),
        ("characters", pa.uint64()),
    ]
)
CLUSTERS_SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("chosen", pa.string()),
        ("documents", pa.uint64()),
        ("duplicate_of", pa.string()),
        ("id", pa.string()),
        ("source_kept", pa.string()),
        ("source_removed", pa.string()),
        ("similarity", pa.float64()),
        ("text_kept", pa.large_string()),
        ("text_removed", pa.large_string()),
        ("characters_kept", pa.uint64()),
        ("characters_removed", pa.uint64()),
    ]
)


@dataclass(frozen=True)
class StagePairs:
    """The pairs of a global stage, (removed number, kept number, documents of the cluster); without `unit` copies are equal."""

    stage: str
    largest: tuple[tuple[int, int, int], ...]
    sampled: tuple[tuple[int, int, int], ...]
    unit: str | None = None
    ngram: int = 0
    threshold: float = 0.0
    index: int = 0  # of the stage


@dataclass(frozen=True)
class SamplesTask:
    """The argument of `join_samples`."""

    files: tuple[str, ...]  # that the second pass left, in rank order
    stages: tuple[str, ...]  # names of all stages, in order
    pairs: tuple[StagePairs, ...]
    share: float  # of the documents, that the keyed sample has
    scratch: str | None  # a local folder; None: the system's
    output: str


def join_samples(task: SamplesTask) -> dict[str, Any]:
    """Write the three tables; what report.json says of them."""
    documents: list[dict[str, Any]] = []
    nearest: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryFile(prefix=storage.SCRATCH_PREFIX, dir=task.scratch) as scratch:
        texts = _Texts(scratch)
        for row in _rows(task.files):
            if row["purpose"] == "document":
                documents.append({name: row[name] for name in DOCUMENTS_SCHEMA.names})
            elif row["purpose"] == "pair":
                texts.add(row)
            else:
                some = [*nearest.get((row["stage"], row["side"]), []), row]
                nearest[row["stage"], row["side"]] = sorted(some, key=lambda one: (one["distance"], one["rank"]))[:NEAREST]
        pairs = [_Pairs(one, texts) for one in task.pairs]
    near = [row for stage in task.stages for side in ("kept", "removed") for row in nearest.get((stage, side), [])]
    clusters = [row for one in pairs for row in one.rows]
    tables = {
        "documents": (documents, DOCUMENTS_SCHEMA),
        "nearest": (near, NEAREST_SCHEMA),
        "clusters": (clusters, CLUSTERS_SCHEMA),
    }
    files = {name: _write(f"{task.output}-{name}.parquet", *table) for name, table in tables.items()}
    return {
        "outputs": [file["path"] for file in files.values()],
        "files": files,
        "sample": {
            "documents": len(documents),
            "share": task.share,
            "languages": _mix(documents, "language"),
            "domains": _mix(documents, "domain"),
        },
        "nearest": _by_stage(near, ("side", "measure", "id")),
        "clusters": _by_stage(clusters, ("chosen", "documents", "duplicate_of", "id", "similarity")),
        "sampled_pairs": {one.stage: one.similarities for one in pairs if one.similarities},
        "largest": {one.stage: one.largest for one in pairs},
    }


def _rows(paths: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    for path in paths:
        reader = read_ipc(path)
        for index in range(reader.num_record_batches):
            yield from reader.get_batch(index).to_pylist()  # of a few megabytes


class _Texts:
    """The documents of pairs by number; their texts lie in a scratch file, since there may be hundreds of 1 MB."""

    def __init__(self, scratch: IO[bytes]) -> None:
        self._scratch = scratch
        self._documents: dict[int, dict[str, Any]] = {}

    def add(self, row: dict[str, Any]) -> None:
        text = row.pop("text").encode()
        self._documents[row["number"]] = {**row, "at": self._scratch.tell(), "n_bytes": len(text)}
        self._scratch.write(text)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The document with its text."""
        document = self._documents[number]
        self._scratch.seek(document["at"])
        return {**document, "text": self._scratch.read(document["n_bytes"]).decode()}


class _Pairs:
    """A stage's pairs, measured: `rows` of clusters.parquet, and what report.json says."""

    def __init__(self, pairs: StagePairs, texts: _Texts) -> None:
        self.stage = pairs.stage
        self.rows: list[dict[str, Any]] = []
        self.similarities: dict[str, Any] | None = None
        self.largest = _largest(pairs, texts)
        if pairs.unit is None:
            return
        measured = [_similarity(pair, pairs, texts) for pair in pairs.sampled]
        self.similarities = _histogram([value for value in measured if value is not None], len(measured), pairs.threshold)
        by_similarity = sorted((value, index) for index, value in enumerate(measured) if value is not None)
        least = [index for _, index in by_similarity[:LEAST_SIMILAR]]
        drawn = [index for index in range(len(measured)) if index not in least][:DRAWN]
        self.rows = [self._row(pair, "largest", _similarity(pair, pairs, texts), texts) for pair in pairs.largest]
        self.rows += [self._row(pairs.sampled[index], "least similar", measured[index], texts) for index in least]
        self.rows += [self._row(pairs.sampled[index], "sampled", measured[index], texts) for index in drawn]

    def _row(self, pair: tuple[int, int, int], chosen: str, similarity: float | None, texts: _Texts) -> dict[str, Any]:
        removed, kept = texts[pair[0]], texts[pair[1]]
        return {
            "stage": self.stage,
            "chosen": chosen,
            "documents": pair[2],
            "duplicate_of": kept["id"],
            "id": removed["id"],
            "source_kept": kept["source"],
            "source_removed": removed["source"],
            "similarity": similarity,
            "text_kept": kept["text"][:PAIR_CHARACTERS],
            "text_removed": removed["text"][:PAIR_CHARACTERS],
            "characters_kept": kept["characters"],
            "characters_removed": removed["characters"],
        }


def _similarity(pair: tuple[int, int, int], pairs: StagePairs, texts: _Texts) -> float | None:
    """The true similarity of a pair in the stage's terms; None when a text was too long to be gathered whole, or edited since."""
    sets = []
    for number in pair[:2]:
        document = texts[number]
        # Only the text that all stages left is at hand; the stage may have compared another.
        if not document["is_whole"] or (document["edited_by"] is not None and document["edited_by"] > pairs.index):
            return None
        assert pairs.unit is not None
        sets.append(ngrams(document["text"], pairs.unit, pairs.ngram))
    return jaccard(*sets)


def _histogram(similarities: list[float], n_pairs: int, threshold: float) -> dict[str, Any]:
    """The similarities of sampled pairs in bins of equal width; 1 is in the last.

    >>> found = _histogram([0.04, 0.06, 1.0], 4, 0.8)
    >>> found["below_threshold"], found["histogram"][:2], found["histogram"][-1]
    (2, [[0.0, 0.05, 1], [0.05, 0.1, 1]], [0.95, 1.0, 1])
    """
    counts = [0] * _BINS
    for value in similarities:
        counts[min(int(value * _BINS), _BINS - 1)] += 1
    return {
        "pairs": n_pairs,
        "measured": len(similarities),
        "threshold": threshold,
        "below_threshold": sum(value < threshold for value in similarities),
        "histogram": [[index / _BINS, (index + 1) / _BINS, count] for index, count in enumerate(counts)],
    }


def _largest(pairs: StagePairs, texts: _Texts) -> list[dict[str, Any]]:
    """The largest clusters with the beginnings of some of their documents, the kept one first."""
    found = []
    for (kept, documents), some in groupby(pairs.largest, key=lambda pair: pair[1:]):
        shown = [texts[number] for number in (kept, *(pair[0] for pair in some))]
        lines = [{"id": one["id"], "source": one["source"], "text": one["text"][:_FIRST_CHARACTERS]} for one in shown]
        found.append({"documents": documents, "first_lines": lines})
    return found


def _mix(documents: list[dict[str, Any]], column: str) -> dict[str, dict[str, int]]:
    """Documents and bytes, before and after, by the values with the most documents; the rest is "other"."""
    counts: dict[str, dict[str, int]] = {}
    for document in documents:
        _count(counts, document[column] or "unknown", document)
    largest = set(sorted(counts, key=lambda name: (-counts[name]["documents_in"], name))[:_LARGEST_GROUPS])
    shown: dict[str, dict[str, int]] = {}
    for name in sorted(counts, key=lambda name: (-counts[name]["documents_in"], name)):
        entry = shown.setdefault(name if name in largest else "other", dict.fromkeys(counts[name], 0))
        for key, value in counts[name].items():
            entry[key] += value
    rest = shown.pop("other", None)
    return shown if rest is None else {**shown, "other": rest}


def _count(counts: dict[str, dict[str, int]], name: str, document: dict[str, Any]) -> None:
    entry = counts.setdefault(name, {"documents_in": 0, "documents_kept": 0, "bytes_in": 0, "bytes_kept": 0})
    for when in ("in", "kept") if document["stage"] is None else ("in",):
        entry[f"documents_{when}"] += 1
        entry[f"bytes_{when}"] += document["text_bytes"]


def _by_stage(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["stage"], []).append({name: row[name] for name in names})
    return found


def _write(path: str, rows: list[dict[str, Any]], schema: pa.Schema) -> dict[str, str]:
    table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema)
    with storage.commit(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", row_group_size=65_536)
        return {"path": path, "sha256": storage.sha256(temporary)}
