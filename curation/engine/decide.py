"""Global decisions about duplicates: shuffle the records through storage, join what shares a key, choose what stays.

  edges        one task a partition of the key space: reads its slice of every part's records and leaves star edges
  components   one task: union-find over all edges; memory is 110 bytes for each document that has an edge
  decisions    which documents go, and which one each of them duplicates

With `verify: exact` the components only say what to compare (curation/engine/verify.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from curation.engine.array_file import ArrayFile, write_arrays
from curation.engine.ipc_file import write_ipc
from curation.engine.keyed import lowest
from curation.engine.part_writer import PREFIX_BITS, sorted_segment
from curation.engine.parts import Part, load_parts, number_range
from curation.engine.stage_pass import KEPT
from curation.kernels.components import Components, star_edges, star_edges_128

LARGEST_CLUSTERS = 3
_PAIRS_OF_A_LARGEST = 3
SAMPLED_PAIRS = 200


def write_segments(path: str, segments: list[tuple[str, int]]) -> None:
    """Leave the list of (path of an array file, number of its first document) where tasks find it."""
    bases = np.array([base for _, base in segments], np.uint64)
    write_arrays(path, {"base": bases}, {"paths": [segment for segment, _ in segments]})


def read_segments(path: str) -> list[tuple[str, int]]:
    """What `write_segments` left."""
    file = ArrayFile(path)
    return list(zip(file.meta["paths"], file.read("base").tolist(), strict=True))


@dataclass(frozen=True)
class MergeTask:
    """Joins a stage's records in segments [first, last) of the list at `segments` into one segment."""

    stage: str
    segments: str
    first: int
    last: int
    output: str


def merge_segments(task: MergeTask) -> dict[str, Any]:
    """One sorted segment with document numbers, so that a partition is one range read for many parts.

    Needed when parts x partitions would be tens of millions of small reads; the merged segment's base is 0.
    """
    columns: dict[str, list[np.ndarray]] = {}
    for path, base in read_segments(task.segments)[task.first : task.last]:
        arrays = ArrayFile(path)
        if f"{task.stage}.row" not in arrays:  # the stage is the check of ids, and the part has none
            continue
        for name in ("key", "low"):
            if f"{task.stage}.{name}" in arrays:
                columns.setdefault(name, []).append(arrays.read(f"{task.stage}.{name}"))
        columns.setdefault("row", []).append(arrays.read(f"{task.stage}.row").astype(np.uint64) + np.uint64(base))
    merged = sorted_segment({name: np.concatenate(values) for name, values in columns.items()})
    write_arrays(task.output, {f"{task.stage}.{name}": values for name, values in merged.items()})
    return {"outputs": [task.output]}


@dataclass(frozen=True)
class EdgesTask:
    """Partition `partition` of `n_partitions` (a power of two up to 4,096) of a stage's records in all segments."""

    stage: str
    partition: int
    n_partitions: int
    segments: str  # where `write_segments` left the list
    earlier: str | None  # decisions of an earlier near-duplicate stage, whose removed documents connect nothing here
    output: str


def edges(task: EdgesTask) -> dict[str, Any]:
    """Star edges of every key that two documents share: each to the lowest document number."""
    per_partition = (1 << PREFIX_BITS) // task.n_partitions
    first, last = task.partition * per_partition, (task.partition + 1) * per_partition
    keys, lows, documents = [], [], []
    for path, base in read_segments(task.segments):
        arrays = ArrayFile(path)
        if f"{task.stage}.prefix" not in arrays:  # the stage is the check of ids, and the part has none
            continue
        bounds = arrays.read(f"{task.stage}.prefix", first, last + 1)
        start, stop = int(bounds[0]), int(bounds[-1])
        if start == stop:
            continue
        keys.append(arrays.read(f"{task.stage}.key", start, stop))
        documents.append(arrays.read(f"{task.stage}.row", start, stop).astype(np.uint64) + np.uint64(base))
        if f"{task.stage}.low" in arrays:
            lows.append(arrays.read(f"{task.stage}.low", start, stop))
    none = np.zeros(0, np.uint64)
    key, document = (np.concatenate(values) if values else none for values in (keys, documents))
    if task.earlier is not None:
        stay = ~_contains(ArrayFile(task.earlier).read("removed_so_far"), document)
        key, document = key[stay], document[stay]
        lows = [np.concatenate(lows)[stay]] if lows else []
    low, high = star_edges_128(key, np.concatenate(lows), document) if lows else star_edges(key, document)
    write_arrays(task.output, {"low": low, "high": high})
    return {"outputs": [task.output], "edges": len(low)}


