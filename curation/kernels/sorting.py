"""Radix sort of 64-bit keys with a value each."""

from __future__ import annotations

import numpy as np

from curation.kernels import kernel

_DIGIT_BITS = 11
_DIGITS = 1 << _DIGIT_BITS


@kernel
def sort_by_key(keys, values, other_keys, other_values):  # type: ignore[no-untyped-def]
    """Sort `keys` uint64[n] and with them `values` uint64[n], stably, lowest digit first; the others are scratch.

    A digit in which all keys agree is skipped, so that numbers below 2^33 take three passes. The result is in keys
    and values.
    """
    n = len(keys)
    counts = np.empty(_DIGITS, np.int64)
    source, target = keys, other_keys
    source_values, target_values = values, other_values
    is_swapped = False
    for shift in range(0, 64, _DIGIT_BITS):
        counts[:] = 0
        for i in range(n):
            counts[np.int64((source[i] >> np.uint64(shift)) & np.uint64(_DIGITS - 1))] += 1
        if n and counts[np.int64((source[0] >> np.uint64(shift)) & np.uint64(_DIGITS - 1))] == n:
            continue
        total = 0
        for bucket in range(_DIGITS):
            count = counts[bucket]
            counts[bucket] = total
            total += count
        for i in range(n):
            digit = np.int64((source[i] >> np.uint64(shift)) & np.uint64(_DIGITS - 1))
            to = counts[digit]
            counts[digit] = to + 1
            target[to] = source[i]
            target_values[to] = source_values[i]
        source, target = target, source
        source_values, target_values = target_values, source_values
        is_swapped = not is_swapped
    if is_swapped:
        target[:] = source
        target_values[:] = source_values
