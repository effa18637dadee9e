"""Choosing by a keyed hash: the same documents whoever chooses, and however the input is cut."""

from __future__ import annotations

import numpy as np

_CHUNK = 1 << 20  # documents that are hashed at a time


def mixed(values: np.ndarray) -> np.ndarray:
    """A bijective mix of 64 bits, uint64[n]: the finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    mixed = values.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def keyed_hashes(seed: int, ranks: np.ndarray) -> np.ndarray:
    """Hashes of `ranks` (uint64[n]) that no two ranks share and that another seed orders otherwise, uint64[n]."""
    return mixed(ranks ^ mixed(np.array([seed], np.uint64)))


def lowest(seed: int, ranks: np.ndarray, n: int) -> np.ndarray:
    """Indices of the `n` of `ranks` (uint64) with the lowest hashes, in their order, int64[n] or fewer.

    >>> ranks = np.arange(1000, dtype=np.uint64)
    >>> chosen = lowest(42, ranks, 3)
    >>> np.array_equal(ranks[chosen], np.array(sorted(ranks, key=lambda r: keyed_hashes(42, np.array([r]))[0])[:3]))
    True
    """
    best = np.zeros(0, np.int64)
    for start in range(0, len(ranks), _CHUNK):
        some = np.concatenate([best, np.arange(start, min(start + _CHUNK, len(ranks)))])
        best = some[np.argsort(keyed_hashes(seed, ranks[some]))[:n]]
    return best


def share_limit(share: float) -> np.uint64:
    """The hash up to which documents belong to a sample of `share` of all."""
    return np.uint64(min(int(share * 2.0**64), 2**64 - 1))
