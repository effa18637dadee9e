"""Which parts become one output file: contiguous ranges, cut on kept bytes alone, so that workers have no say in it."""

from __future__ import annotations

import numpy as np

_SMALLEST_FILE_BYTES = 16 * 2**20
_FILES_OF_A_SMALL_OUTPUT = 4


def group_parts(kept_bytes: np.ndarray, file_bytes: int) -> list[tuple[int, int]]:
    """Ranges [first, last) of parts, each close to an equal share of the estimated compressed `kept_bytes` (float64[n]).

    As many files as make the share come close to `file_bytes`; an output smaller than two such files is cut in up to four
    (of 16 MB or more), so that several workers write it.

    >>> group_parts(np.full(8, 100e6), 224 * 2**20)
    [(0, 2), (2, 4), (4, 6), (6, 8)]
    """
    total = float(kept_bytes.sum())
    n_files = max(1, round(total / file_bytes))
    if n_files < _FILES_OF_A_SMALL_OUTPUT and total < 2 * file_bytes:
        n_files = max(n_files, min(_FILES_OF_A_SMALL_OUTPUT, int(total // _SMALLEST_FILE_BYTES)))
    if not len(kept_bytes):
        return []
    ends = np.cumsum(kept_bytes)
    # A part belongs to the file in whose share its middle lies.
    middles = ends - kept_bytes / 2
    number = np.minimum((middles / max(total, 1.0) * n_files).astype(np.int64), n_files - 1)
    starts = np.flatnonzero(np.concatenate([[True], number[1:] != number[:-1]])).tolist()
    return list(zip(starts, [*starts[1:], len(kept_bytes)], strict=True))


def join_ranges(n_bytes: list[int], file_bytes: int) -> list[tuple[int, int]]:
    """Ranges of consecutive small files to join: as many as stay within `file_bytes` together.

    >>> join_ranges([3, 3, 3, 9, 1], 8)
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    ranges: list[tuple[int, int]] = []
    start, held = 0, 0
    for index, size in enumerate(n_bytes):
        if index > start and held + size > file_bytes:
            ranges.append((start, index))
            start, held = index, 0
        held += size
    if len(n_bytes) > start:
        ranges.append((start, len(n_bytes)))
    return ranges
