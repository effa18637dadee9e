"""Hashes of byte slices: xxHash's 32-bit hash, the first word of SHA-1, and a 64-bit hash for sets.

A block of n-grams comes either as spans (n-gram k is lengths[k] bytes from data[starts[k]] on; starts int64, lengths
uint32) or, where every character is one byte, as a run (n-gram k is data[start + k : start + k + length]).
"""

from __future__ import annotations

import numpy as np
from numba import uint32, uint64

from curation.kernels import kernel
from curation.kernels.vectors import LANES, load_32, load_64, sha1_block
from curation.kernels.vectors_xxhash import (
    PRIME_1,
    PRIME_2,
    PRIME_3,
    PRIME_4,
    PRIME_5,
    START,
    xxh32_finish,
    xxh32_stripe,
)

_FIFTH = np.uint32(PRIME_5)


@kernel
def _rotated(value, bits):  # type: ignore[no-untyped-def]
    return uint32((uint32(value) << uint32(bits)) | (uint32(value) >> uint32(32 - bits)))


@kernel
def _round(accumulator, word):  # type: ignore[no-untyped-def]
    return uint32(_rotated(uint32(accumulator + word * uint32(PRIME_2)), 13) * uint32(PRIME_1))


@kernel
def _with_word(value, word):  # type: ignore[no-untyped-def]
    return uint32(_rotated(uint32(value + word * uint32(PRIME_3)), 17) * uint32(PRIME_4))


@kernel
def _with_byte(value, byte):  # type: ignore[no-untyped-def]
    return uint32(_rotated(uint32(value + uint32(byte) * uint32(PRIME_5)), 11) * uint32(PRIME_1))


@kernel
def _avalanche(value):  # type: ignore[no-untyped-def]
    value = uint32(uint32(value ^ (value >> uint32(15))) * uint32(PRIME_2))
    value = uint32(uint32(value ^ (value >> uint32(13))) * uint32(PRIME_3))
    return uint32(value ^ (value >> uint32(16)))


@kernel
def murmur_finalizer(value):  # type: ignore[no-untyped-def]
    """MurmurHash3's 32-bit finaliser: datasketch's affine32 scheme mixes every hash with it (datasketch/minhash.py)."""
    value = uint32(uint32(value ^ (value >> uint32(16))) * uint32(0x85EBCA6B))
    value = uint32(uint32(value ^ (value >> uint32(13))) * uint32(0xC2B2AE35))
    return uint32(value ^ (value >> uint32(16)))


@kernel
def xxh32(data, start, stop):  # type: ignore[no-untyped-def]
    """xxHash's 32-bit hash (seed 0) of data[start:stop]."""
    at = start
    if stop - start >= 16:
        v1, v2, v3, v4 = uint32(START[0]), uint32(START[1]), uint32(START[2]), uint32(START[3])
        while at + 16 <= stop:
            v1, v2 = _round(v1, load_32(data, at)), _round(v2, load_32(data, at + 4))
            v3, v4 = _round(v3, load_32(data, at + 8)), _round(v4, load_32(data, at + 12))
            at += 16
        value = uint32(_rotated(v1, 1) + _rotated(v2, 7) + _rotated(v3, 12) + _rotated(v4, 18))
    else:
        value = _FIFTH
    value = uint32(value + uint32(stop - start))
    while at + 4 <= stop:
        value = _with_word(value, load_32(data, at))
        at += 4
    while at < stop:
        value = _with_byte(value, data[at])
        at += 1
    return _avalanche(value)


@kernel
def xxh32_spans(data, starts, lengths, count, state, hashes):  # type: ignore[no-untyped-def]
    """hashes[k] = the mixed xxh32 of span k, 16 spans at a time. Scratch: state uint32[4 * 16].

    starts, lengths and hashes have room for `count` rounded up to 16.
    """
    if count == 0:
        return
    for k in range(count, count + (-count) % LANES):
        starts[k], lengths[k] = starts[0], 0
    if starts[count - 1] + np.int64(lengths[count - 1]) + LANES > len(data):  # the last spans end where the data end
        for k in range(count):
            hashes[k] = murmur_finalizer(xxh32(data, starts[k], starts[k] + np.int64(lengths[k])))
        return
    for first in range(0, count, LANES):
        longest = uint32(0)
        for k in range(first, first + LANES):
            longest = max(longest, lengths[k])
        for row in range(4):
            state[row * LANES : (row + 1) * LANES] = START[row]
        for stripe in range(longest >> uint32(4)):
            xxh32_stripe(data, starts, lengths, first, uint32(stripe), state)
        xxh32_finish(data, starts, lengths, first, state, hashes)