@dataclass(frozen=True)
class ComponentsTask:
    """The argument of `components`."""

    stage: str
    edges: tuple[str, ...]
    parts: str  # where the pickled list of all parts lies
    source_names: tuple[str, ...]  # all sources of the run, in order
    earlier: str | None  # decisions of the global stage before, if there is one
    keep_rules: tuple[str, ...]
    sample_seed: int | None  # of the pairs whose similarity is measured; None: copies are equal
    annotate: bool
    verify: bool  # leave the members for verification instead of deciding
    output: str
    has_ids: bool


@dataclass
class Members:
    """Documents that have an edge, sorted by number: what is needed to choose between them."""

    numbers: np.ndarray  # uint64
    roots: np.ndarray  # uint64, the lowest number of the component
    ranks: np.ndarray  # uint64
    sources: np.ndarray  # uint16, index in the run's list of sources
    text_bytes: np.ndarray  # uint32
    alive: np.ndarray  # bool: no earlier stage removes it
    columns: dict[str, np.ndarray]  # float64, for `highest: COLUMN`

    def take(self, chosen: np.ndarray) -> Members:
        """The chosen members (bool or indices)."""
        columns = {name: values[chosen] for name, values in self.columns.items()}
        return Members(
            self.numbers[chosen],
            self.roots[chosen],
            self.ranks[chosen],
            self.sources[chosen],
            self.text_bytes[chosen],
            self.alive[chosen],
            columns,
        )


def components(task: ComponentsTask) -> dict[str, Any]:
    """Join all edges and decide; the result holds counts, the decisions go to `task.output`."""
    joined = Components()
    for path in task.edges:
        file = ArrayFile(path)
        joined.add(file.read("low"), file.read("high"))
    numbers, roots = joined.result()
    del joined
    members = gather(task, numbers, roots)
    order = keep_order(members, task.keep_rules)
    if task.verify:
        place = np.empty(len(order), np.uint64)
        place[order] = np.arange(len(order), dtype=np.uint64)
        # Only living documents are compared; alone in its component, one has nothing to be compared with.
        living = members.take(members.alive)
        place = place[members.alive]
        _, inverse, sizes = np.unique(living.roots, return_inverse=True, return_counts=True)
        several = sizes[inverse] > 1 if len(sizes) else np.zeros(0, bool)
        arrays = {"number": living.numbers[several], "root": living.roots[several], "place": place[several]}
        arrays["starts"] = np.searchsorted(arrays["number"], _part_bounds(load_parts(task.parts)))
        write_arrays(task.output, arrays)
        n_bytes = int(living.text_bytes[several].sum())
        counts = {"members": int(several.sum()), "member_bytes": n_bytes, "component_sizes": histogram(sizes)}
        return {"outputs": [task.output], **counts}
    removed, kept = _all_but_first(members, order)
    return write_decisions(task, removed, kept, None, members)


def gather(task: ComponentsTask, numbers: np.ndarray, roots: np.ndarray) -> Members:
    """Look up what choosing needs, part by part; `numbers` is sorted."""
    n = len(numbers)
    columns = [rule.removeprefix("highest:").strip() for rule in task.keep_rules if rule.startswith("highest:")]
    members = Members(
        numbers,
        roots,
        np.zeros(n, np.uint64),
        np.zeros(n, np.uint16),
        np.zeros(n, np.uint32),
        np.zeros(n, bool),
        {column: np.full(n, np.nan) for column in columns},
    )
    code_of = {name: code for code, name in enumerate(task.source_names)}
    for part in load_parts(task.parts):
        start, stop = number_range(numbers, part)
        if start == stop:
            continue
        rows = (numbers[start:stop] - np.uint64(part.base)).astype(np.int64)
        arrays = part.arrays()
        local = np.array([code_of[name] for name in arrays.meta["sources"]], np.uint16)
        members.ranks[start:stop] = part.ranks(arrays, rows)
        members.sources[start:stop] = local[arrays.read("source")[rows]]
        members.text_bytes[start:stop] = arrays.read("text_bytes")[rows]
        members.alive[start:stop] = arrays.read("removed_by")[rows] == KEPT
        for column in columns:
            if f"column.{column}" in arrays:
                members.columns[column][start:stop] = arrays.read(f"column.{column}")[rows]
    if task.earlier is not None and n:
        gone = ArrayFile(task.earlier).read("removed_so_far")
        members.alive &= ~_contains(gone, numbers)
    return members


