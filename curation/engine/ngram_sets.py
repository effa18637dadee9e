"""The true similarity of two texts, as `minhash` sees them."""

from __future__ import annotations

import numpy as np


def ngrams(text: str, unit: str, ngram: int) -> np.ndarray:
    """The n-grams of a text, cleaned as `minhash` cleans it, as sorted 64-bit hashes without repeats: uint64[n]."""
    from curation.kernels.text import clean
    from curation.kernels.verification import ngram_set

    data = np.frombuffer(text.encode(), np.uint8)
    cleaned, offsets, _ = clean(data, np.array([0, len(data)], np.int64))
    return ngram_set(cleaned, offsets, unit, ngram)[0]


def jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """The Jaccard similarity of two sorted sets; 0 when both are empty.

    >>> jaccard(np.array([1, 2, 3]), np.array([2, 3, 4]))
    0.5
    """
    common = len(np.intersect1d(one, other, assume_unique=True))
    union = len(one) + len(other) - common
    return common / union if union else 0.0
