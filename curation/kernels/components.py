"""From records that share a key to connected components: star edges, and a union-find."""

from __future__ import annotations

import numpy as np

from curation.kernels import kernel, read_only
from curation.kernels.hashing import mixed_64
from curation.kernels.sorting import sort_by_key

_MAXIMUM_MEMBERS = 2**31 - 1


@kernel
def _stars(keys, documents, lows, highs):  # type: ignore[no-untyped-def]
    """Edges from the lowest document of each run of equal keys to its others; the number of edges."""
    n, n_edges, start = len(keys), 0, 0
    while start < n:
        stop = start + 1
        lowest = documents[start]
        while stop < n and keys[stop] == keys[start]:
            lowest = min(lowest, documents[stop])
            stop += 1
        if stop > start + 1:
            for i in range(start, stop):
                if documents[i] != lowest:
                    lows[n_edges], highs[n_edges] = lowest, documents[i]
                    n_edges += 1
        start = stop
    return n_edges


@kernel
def _distinct(lows, highs):  # type: ignore[no-untyped-def]
    """Drop repeated neighbours in place; how many pairs are left."""
    n = 0
    for i in range(len(lows)):
        if n == 0 or lows[i] != lows[n - 1] or highs[i] != highs[n - 1]:
            lows[n], highs[n] = lows[i], highs[i]
            n += 1
    return n


