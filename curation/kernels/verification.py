"""True similarity: n-gram sets of cleaned texts, and the greedy cover that keeps what resembles nothing kept before."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from curation.kernels import kernel, read_only
from curation.kernels.hashing import hash_64
from curation.kernels.units import GRAMS_PER_BLOCK, is_word_unit, keep_rest, spans, unit_starts


@kernel
def _count_units(data, offsets, is_word, counts):  # type: ignore[no-untyped-def]
    for row in range(len(offsets) - 1):
        units = 1 if is_word and offsets[row] < offsets[row + 1] else 0
        for at in range(offsets[row], offsets[row + 1]):
            units += data[at] == 0x20 if is_word else (data[at] & 0xC0) != 0x80
        counts[row] = units


@kernel
def _hash_grams(data, offsets, is_word, ngram, hashes, hash_offsets):  # type: ignore[no-untyped-def]
    capacity = GRAMS_PER_BLOCK + ngram
    starts, lengths = np.empty(capacity, np.int64), np.empty(GRAMS_PER_BLOCK, np.uint32)
    for row in range(len(offsets) - 1):
        at, stop, to = offsets[row], offsets[row + 1], hash_offsets[row]
        filled = 0
        while at <= stop and to < hash_offsets[row + 1]:
            at, filled = unit_starts(data, at, stop, is_word, starts, filled, capacity)
            count = spans(starts, filled, is_word, ngram, lengths)
            for k in range(count):
                hashes[to + k] = hash_64(data, starts[k], starts[k] + np.int64(lengths[k]))
            to += count
            filled = keep_rest(starts, filled, count)


@kernel
def _without_repeats(hashes, offsets, set_offsets):  # type: ignore[no-untyped-def]
    """Move the distinct values of each sorted slice to the front, in place; set_offsets[row + 1] is where they end."""
    to = 0
    for row in range(len(offsets) - 1):
        start = to
        for at in range(offsets[row], offsets[row + 1]):
            if to == start or hashes[at] != hashes[to - 1]:
                hashes[to] = hashes[at]
                to += 1
        set_offsets[row + 1] = to


def ngram_set(data: np.ndarray, offsets: np.ndarray, unit: str, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """The sets of n-grams of cleaned texts as sorted 64-bit hashes without repeats: (uint64[total], int64[n + 1]).

    data uint8[total] and offsets int64[n + 1] as `sign` takes them. Memory: 8 bytes an n-gram of all texts together.
    """
    is_word = is_word_unit(unit, ngram)
    data, offsets = read_only(data, np.uint8), read_only(offsets, np.int64)
    counts = np.zeros(len(offsets), np.int64)
    _count_units(data, offsets, is_word, counts[1:])
    hash_offsets = np.cumsum(np.maximum(counts - (ngram - 1), 0))
    hashes = np.empty(hash_offsets[-1], np.uint64)
    _hash_grams(data, offsets, is_word, ngram, hashes, hash_offsets)
    bounds = hash_offsets.tolist()
    for start, stop in pairwise(bounds):
        hashes[start:stop].sort()  # NumPy sorts 64-bit numbers with vector instructions
    set_offsets = np.zeros(len(offsets), np.int64)
    _without_repeats(hashes, hash_offsets, set_offsets)
    return hashes[: set_offsets[-1]], set_offsets


@kernel
def _common(sets, i, i_stop, j, j_stop, needed):  # type: ignore[no-untyped-def]
    """How many values two sorted slices share; -1 as soon as `needed` is out of reach."""
    common = 0
    while i < i_stop and j < j_stop:
        if common + min(i_stop - i, j_stop - j) < needed:
            return -1
        for _ in range(32):
            if i >= i_stop or j >= j_stop:
                break
            a, b = sets[i], sets[j]
            common += a == b
            i += a <= b
            j += b <= a
    return common


@kernel
def _similarity(sets, offsets, a, b, threshold):  # type: ignore[no-untyped-def]
    """The Jaccard similarity of two sets, or -1 when it is below the threshold."""
    size_a, size_b = offsets[a + 1] - offsets[a], offsets[b + 1] - offsets[b]
    # Jaccard >= t needs t * max <= min, and an intersection of t / (1 + t) * (|a| + |b|). The bounds are a little
    # loose because of rounding; the quotient decides.
    if min(size_a, size_b) < threshold * max(size_a, size_b) - 1e-6 or min(size_a, size_b) == 0:
        return -1.0
    needed = np.int64(np.ceil(threshold / (1.0 + threshold) * (size_a + size_b) - 1e-6))
    common = _common(sets, offsets[a], offsets[a + 1], offsets[b], offsets[b + 1], needed)
    if common < 0:
        return -1.0
    similarity = common / (size_a + size_b - common)
    return similarity if similarity >= threshold else -1.0


@kernel
def _cover(order, buckets, n_buckets, sets, offsets, threshold, maximum, kept_by, similarity):  # type: ignore[no-untyped-def]
    """Each bucket is a linked list of retained documents in keep order, by their places: entry place * bands + band."""
    n, bands = buckets.shape
    first, last = np.full(n_buckets, -1, np.int64), np.full(n_buckets, -1, np.int64)
    following = np.full(n * bands, -1, np.int64)
    cursors = np.empty(bands, np.int64)
    past_limit = 0
    for place in range(n):
        document = order[place]
        for band in range(bands):
            cursors[band] = first[buckets[document, band]]
        comparisons = 0
        while True:
            nearest = n
            for band in range(bands):
                if cursors[band] >= 0:
                    nearest = min(nearest, cursors[band] // bands)
            if nearest == n:
                break
            if comparisons == maximum:
                past_limit += 1
                break
            for band in range(bands):
                while cursors[band] >= 0 and cursors[band] // bands == nearest:
                    cursors[band] = following[cursors[band]]
            comparisons += 1
            found = _similarity(sets, offsets, document, order[nearest], threshold)
            if found >= 0:
                kept_by[document], similarity[document] = order[nearest], found
                break
        if kept_by[document] >= 0:
            continue
        for band in range(bands):
            bucket, entry = buckets[document, band], place * bands + band
            if last[bucket] >= 0:
                following[last[bucket]] = entry
            else:
                first[bucket] = entry
            last[bucket] = entry
    return past_limit


def greedy_cover(
    order: np.ndarray,
    keys: np.ndarray,
    sets: np.ndarray,
    offsets: np.ndarray,
    threshold: float,
    maximum_comparisons: int,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Walk documents in keep order; one goes when a retained one that shares a key is truly similar to `threshold`.

    order int64[n]: documents, the preferred first. keys uint64[n, bands]: the document's band hashes. sets, offsets:
    its n-grams (see `ngram_set`). Returns kept_by int64[n] (-1: it stays; else the first retained document in keep
    order, among those with a key in common, whose Jaccard similarity with it is >= threshold), that similarity
    float32[n] (NaN where it stays), and how many stayed because more than `maximum_comparisons` retained documents
    share a key with them: those are compared with the first `maximum_comparisons` only. Memory besides the arguments:
    32 bytes a key.
    """
    n = len(order)
    kept_by, similarity = np.full(n, -1, np.int64), np.full(n, np.nan, np.float32)
    if not n:
        return kept_by, similarity, 0
    distinct, buckets = np.unique(keys, return_inverse=True)
    past_limit = _cover(
        read_only(order, np.int64),
        read_only(buckets.reshape(keys.shape), np.int64),
        len(distinct),
        read_only(sets, np.uint64),
        read_only(offsets, np.int64),
        float(threshold),
        int(maximum_comparisons),
        kept_by,
        similarity,
    )
    return kept_by, similarity, int(past_limit)


def compile_kernels() -> None:
    """Compile the kernels of this module."""
    sets, offsets = ngram_set(np.frombuffer(b"text", np.uint8), np.array([0, 4], np.int64), "character", 2)
    greedy_cover(np.zeros(1, np.int64), np.zeros((1, 1), np.uint64), sets, offsets, 0.8, 1)
