"""MinHash signatures, bit-identical to datasketch 2's, and the band hashes of locality-sensitive hashing.

Per n-gram: a 32-bit hash of its UTF-8 bytes (xxHash for `affine32`, SHA-1's first four bytes for `legacy`), then each
permutation of that hash, of which a signature holds the minimum over the n-grams.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numba import uint32, uint64

from curation.kernels import kernel, read_only
from curation.kernels.hashing import mixed_64, sha1_spans, xxh32_run, xxh32_spans
from curation.kernels.text import clean
from curation.kernels.units import GRAMS_PER_BLOCK, is_ascii, is_word_unit, keep_rest, spans, unit_starts
from curation.kernels.vectors import LANES, minimum_of_1, minimum_of_8

SCHEMES = ("affine32", "legacy")
MAXIMUM_HASH = np.uint32(0xFFFFFFFF)  # what an empty set leaves in every slot
_MERSENNE_PRIME = np.uint64((1 << 61) - 1)


@dataclass(frozen=True, eq=False)
class Permutations:
    """Constants of a MinHash: multiplier * hash + offset, uint32[used] each for affine32, uint64[used] for legacy."""

    scheme: str
    multipliers: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.multipliers)


@functools.lru_cache(maxsize=64)
def permutations(n: int, seed: int, scheme: str, used: int) -> Permutations:
    """Draw `n` permutations as datasketch 2 does (minhash.py) and keep the first `used`.

    All `n` are drawn first: the multipliers of 128 affine32 permutations are a prefix of those of 256, the offsets
    are not. Raises ValueError for an unknown scheme or when `used` is not within 1 to `n`.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"scheme {scheme!r} is none of {', '.join(SCHEMES)}")
    if not 1 <= used <= n:
        raise ValueError(f"{used} of {n} permutations cannot be used; ask for 1 to {n}")
    generator = np.random.RandomState(seed)
    if scheme == "affine32":
        multipliers = generator.randint(0, 2**31, n, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        offsets = generator.randint(0, 2**32, n, dtype=np.uint32)
    else:
        prime = int(_MERSENNE_PRIME)
        pairs = [
            (generator.randint(1, prime, dtype=np.uint64), generator.randint(0, prime, dtype=np.uint64))
            for _ in range(n)
        ]
        multipliers, offsets = np.array(pairs, np.uint64).T
    return Permutations(
        scheme, read_only(multipliers[:used], multipliers.dtype), read_only(offsets[:used], offsets.dtype)
    )


@kernel
def lower_minimum(hashes, count, multipliers, offsets, best):  # type: ignore[no-untyped-def]
    """best[p] = min(best[p], multipliers[p] * hashes[k] + offsets[p] mod 2^32) over k < count.

    Eight hashes a pass, so that multipliers, offsets and minima are loaded once for eight. Lengths are multiples of 16.
    """
    whole = count - count % 8
    for k in range(0, whole, 8):
        for lane in range(0, len(best), LANES):
            minimum_of_8(best, multipliers, offsets, lane, hashes, k)
    for k in range(whole, count):
        for lane in range(0, len(best), LANES):
            minimum_of_1(best, multipliers, offsets, lane, hashes, k)


@kernel
def lower_minimum_legacy(hashes, count, multipliers, offsets, best):  # type: ignore[no-untyped-def]
    """The same for ((multiplier * hash + offset mod 2^64) mod (2^61 - 1)) mod 2^32: it wraps, as datasketch's does.

    x = high * 2^61 + low is high + low modulo 2^61 - 1, at most 6 more than it, so a single subtraction is left:
    it adds 1 to the low 32 bits, since those of 2^61 - 1 are all ones.
    """
    for k in range(count):
        value = uint64(hashes[k])
        for p in range(len(best)):
            product = uint64(uint64(multipliers[p] * value) + offsets[p])
            folded = uint64((product & _MERSENNE_PRIME) + (product >> uint64(61)))
            folded = uint64(folded + ((folded + uint64(1)) >> uint64(61)))
            best[p] = min(best[p], uint32(folded))


@kernel
def _sign_affine32(data, offsets, is_word, ngram, multipliers, constants, signatures, n_grams):  # type: ignore[no-untyped-def]
    capacity = GRAMS_PER_BLOCK + ngram
    starts, lengths = np.empty(capacity + LANES, np.int64), np.empty(GRAMS_PER_BLOCK + LANES, np.uint32)
    words, sums = np.empty(capacity, np.uint32), np.empty((4, GRAMS_PER_BLOCK), np.uint32)
    state, hashes = np.empty(4 * LANES, np.uint32), np.empty(GRAMS_PER_BLOCK + LANES, np.uint32)
    best = np.empty(len(multipliers), np.uint32)
    for row in range(len(offsets) - 1):
        at, stop = offsets[row], offsets[row + 1]
        best[:] = MAXIMUM_HASH
        total = 0
        if not is_word and is_ascii(data, at, stop):
            total = max(stop - at - ngram + 1, 0)
            for first in range(0, total, GRAMS_PER_BLOCK):
                count = min(GRAMS_PER_BLOCK, total - first)
                xxh32_run(data, at + first, ngram, count, words, sums, hashes)
                lower_minimum(hashes, count, multipliers, constants, best)
        elif at < stop:
            filled = 0
            while at <= stop:
                at, filled = unit_starts(data, at, stop, is_word, starts, filled, capacity)
                count = spans(starts, filled, is_word, ngram, lengths)
                if (
                    not is_word and starts[filled - 1] - starts[0] == filled - 1
                ):  # this block of a non-ASCII text is ASCII
                    xxh32_run(data, starts[0], ngram, count, words, sums, hashes)
                else:
                    xxh32_spans(data, starts, lengths, count, state, hashes)
                lower_minimum(hashes, count, multipliers, constants, best)
                total += count
                filled = keep_rest(starts, filled, count)
        n_grams[row] = total
        signatures[row] = best[: signatures.shape[1]]


@kernel
def _sign_legacy(data, offsets, is_word, ngram, multipliers, constants, signatures, n_grams):  # type: ignore[no-untyped-def]
    capacity = GRAMS_PER_BLOCK + ngram
    starts, lengths = np.empty(capacity, np.int64), np.empty(GRAMS_PER_BLOCK, np.uint32)
    state, words = np.empty(5 * LANES, np.uint32), np.zeros(16 * LANES, np.uint32)
    active, hashes = np.zeros(LANES, np.uint32), np.empty(GRAMS_PER_BLOCK, np.uint32)
    best = np.empty(len(multipliers), np.uint32)
    for row in range(len(offsets) - 1):
        at, stop = offsets[row], offsets[row + 1]
        best[:] = MAXIMUM_HASH
        total = 0
        filled = 0
        while at <= stop and offsets[row] < stop:
            at, filled = unit_starts(data, at, stop, is_word, starts, filled, capacity)
            count = spans(starts, filled, is_word, ngram, lengths)
            sha1_spans(data, starts, lengths, count, state, words, active, hashes)
            lower_minimum_legacy(hashes, count, multipliers, constants, best)
            total += count
            filled = keep_rest(starts, filled, count)
        n_grams[row] = total
        signatures[row] = best[: signatures.shape[1]]


def sign(
    data: np.ndarray, offsets: np.ndarray, *, unit: str, ngram: int, permutations: Permutations
) -> tuple[np.ndarray, np.ndarray]:
    """Signatures of cleaned texts (see `text.clean`): (uint32[n, used], n-grams of each int64[n]), repeats counted.

    data uint8[total] and offsets int64[n + 1]: valid UTF-8. A text with fewer than `ngram` units leaves every slot at
    2^32 - 1.
    """
    is_word = is_word_unit(unit, ngram)
    n = len(offsets) - 1
    signatures, n_grams = np.empty((n, len(permutations)), np.uint32), np.empty(n, np.int64)
    run = _sign_affine32 if permutations.scheme == "affine32" else _sign_legacy
    multipliers, constants = (_padded(values) for values in (permutations.multipliers, permutations.offsets))
    run(
        read_only(data, np.uint8),
        read_only(offsets, np.int64),
        is_word,
        ngram,
        multipliers,
        constants,
        signatures,
        n_grams,
    )
    return signatures, n_grams


def _padded(values: np.ndarray) -> np.ndarray:
    """The values, filled up with zeros to a multiple of 16."""
    return read_only(np.concatenate([values, np.zeros(-len(values) % LANES, values.dtype)]), values.dtype)


def signatures(
    texts: list[str],
    ngram: int = 13,
    num_perm: int = 128,
    seed: int = 1,
    scheme: str = "affine32",
    unit: str = "character",
) -> np.ndarray:
    """The MinHash signatures of texts, cleaned as SlimPajama cleans them: uint32[len(texts), num_perm].

    Equal to datasketch 2's `MinHash(num_perm, seed, hashfunc=xxhash.xxh32_intdigest)`, or with scheme `legacy` to its
    `MinHash(num_perm, seed, scheme="legacy")`, over the n-grams' UTF-8 bytes; n-grams are `ngram` characters, or
    words joined by a space. Without an n-gram all slots are 2^32 - 1. Raises ValueError for an unknown scheme or unit
    and for lone surrogates.
    """
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    data, offsets, _ = clean(np.frombuffer(b"".join(encoded), np.uint8), offsets)
    return sign(
        data, offsets, unit=unit, ngram=ngram, permutations=permutations(num_perm, seed, scheme, used=num_perm)
    )[0]


@kernel
def _band_hashes(signatures, bands, rows, keys):  # type: ignore[no-untyped-def]
    for i in range(len(signatures)):
        for band in range(bands):
            value = mixed_64(uint64(band + 1))
            for row in range(band * rows, (band + 1) * rows):
                value = mixed_64(uint64(value ^ uint64(signatures[i, row])) + uint64(0x9E3779B97F4A7C15))
            keys[i, band] = value


def band_hashes(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """A 64-bit hash of each band (slots band * rows to (band + 1) * rows) of uint32[n, slots]: uint64[n, bands].

    The band's number enters the hash, so that equal rows in different bands do not meet.
    """
    if bands * rows > signatures.shape[1]:
        raise ValueError(
            f"{bands} bands of {rows} rows need {bands * rows} slots, and the signatures have {signatures.shape[1]}"
        )
    keys = np.empty((len(signatures), bands), np.uint64)
    _band_hashes(read_only(signatures, np.uint32), bands, rows, keys)
    return keys


def compile_kernels() -> None:
    """Compile the kernels of this module."""
    text = "words of a предложение".encode()
    data, offsets = np.frombuffer(text, np.uint8), np.array([0, len(text)], np.int64)
    for scheme in SCHEMES:
        drawn = permutations(LANES, 1, scheme, used=LANES)
        signed, _ = sign(data, offsets, unit="character", ngram=5, permutations=drawn)
        band_hashes(signed, 2, 8)