def star_edges(key: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every key that several documents share, edges from the lowest of them to the others: (low, high), uint64.

    key uint64[n], document uint64[n], in any order. Pairs are distinct and sorted, so they do not depend on that
    order. A key of m documents gives m - 1 edges, never m(m - 1)/2: the components are the same. Memory: 40 bytes a
    record besides the arguments, and 32 an edge.

    >>> star_edges(np.array([7, 7, 7, 1], np.uint64), np.array([5, 2, 9, 2], np.uint64))
    (array([2, 2], dtype=uint64), array([5, 9], dtype=uint64))
    """
    order = np.argsort(key)  # not a stable sort: the lowest document is looked for, and pairs are sorted afterwards
    return _edges(key[order], document[order])


def star_edges_128(key: np.ndarray, low_half: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`star_edges` for keys of 128 bits, given as two uint64[n]."""
    order = np.argsort(key)
    keys, halves = key[order], low_half[order]
    if ((keys[1:] == keys[:-1]) & (halves[1:] != halves[:-1])).any():  # next to never with hashes, and slower
        order = np.lexsort((low_half, key))
        keys, halves = key[order], low_half[order]
        # Number the keys, so that a run of equal numbers is a run of equal keys.
        keys[1:] = np.cumsum((keys[1:] != keys[:-1]) | (halves[1:] != halves[:-1]), dtype=np.uint64)
        keys[0] = 0
    return _edges(keys, document[order])


def _edges(keys: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct, sorted star edges of records in which equal keys stand together."""
    keys, documents = keys.astype(np.uint64, copy=False), documents.astype(np.uint64, copy=False)
    lows, highs = np.empty_like(keys), np.empty_like(documents)
    return _sorted_pairs(lows, highs, _stars(keys, documents, lows, highs))


def _sorted_pairs(lows: np.ndarray, highs: np.ndarray, n_edges: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `n_edges` pairs, sorted and without repeats."""
    lows, highs = lows[:n_edges].copy(), highs[:n_edges].copy()
    scratch, other = np.empty_like(lows), np.empty_like(highs)
    sort_by_key(highs, lows, scratch, other)
    sort_by_key(lows, highs, scratch, other)
    n_distinct = _distinct(lows, highs)
    return lows[:n_distinct].copy(), highs[:n_distinct].copy()


@kernel
def _slot_of(number, numbers, slots):  # type: ignore[no-untyped-def]
    """The slot that holds the member `number`, or the free one where it belongs."""
    mask = len(slots) - 1
    slot = np.int64(mixed_64(number) & np.uint64(mask))
    while slots[slot] >= 0 and numbers[slots[slot]] != number:
        slot = (slot + 1) & mask
    return slot


@kernel
def _rehash(numbers, n_members, slots):  # type: ignore[no-untyped-def]
    for member in range(n_members):
        slots[_slot_of(numbers[member], numbers, slots)] = member


@kernel
def _root(parents, member):  # type: ignore[no-untyped-def]
    while parents[member] != member:
        parents[member] = parents[parents[member]]
        member = parents[member]
    return member


@kernel
def _join(lows, highs, numbers, parents, slots, n_members):  # type: ignore[no-untyped-def]
    """Add edges; new documents become members. A component's root has its lowest number. Returns the members."""
    ends = np.empty(2, np.int64)
    for edge in range(len(lows)):
        for side in range(2):
            number = lows[edge] if side == 0 else highs[edge]
            slot = _slot_of(number, numbers, slots)
            if slots[slot] < 0:
                slots[slot] = n_members
                numbers[n_members], parents[n_members] = number, n_members
                n_members += 1
            ends[side] = _root(parents, slots[slot])
        first, second = ends[0], ends[1]
        if first != second:
            if numbers[first] < numbers[second]:
                parents[second] = first
            else:
                parents[first] = second
    return n_members


@kernel
def _lowest(numbers, parents, roots):  # type: ignore[no-untyped-def]
    for member in range(len(numbers)):
        roots[member] = numbers[_root(parents, member)]


class Components:
    """Union-find over document numbers that need not be dense and need not be known beforehand.

    Edges are used and forgotten. Memory for each document that has an edge: 12 bytes (number and parent) in arrays
    that grow by half, and 8 to 16 bytes of hash table (4 a slot); at most 42 in all while they grow, 50 in `result`,
    which drops the table.
    """

    _EDGES_AT_ONCE = 1 << 18

    def __init__(self) -> None:
        self._n_members = 0
        self._numbers = np.empty(0, np.uint64)
        self._parents = np.empty(0, np.int32)
        self._slots = np.empty(0, np.int32)

    def add(self, low: np.ndarray, high: np.ndarray) -> None:
        """Join the documents of each edge (uint64[n] both). Raises ValueError past 2^31 - 1 documents."""
        for start in range(0, len(low), self._EDGES_AT_ONCE):
            lows, highs = (read_only(ends[start : start + self._EDGES_AT_ONCE], np.uint64) for ends in (low, high))
            self._make_room(2 * len(lows))
            self._n_members = _join(lows, highs, self._numbers, self._parents, self._slots, self._n_members)

    def _make_room(self, n_new: int) -> None:
        """Let `n_new` more members fit, in the table at a load of at most a half."""
        needed = self._n_members + n_new
        if needed > _MAXIMUM_MEMBERS:
            raise ValueError(
                f"{needed} documents with duplicates are more than one process joins; split the input into several runs"
            )
        if needed > len(self._numbers):
            capacity = max(needed, len(self._numbers) * 3 // 2)
            self._numbers = _grown(self._numbers, capacity)
            self._parents = _grown(self._parents, capacity)
        if 2 * needed > len(self._slots):
            self._slots = np.full(1 << (2 * needed - 1).bit_length(), -1, np.int32)
            _rehash(self._numbers, self._n_members, self._slots)

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of the documents with an edge, sorted; the lowest number in each one's component), both uint64."""
        self._slots = np.empty(0, np.int32)  # made again when more edges come
        numbers = self._numbers[: self._n_members].copy()
        roots = np.empty_like(numbers)
        _lowest(numbers, self._parents[: self._n_members], roots)
        scratch, other = np.empty_like(numbers), np.empty_like(numbers)
        sort_by_key(numbers, roots, scratch, other)
        return numbers, roots


def _grown(values: np.ndarray, capacity: int) -> np.ndarray:
    grown = np.empty(capacity, values.dtype)
    grown[: len(values)] = values
    return grown


def compile_kernels() -> None:
    """Compile the kernels of this module."""
    numbers = np.array([3, 1], np.uint64)
    components = Components()
    components.add(*star_edges(np.zeros(2, np.uint64), numbers))
    components.result()