@kernel
def xxh32_run(data, start, length, count, words, sums, hashes):  # type: ignore[no-untyped-def]
    """hashes[k] = the mixed xxh32 of data[start + k : start + k + length] for k < count.

    Each step is a loop over k, which vectorises.

    Scratch: words uint32[count + length], sums uint32[4, count].
    """
    text = data[start : start + count + length - 1]
    for k in range(len(text) - 3):
        low = uint32(text[k]) | (uint32(text[k + 1]) << uint32(8))
        words[k] = uint32(low | (uint32(text[k + 2]) << uint32(16)) | (uint32(text[k + 3]) << uint32(24)))
    done = 0
    if length >= 16:
        n_stripes = length // 16
        for lane in range(4):
            sums[lane, :count] = START[lane]
            total = sums[lane]
            for stripe in range(n_stripes):
                some = words[16 * stripe + 4 * lane :]
                for k in range(count):
                    total[k] = _round(total[k], some[k])
        for k in range(count):
            total = (
                _rotated(sums[0, k], 1) + _rotated(sums[1, k], 7) + _rotated(sums[2, k], 12) + _rotated(sums[3, k], 18)
            )
            hashes[k] = uint32(uint32(total) + uint32(length))
        done = 16 * n_stripes
    else:
        for k in range(count):
            hashes[k] = uint32(_FIFTH + uint32(length))
    while done + 4 <= length:
        some = words[done:]
        for k in range(count):
            hashes[k] = _with_word(hashes[k], some[k])
        done += 4
    while done < length:
        tail = text[done:]
        for k in range(count):
            hashes[k] = _with_byte(hashes[k], tail[k])
        done += 1
    for k in range(count):
        hashes[k] = murmur_finalizer(_avalanche(hashes[k]))


@kernel
def _swapped(word):  # type: ignore[no-untyped-def]
    word = uint32(word)
    high = (word << uint32(24)) | ((word & uint32(0xFF00)) << uint32(8))
    return uint32(high | ((word >> uint32(8)) & uint32(0xFF00)) | (word >> uint32(24)))


@kernel
def _sha1_word(data, start, length, block, t):  # type: ignore[no-untyped-def]
    """Word t of a block of the padded message: the bytes, 0x80, zeros, and the length in bits in the last 64 bits."""
    at = 64 * block + 4 * t
    if at + 4 <= length:
        return _swapped(load_32(data, start + at))
    if at <= length:
        tail = uint32(0x80) << uint32(24 - 8 * (length - at))
        for byte in range(length - at):
            tail |= uint32(data[start + at + byte]) << uint32(24 - 8 * byte)
        return uint32(tail)
    is_last = block == (length + 8) // 64
    if is_last and t == 14:
        return uint32(length >> 29)
    if is_last and t == 15:
        return uint32(length << 3)
    return uint32(0)


@kernel
def sha1_spans(data, starts, lengths, count, state, words, active, hashes):  # type: ignore[no-untyped-def]
    """hashes[k] = the first four bytes of span k's SHA-1, little-endian; 16 spans at a time.

    Scratch: state uint32[5 * 16], words uint32[16 * 16], active uint32[16].
    """
    for first in range(0, count, LANES):
        lanes = min(LANES, count - first)
        most_blocks = np.int64(0)
        for lane in range(lanes):
            n_blocks = (np.int64(lengths[first + lane]) + 8) // 64 + 1
            most_blocks = n_blocks if n_blocks > most_blocks else most_blocks
        for lane in range(LANES):
            state[lane] = 0x67452301
            state[LANES + lane] = 0xEFCDAB89
            state[2 * LANES + lane] = 0x98BADCFE
            state[3 * LANES + lane] = 0x10325476
            state[4 * LANES + lane] = 0xC3D2E1F0
        for block in range(most_blocks):
            for lane in range(lanes):
                start, length = starts[first + lane], np.int64(lengths[first + lane])
                active[lane] = 0xFFFFFFFF if block <= (length + 8) // 64 else 0
                for t in range(16):
                    words[t * LANES + lane] = _sha1_word(data, start, length, block, t)
            sha1_block(state, words, active)
        for lane in range(lanes):
            hashes[first + lane] = _swapped(state[lane])


@kernel
def mixed_64(value):  # type: ignore[no-untyped-def]
    """A bijective mix of 64 bits: the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    value = uint64(value)
    value = uint64((value ^ (value >> uint64(30))) * uint64(0xBF58476D1CE4E5B9))
    value = uint64((value ^ (value >> uint64(27))) * uint64(0x94D049BB133111EB))
    return uint64(value ^ (value >> uint64(31)))


@kernel
def hash_64(data, start, stop):  # type: ignore[no-untyped-def]
    """A 64-bit hash of data[start:stop]: eight bytes at a time through a bijective mix, the length first."""
    value = uint64(uint64(stop - start) * uint64(0x9E3779B97F4A7C15))
    at = start
    while at + 8 <= stop:
        value = mixed_64(uint64(value ^ load_64(data, at)))
        value = uint64(value + uint64(0x9E3779B97F4A7C15))
        at += 8
    if at < stop:
        tail = uint64(0)
        while at < stop:
            tail = uint64(uint64(tail << uint64(8)) | uint64(data[at]))
            at += 1
        value = mixed_64(uint64(value ^ tail))
    return mixed_64(value)