def _part_bounds(parts: list[Part]) -> np.ndarray:
    """Numbers of the parts' first documents and the end of the last, uint64[parts + 1]."""
    return np.array([part.base for part in parts] + [parts[-1].base + parts[-1].n_documents], np.uint64)


def _contains(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of `wanted` are in the sorted array `values`."""
    at = np.searchsorted(values, wanted)
    found = at < len(values)
    found[found] = values[at[found]] == wanted[found]
    return found


def keep_order(members: Members, rules: tuple[str, ...]) -> np.ndarray:
    """Indices of the members by component, the living before the removed, the preferred first; ties by rank.

    >>> none = np.zeros(3, np.uint16)
    >>> m = Members(np.arange(3), np.zeros(3), np.arange(3), none, np.array([5, 9, 9]), np.ones(3, bool), {})
    >>> keep_order(m, ("longest", "first")).tolist()
    [1, 2, 0]
    """
    keys: list[np.ndarray] = []
    for rule in rules:
        if rule == "first":
            keys.append(members.numbers)
        elif rule == "longest":
            keys.append(-members.text_bytes.astype(np.int64))
        else:
            values = members.columns[rule.removeprefix("highest:").strip()]
            keys.append(np.where(np.isnan(values), np.inf, -values))
    return np.lexsort((members.numbers, *reversed(keys), ~members.alive, members.roots))


def _all_but_first(members: Members, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices (removed, kept): in each component every living member but the first in order goes."""
    roots = members.roots[order]
    starts = np.concatenate([[True], roots[1:] != roots[:-1]]) if len(order) else np.zeros(0, bool)
    kept = order[np.flatnonzero(starts)][np.cumsum(starts) - 1] if len(order) else order
    gone = ~starts & members.alive[order]
    removed, kept = order[gone], kept[gone]
    by_number = np.argsort(members.numbers[removed])
    return removed[by_number], kept[by_number]


def histogram(sizes: np.ndarray) -> dict[str, int]:
    """How many clusters of two or more documents there are of each size.

    >>> histogram(np.array([2, 1, 3, 2]))
    {'2': 2, '3': 1}
    """
    values, counts = np.unique(sizes[sizes > 1], return_counts=True)
    return {str(size): n for size, n in zip(values.tolist(), counts.tolist(), strict=True)}


def _clusters(task: ComponentsTask, removed: np.ndarray, kept: np.ndarray, members: Members) -> dict[str, Any]:
    """Sizes of the clusters (a kept document and what it stands for), and pairs for a person to look at.

    A pair is [removed number, kept number, documents of the cluster]: the first ones of the largest clusters, and a keyed sample.
    """
    copies = np.bincount(kept, minlength=len(members.numbers))
    sizes = copies + 1
    chosen = []
    for _ in range(LARGEST_CLUSTERS):
        largest = int(np.argmax(copies)) if len(copies) else 0
        if len(copies) and copies[largest]:
            chosen.append(np.flatnonzero(kept == largest)[:_PAIRS_OF_A_LARGEST])
            copies[largest] = 0
    sampled = np.zeros(0, np.int64)
    if task.sample_seed is not None:
        sampled = lowest(task.sample_seed, members.ranks[removed], SAMPLED_PAIRS)

    def pairs(indices: np.ndarray) -> list[list[int]]:
        columns = members.numbers[removed[indices]], members.numbers[kept[indices]], sizes[kept[indices]]
        return [list(pair) for pair in zip(*(column.tolist() for column in columns), strict=True)]

    return {
        "component_sizes": histogram(sizes),
        "largest": pairs(np.concatenate(chosen)) if chosen else [],
        "sampled": pairs(sampled),
    }


def write_decisions(
    task: ComponentsTask, removed: np.ndarray, kept: np.ndarray, similarity: np.ndarray | None, members: Members
) -> dict[str, Any]:
    """Write which members go (`removed`, indices sorted by number) and which one each duplicates (`kept`); count them."""
    copies, n_duplicates, gone_before = _represented(task, members, removed, kept)
    parts = load_parts(task.parts)
    bounds = _part_bounds(parts)
    removed_bounds = np.searchsorted(members.numbers[removed], bounds)
    removed_bytes = np.concatenate([[0], np.cumsum(members.text_bytes[removed], dtype=np.uint64)])
    arrays = {
        # Where each part's documents start in "removed" and in "copies_of", and how much text of it goes.
        "removed_starts": removed_bounds,
        "copies_starts": np.searchsorted(copies, bounds),
        "removed_bytes": np.diff(removed_bytes[removed_bounds]).astype(np.uint64) * np.uint64(not task.annotate),
        "removed": members.numbers[removed],
        "kept": members.numbers[kept],
        "kept_rank": members.ranks[kept],
        "similarity": np.full(len(removed), np.nan, np.float32) if similarity is None else similarity.astype(np.float32),
        "copies_of": copies,
        "n_duplicates": n_duplicates.astype(np.uint32),
        "removed_so_far": gone_before if task.annotate else np.sort(np.concatenate([gone_before, members.numbers[removed]])),
    }
    if task.annotate:
        # A component is named by the rank of the document that is kept for it.
        component = members.ranks.copy()
        component[removed] = members.ranks[kept]
        is_kept = np.ones(len(component), bool)
        is_kept[removed] = False
        alive = members.alive
        arrays |= {"member": members.numbers[alive], "component_rank": component[alive], "is_kept": is_kept[alive]}
        arrays |= {"member_starts": np.searchsorted(members.numbers[alive], bounds)}
    write_arrays(task.output, arrays)
    outputs = [task.output]
    if task.has_ids:
        ids = pa.array(_ids_of(parts, members.numbers[kept]), pa.large_string())
        ranges = zip(removed_bounds[:-1].tolist(), removed_bounds[1:].tolist(), strict=True)
        batches = [pa.record_batch([ids.slice(start, stop - start)], ["id"]) for start, stop in ranges]
        write_ipc(f"{task.output}.ids", pa.schema([("id", pa.large_string())]), batches)
        outputs.append(f"{task.output}.ids")
    counts = _count(task, members, removed, kept)
    if task.annotate:
        counts = {**counts, "removed": {}, "annotated": counts["removed"]}
    return {"outputs": outputs, **counts, **_clusters(task, removed, kept, members)}


def _represented(task: ComponentsTask, members: Members, removed: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, ...]:
    """(kept numbers, documents that each stands for besides itself, numbers removed by earlier global stages).

    A document that an earlier stage kept for its copies hands them on when it is removed now.
    """
    none = np.zeros(0, np.uint64)
    earlier = ArrayFile(task.earlier) if task.earlier else None
    before = earlier.read("copies_of") if earlier else none
    counts = earlier.read("n_duplicates").astype(np.int64) if earlier else np.zeros(0, np.int64)
    weight = np.ones(len(removed), np.int64)
    gone = members.numbers[removed]
    if len(before) and len(gone):
        at = np.minimum(np.searchsorted(before, gone), len(before) - 1)
        weight += np.where(before[at] == gone, counts[at], 0)
    stay = ~np.isin(before, gone) if not task.annotate else np.ones(len(before), bool)
    numbers = np.concatenate([before[stay], members.numbers[kept]])
    weights = np.concatenate([counts[stay], weight])
    unique, inverse = np.unique(numbers, return_inverse=True)
    totals = np.bincount(inverse, weights, len(unique)).astype(np.int64) if len(unique) else np.zeros(0, np.int64)
    return unique, totals, earlier.read("removed_so_far") if earlier else none


def _ids_of(parts: list[Part], numbers: np.ndarray) -> list[str]:
    """The ids of documents by number (any order, repeats allowed)."""
    unique, inverse = np.unique(numbers, return_inverse=True)
    ids: list[str] = []
    for part in parts:
        start, stop = number_range(unique, part)
        if start < stop:
            rows = (unique[start:stop] - np.uint64(part.base)).astype(np.int64)
            ids.extend(part.ids(part.arrays(), rows))
    return [ids[index] for index in inverse.tolist()]


def _count(task: ComponentsTask, members: Members, removed: np.ndarray, kept: np.ndarray) -> dict[str, Any]:
    """Removed documents and bytes by source, and the source x source matrix of who duplicated whom."""
    n = len(task.source_names)
    sizes = members.text_bytes[removed].astype(np.float64)
    source = members.sources[removed].astype(np.int64)
    documents, n_bytes = np.bincount(source, minlength=n), np.bincount(source, sizes, minlength=n)
    pairs = source * n + members.sources[kept]
    matrix, matrix_bytes = np.bincount(pairs, minlength=n * n), np.bincount(pairs, sizes, minlength=n * n)
    names = task.source_names
    return {
        "removed": {names[i]: [int(documents[i]), int(n_bytes[i])] for i in range(n) if documents[i]},
        "matrix": [[names[p // n], names[p % n], int(matrix[p]), int(matrix_bytes[p])] for p in np.flatnonzero(matrix).tolist()],
    }
